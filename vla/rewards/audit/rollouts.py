"""Rollouts to audit a reward on: of every kind that a reward must tell apart, with the progress that is true of them.

| kind | what happens | true progress |
|---|---|---|
| success | the expert does the task | 1 |
| stalled | the expert stops somewhere on its way and stands still to the end | what it reached |
| wrong | the expert does another task of the same scene | the simulator's |
| hopeless | the arm moves at random | the simulator's |
| frozen | the arm does not move | the simulator's |
| policy | a policy acts, sampled as in training | the simulator's |
| reversed | a success, its frames from last to first | that of the first frame |
| shuffled | a success, its frames in random order | not defined; a control |

`reversed` and `shuffled` are controls: nothing like them is met in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sim.contract import Expert, Split, Suite
from sim.pool.worker import EpisodeRequest
from vla.data.episode import Episode
from vla.rewards.embeddings import with_observations
from vla.rollout.actors import Actor, Random, Still
from vla.rollout.play import Player
from vla.rollout.requests import RolloutRequest
from vla.run.seeding import derive_seed

Kind = Literal["success", "stalled", "wrong", "hopeless", "frozen", "policy", "reversed", "shuffled"]

CONTROLS: tuple[Kind, ...] = ("reversed", "shuffled")

SCRIPTED: tuple[Kind, ...] = ("success", "stalled", "wrong", "hopeless", "frozen", *CONTROLS)

EARLIEST, LATEST = 0.15, 0.95
"""Shares of its way at which a stalled expert stops."""


@dataclass(frozen=True)
class AuditRollout:
    """An episode, and how it came about. Of an unsuccessful kind, `episode.success` is false."""

    episode: Episode
    kind: Kind

    @property
    def progress(self) -> float:
        """True progress at the end, in [0, 1]."""
        return float(self.episode.progress[-1])


class RolloutMaker:
    """Makes the rollouts of one task, one after another in one environment, each from its own initial state."""

    def __init__(self, suite: Suite, task_id: int, split: Split, frame_stride: int, seed: int) -> None:
        """`frame_stride` is the number of control steps between frames; the first and last moment are always kept."""
        self._suite, self._task_id, self._split, self._seed = suite, task_id, split, seed
        self._stride = frame_stride
        self._player = Player(suite)
        self._next_state = 0

    def close(self) -> None:
        """Free the environment."""
        self._player.close()

    def make(self, kind: Kind) -> AuditRollout | None:
        """The next rollout of a kind; None when it did not come out as that kind, e.g. an expert that failed.

        Controls are made from a success. Raises `EnvironmentRequestError` for a task without an expert.
        """
        number = self._next_state
        self._next_state += 1
        generator = np.random.default_rng(derive_seed("audit", self._seed, self._task_id, number))
        actor = self._actor(kind, number, generator)
        episode = None if actor is None else self._play(number, actor)
        if episode is None or episode.success != (kind == "success" or kind in CONTROLS):
            return None
        return AuditRollout(_reordered(episode, kind, generator) if kind in CONTROLS else episode, kind)

    def _actor(self, kind: Kind, number: int, generator: np.random.Generator) -> Actor | None:
        """Who acts in a rollout of a kind; None where the scene has no other task to do wrongly."""
        if kind == "hopeless":
            return Random(generator)
        if kind == "frozen":
            return Still()
        if kind == "wrong":
            others = self._suite.tasks_of_same_scene(self._task_id)
            return self._expert(number, others[int(generator.integers(len(others)))]) if others else None
        expert = self._expert(number, self._task_id)
        if kind != "stalled":
            return expert
        # It stops at a random share of the time that the same expert needs from the same state.
        whole = self._play(number, expert).length
        return Still(self._expert(number, self._task_id), int(whole * generator.uniform(EARLIEST, LATEST)))

    def _expert(self, number: int, task_id: int) -> Expert:
        return self._suite.make_expert(task_id, derive_seed("audit expert", self._seed, self._task_id, number) % 2**31)

    def _play(self, number: int, actor: Actor) -> Episode:
        state = number % self._suite.num_init_states(self._task_id, self._split)
        wanted = RolloutRequest(EpisodeRequest(self._task_id, self._split, state), seed=number)
        return _with_true_progress(self._player.play(wanted, actor, "audit", frame_stride=self._stride))


def make_rollouts(maker: RolloutMaker, kind: Kind, count: int) -> list[AuditRollout]:
    """`count` rollouts of a kind, or fewer where twice as many attempts do not give them."""
    rollouts: list[AuditRollout] = []
    for _ in range(2 * count):
        if len(rollouts) == count:
            break
        rollout = maker.make(kind)
        if rollout is not None:
            rollouts.append(rollout)
    return rollouts


def from_policy(episodes: Sequence[Episode]) -> list[AuditRollout]:
    """A policy's episodes as they are, with progress 1 where they succeeded."""
    return [AuditRollout(_with_true_progress(episode), "policy") for episode in episodes]


def _with_true_progress(episode: Episode) -> Episode:
    progress = episode.progress.copy()
    if episode.success:
        progress[-1] = 1.0
    return replace(episode, progress=progress)


def _reordered(episode: Episode, kind: Kind, generator: np.random.Generator) -> Episode:
    count = len(episode.observation_steps)
    order = np.arange(count)[::-1] if kind == "reversed" else generator.permutation(count)
    return replace(
        with_observations(episode, order),
        progress=episode.progress[::-1].copy(),
        success=False,
    )
