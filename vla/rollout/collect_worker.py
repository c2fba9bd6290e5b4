"""One attempt at one episode with a frame at every control step, as `vla collect` runs it in each worker process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.contract import ACTION_SIZE, CONTROL_FREQUENCY, Expert, ManipulationEnvironment, Observation, Split
from sim.pool.worker import load_factory
from vla.data.episode import Episode
from vla.data.staging import stage_episode
from vla.data.video import PixelFormat

EXPERT, RANDOM = "expert", "random"


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


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended; the episode itself is in the staging folder when it was kept."""

    attempt: Attempt
    success: bool
    kept: bool


class AttemptRunner:
    """Runs attempts one after another, keeping the environment of the last task alive."""

    def __init__(self, settings: AttemptSettings) -> None:
        self._settings = settings
        self._suite = load_factory(settings.factory)(settings.suite, settings.image_size)
        self._environment: ManipulationEnvironment | None = None

    def run(self, attempt: Attempt, restarted: bool = False) -> AttemptResult:
        """Run one episode and stage it if it is kept: every success, and every episode of a random policy.

        `restarted` marks an episode whose worker died before.

        Raises `EnvironmentRequestError` when the suite cannot serve the task, `ReflexError` when the disk is full.
        """
        settings, seed = self._settings, attempt.seed(self._settings.seed)
        environment = self._environment_of(attempt.task_id)
        init_state_id = attempt.number % self._suite.num_init_states(attempt.task_id, settings.split)
        environment.reset_to(settings.split, init_state_id)
        expert = None if settings.policy == RANDOM else self._suite.make_expert(attempt.task_id, seed)
        recording = record_episode(
            environment,
            expert,
            self._suite.horizon(attempt.task_id),
            np.random.default_rng(seed),
            settings.action_noise,
            settings.pace,
        )
        episode = recording.episode(
            suite=self._suite.name,
            task_id=attempt.task_id,
            instruction=environment.instruction,
            split=settings.split,
            init_state_id=init_state_id,
            seed=seed,
            policy_id=settings.policy,
        )
        episode = replace(episode, worker_restarted=restarted)
        kept = episode.success or settings.policy == RANDOM
        if kept:
            size = self._suite.image_size
            stage_episode(settings.staging, attempt.key, episode, size, CONTROL_FREQUENCY, settings.pixel_format)
        return AttemptResult(attempt, episode.success, kept)

    def close(self) -> None:
        """Free the environment."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _environment_of(self, task_id: int) -> ManipulationEnvironment:
        if self._environment is None or self._environment.task_id != task_id:
            self.close()
            self._environment = self._suite.make(task_id)
        return self._environment


class Recording:
    """The arrays of one episode while it runs."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.actions: list[NDArray[np.float32]] = []
        self.costs: list[float] = []
        self.progress: list[float] = []
        self.success = False

    def episode(
        self, *, suite: str, task_id: int, instruction: str, split: Split, init_state_id: int, seed: int, policy_id: str
    ) -> Episode:
        """The immutable record: T observations, each before its action."""
        length = len(self.actions)
        rewards = np.zeros(length, dtype=np.float32)
        rewards[-1] = float(self.success)
        return Episode(
            suite=suite,
            task_id=task_id,
            instruction=instruction,
            split=split,
            init_state_id=init_state_id,
            seed=seed,
            policy_id=policy_id,
            success=self.success,
            actions=np.stack(self.actions),
            observation_steps=np.arange(length, dtype=np.int64),
            images=np.stack([observation["image"] for observation in self.observations]),
            wrist_images=np.stack([observation["wrist_image"] for observation in self.observations]),
            states=np.stack([observation["state"] for observation in self.observations]),
            rewards=rewards,
            costs=np.asarray(self.costs, dtype=np.float32),
            progress=np.asarray(self.progress, dtype=np.float32),
        )


def at_pace(action: NDArray[np.float32], pace: float) -> NDArray[np.float32]:
    """The action [7] with its translation shortened to at most `pace` (1 is full speed) in the same direction."""
    slowed = action.copy()
    slowed[:3] *= min(1.0, pace / max(float(np.linalg.norm(action[:3])), 1e-9))
    return slowed


def record_episode(
    environment: ManipulationEnvironment,
    expert: Expert | None,
    horizon: int,
    generator: np.random.Generator,
    action_noise: float,
    pace: float | None = None,
) -> Recording:
    """Run one episode from the environment's present state, rendering before every control step.

    Without an expert, actions are uniform in [-1, 1]. With `action_noise` the first six numbers of each executed action
    carry Gaussian noise of that deviation, while the recorded action stays the expert's: the data then shows how to
    come back from states off its path (DART, Laskey et al. 2017). `pace` limits the expert's speed, as `at_pace` says.
    """
    recording = Recording()
    if expert is not None:
        expert.reset(environment)
    for _ in range(horizon):
        recording.observations.append(environment.render_observation())
        if expert is None:
            action = generator.uniform(-1.0, 1.0, ACTION_SIZE).astype(np.float32)
        else:
            action = np.clip(np.asarray(expert.act(environment), dtype=np.float32), -1.0, 1.0)
            action = action if pace is None else at_pace(action, pace)
        executed = action.copy()
        if action_noise > 0:
            executed[:6] += generator.normal(0.0, action_noise, 6).astype(np.float32)
            executed = np.clip(executed, -1.0, 1.0)
        outcome = environment.advance(executed)
        recording.actions.append(action)
        recording.costs.append(outcome.cost)
        recording.progress.append(outcome.progress)
        recording.success = outcome.success
        if outcome.done:
            break
    return recording


_runner: AttemptRunner | None = None


def start_worker(settings: AttemptSettings) -> None:
    """Prepare this process."""
    global _runner
    _runner = AttemptRunner(settings)


def run_in_worker(attempt: Attempt, restarted: bool) -> AttemptResult:
    """Run one attempt in a process that `start_worker` prepared."""
    assert _runner is not None
    return _runner.run(attempt, restarted)
