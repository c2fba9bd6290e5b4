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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.contract import ACTION_SIZE, Expert, ManipulationEnvironment, Split, Suite
from vla.data.episode import Episode
from vla.rollout.collect_worker import Recording
from vla.run.seeding import derive_seed

Kind = Literal["success", "stalled", "wrong", "hopeless", "frozen", "policy", "reversed", "shuffled"]

CONTROLS: tuple[Kind, ...] = ("reversed", "shuffled")

SCRIPTED: tuple[Kind, ...] = ("success", "stalled", "wrong", "hopeless", "frozen", *CONTROLS)

Act = Callable[[int], NDArray[np.floating]]
"""(control step) -> action [7]."""

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
        self._environment = suite.make(task_id)
        self._next_state = 0

    def close(self) -> None:
        """Free the environment."""
        self._environment.close()

    def make(self, kind: Kind) -> AuditRollout | None:
        """The next rollout of a kind; None when it did not come out as that kind, e.g. an expert that failed.

        Controls are made from a success. Raises `EnvironmentRequestError` for a task without an expert.
        """
        number = self._next_state
        self._next_state += 1
        generator = np.random.default_rng(derive_seed("audit", self._seed, self._task_id, number))
        if kind == "reversed" or kind == "shuffled":
            episode = self._expert_episode(number, self._task_id)
            return AuditRollout(_reordered(episode, kind, generator), kind) if episode.success else None
        if kind == "success":
            episode = self._expert_episode(number, self._task_id)
        elif kind == "stalled":
            episode = self._stalled_episode(number, generator)
        elif kind == "wrong":
            others = self._suite.tasks_of_same_scene(self._task_id)
            if not others:
                return None
            episode = self._expert_episode(number, others[int(generator.integers(len(others)))])
        elif kind == "hopeless":
            episode = self._record(number, lambda _: generator.uniform(-1.0, 1.0, ACTION_SIZE))
        else:
            episode = self._record(number, lambda _: _stand_still(-1.0))
        return AuditRollout(episode, kind) if episode.success == (kind == "success") else None

    def _expert(self, number: int, task_id: int) -> Expert:
        return self._suite.make_expert(task_id, derive_seed("audit expert", self._seed, self._task_id, number) % 2**31)

    def _expert_episode(self, number: int, task_id: int) -> Episode:
        expert = self._expert(number, task_id)
        return self._record(number, lambda _: expert.act(self._environment), expert)

    def _stalled_episode(self, number: int, generator: np.random.Generator) -> Episode:
        """Stops at a random share of the time that the same expert needs from the same state."""
        whole = self._expert_episode(number, self._task_id).length
        stop = int(whole * generator.uniform(EARLIEST, LATEST))
        expert = self._expert(number, self._task_id)
        gripper = -1.0

        def act(step: int) -> NDArray[np.floating]:
            nonlocal gripper
            if step >= stop:
                return _stand_still(gripper)
            action = expert.act(self._environment)
            gripper = float(action[6])
            return action

        return self._record(number, act, expert)

    def _record(self, number: int, act: Act, expert: Expert | None = None) -> Episode:
        environment, horizon = self._environment, self._suite.horizon(self._task_id)
        state = number % self._suite.num_init_states(self._task_id, self._split)
        environment.reset_to(self._split, state)
        if expert is not None:
            expert.reset(environment)
        return record(environment, act, horizon, self._stride, self._suite, self._split, state, number)


def record(
    environment: ManipulationEnvironment,
    act: Act,
    horizon: int,
    stride: int,
    suite: Suite,
    split: Split,
    init_state_id: int,
    seed: int,
) -> Episode:
    """Run one episode from the environment's present state, keeping a frame every `stride` steps and the last one."""
    recording, kept = Recording(), [0]
    recording.observations.append(environment.render_observation())
    for step in range(horizon):
        action = np.clip(np.asarray(act(step), dtype=np.float32), -1.0, 1.0)
        outcome = environment.advance(action)
        recording.actions.append(action)
        recording.costs.append(outcome.cost)
        recording.progress.append(1.0 if outcome.success else outcome.progress)
        recording.success = outcome.success
        if (step + 1) % stride == 0 or outcome.done:
            recording.observations.append(environment.render_observation())
            kept.append(step + 1)
        if outcome.done:
            break
    episode = recording.episode(
        suite=suite.name,
        task_id=environment.task_id,
        instruction=environment.instruction,
        split=split,
        init_state_id=init_state_id,
        seed=seed,
        policy_id="audit",
    )
    return replace(episode, observation_steps=np.array(kept, dtype=np.int64))


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
    return [AuditRollout(replace(episode, progress=_with_success(episode)), "policy") for episode in episodes]


def _with_success(episode: Episode) -> NDArray[np.float32]:
    progress = episode.progress.copy()
    if episode.success:
        progress[-1] = 1.0
    return progress


def _reordered(episode: Episode, kind: Kind, generator: np.random.Generator) -> Episode:
    count = len(episode.images)
    order = np.arange(count)[::-1] if kind == "reversed" else generator.permutation(count)
    return replace(
        episode,
        images=episode.images[order],
        wrist_images=episode.wrist_images[order],
        states=episode.states[order],
        progress=episode.progress[::-1].copy(),
        success=False,
    )


def _stand_still(gripper: float) -> NDArray[np.float64]:
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper])
