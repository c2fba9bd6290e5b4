"""One attempt at one episode with a frame at every control step, as `vla collect` runs it in each worker process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.contract import CONTROL_FREQUENCY, Split, Suite
from sim.pool.worker import EpisodeRequest, load_factory
from vla.data.staging import stage_episode
from vla.data.video import PixelFormat
from vla.rollout.actors import EXPERT, RANDOM, ActionNoise, Actor, Paced, Random
from vla.rollout.play import Player
from vla.rollout.requests import RolloutRequest


@dataclass(frozen=True)
class Attempt:
    """One episode to try."""

    task_id: int
    number: int
    """Counts the attempts at this task from 0; fixes the initial state and every random draw."""

    @property
    def key(self) -> str:
        """Name in the staging folder; sorts by task, then attempt."""
        return f"task-{self.task_id:04d}-attempt-{self.number:06d}"

    def seed(self, base: int) -> int:
        """Seed of this attempt's expert and noise, independent between attempts, below 2**31."""
        return int(np.random.SeedSequence([base, self.task_id, self.number]).generate_state(1)[0] >> 1)

    def wanted(self, suite: Suite, split: Split, base: int) -> RolloutRequest:
        """The episode and its seed; initial states take turns."""
        state = self.number % suite.num_init_states(self.task_id, split)
        return RolloutRequest(EpisodeRequest(self.task_id, split, state), self.seed(base))


@dataclass(frozen=True)
class AttemptSettings:
    """What all attempts of one collection share."""

    factory: str
    """Import path of `(suite name, image size) -> Suite`."""
    suite: str
    image_size: int
    policy: str
    """ "expert" or "random"."""
    split: Split
    seed: int
    pace: float | None
    action_noise: float
    pixel_format: PixelFormat
    staging: Path


class AttemptRunner(Player):
    """Makes attempts one after another."""

    def __init__(self, settings: AttemptSettings) -> None:
        super().__init__(load_factory(settings.factory)(settings.suite, settings.image_size))
        self._settings = settings

    def run(self, job: Attempt, restarted: bool = False) -> bool:
        """Play one episode; stage it and return True if it is a success, or a random policy's.

        `restarted` marks an episode whose worker died before. Raises `EnvironmentRequestError` when the suite cannot
        serve the task, `ReflexError` when the disk is full.
        """
        settings = self._settings
        wanted = job.wanted(self.suite, settings.split, settings.seed)
        generator = np.random.default_rng(wanted.seed)
        actor: Actor = Random(generator)
        if settings.policy == EXPERT:
            actor = self.suite.make_expert(job.task_id, wanted.seed)
        if settings.pace is not None:
            actor = Paced(actor, settings.pace)
        episode = self.play(
            wanted,
            actor,
            settings.policy,
            worker_restarted=restarted,
            frame_stride=1,
            disturb=ActionNoise(generator, settings.action_noise),
        )
        kept = episode.success or settings.policy == RANDOM
        if kept:
            size = self.suite.image_size
            stage_episode(settings.staging, job.key, episode, size, CONTROL_FREQUENCY, settings.pixel_format)
        return kept
