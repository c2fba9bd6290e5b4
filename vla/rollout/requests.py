"""Which episode to play, and with which seed."""

from __future__ import annotations

from dataclasses import dataclass

from sim.pool.worker import EpisodeRequest


@dataclass(frozen=True)
class RolloutRequest:
    """One episode to play, and the seed of whoever acts: of a policy's sampling, of an expert's variation."""

    request: EpisodeRequest
    seed: int
