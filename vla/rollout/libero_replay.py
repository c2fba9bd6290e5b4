"""One of LIBERO's demonstrations as an episode, as `vla libero import` makes it in each worker process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import CONTROL_FREQUENCY, Expert, FloatArray, ManipulationEnvironment
from sim.libero.environment import LiberoEnvironment
from sim.libero.suite import LiberoSuite
from vla.data.episode import Episode
from vla.data.lerobot_reader import UNKNOWN
from vla.data.libero_hdf5 import RecordedDemonstration, fixture_poses, read_demonstration, without_idle_steps
from vla.data.staging import stage_episode
from vla.data.video import PixelFormat
from vla.errors import ReflexError
from vla.rollout.collect_worker import record_episode

DEMONSTRATION = "demonstration"
"""Who acted, in the dataset."""


@dataclass(frozen=True)
class Demonstration:
    """One demonstration of one file."""

    task_id: int
    file: str
    name: str
    """"demo_<number>"."""

    @property
    def key(self) -> str:
        """Name in the staging folder; sorts by task, then by number."""
        return f"task-{self.task_id:04d}-demo-{int(self.name.split('_')[1]):06d}"


@dataclass(frozen=True)
class ReplaySettings:
    """What all demonstrations of one import share."""

    suite: str
    image_size: int
    replayed: bool
    """Play the actions in the simulator; otherwise take the pictures that were recorded."""
    drop_idle: bool
    pixel_format: PixelFormat
    staging: Path


class DemonstrationReader:
    """Makes episodes one after another, keeping the environment of the last task alive."""

    def __init__(self, settings: ReplaySettings) -> None:
        self._settings = settings
        self._suite = LiberoSuite(settings.suite, settings.image_size)
        self._environment: LiberoEnvironment | None = None

    def stage(self, demonstration: Demonstration) -> bool:
        """Stage one as an episode; returns False, with nothing staged, when it fails on being played again.

        Raises `ReflexError` when the file cannot be used or the disk is full.
        """
        settings, path = self._settings, Path(demonstration.file)
        recorded = read_demonstration(path, demonstration.name)
        if settings.replayed:
            episode = self._replay(demonstration, recorded)
        else:
            instruction = self._suite.instruction(demonstration.task_id)
            episode = as_recorded(recorded, self._suite.name, demonstration.task_id, instruction)
        if episode.success:
            stage_episode(
                settings.staging,
                demonstration.key,
                episode,
                settings.image_size,
                CONTROL_FREQUENCY,
                settings.pixel_format,
            )
        return episode.success

    def _replay(self, demonstration: Demonstration, recorded: RecordedDemonstration) -> Episode:
        environment = self._environment_of(demonstration.task_id)
        model = environment.scene.model
        bodies = [
            mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, body)
            for body in environment.scene.definition.fixture_bodies
        ]
        try:
            poses = fixture_poses(recorded.model_xml, bodies)
        except ReflexError as error:
            raise ReflexError(f"{demonstration.file}, {demonstration.name}: {error}") from error
        environment.reset_to_recorded(recorded.simulator_states[0], poses)
        actions = np.clip(recorded.actions, -1.0, 1.0)
        if self._settings.drop_idle:
            actions = without_idle_steps(actions)
        played = record_episode(environment, _Recorded(actions), len(actions), np.random.default_rng(0), 0.0)
        return played.episode(
            suite=self._suite.name,
            task_id=demonstration.task_id,
            instruction=environment.instruction,
            split="train",
            init_state_id=UNKNOWN,
            seed=UNKNOWN,
            policy_id=DEMONSTRATION,
        )

    def _environment_of(self, task_id: int) -> LiberoEnvironment:
        if self._environment is None or self._environment.task_id != task_id:
            if self._environment is not None:
                self._environment.close()
            self._environment = self._suite.make(task_id)
        return self._environment


class _Recorded(Expert):
    """Plays recorded actions."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self._actions = iter(actions)

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Nothing to look at."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next one."""
        return next(self._actions)


def as_recorded(recorded: RecordedDemonstration, suite: str, task_id: int, instruction: str) -> Episode:
    """A demonstration with its own pictures: T - 1 steps, each action with what was seen before it."""
    length = len(recorded.actions) - 1
    zeros = np.zeros(length, dtype=np.float32)
    at_the_end = zeros.copy()
    at_the_end[-1] = 1.0  # LIBERO publishes successes
    return Episode(
        suite=suite,
        task_id=task_id,
        instruction=instruction,
        split="train",
        init_state_id=UNKNOWN,
        seed=UNKNOWN,
        policy_id=DEMONSTRATION,
        success=True,
        actions=np.clip(recorded.actions[1:], -1.0, 1.0),
        observation_steps=np.arange(length, dtype=np.int64),
        images=recorded.images[:-1],
        wrist_images=recorded.wrist_images[:-1],
        states=recorded.robot_states[:-1],
        rewards=at_the_end,
        costs=zeros,
        progress=at_the_end.copy(),
    )


_reader: DemonstrationReader | None = None


def start_worker(settings: ReplaySettings) -> None:
    """Prepare this process."""
    global _reader
    _reader = DemonstrationReader(settings)


def run_in_worker(demonstration: Demonstration, restarted: bool) -> bool:
    """Stage one demonstration in a process that `start_worker` prepared; a worker's death leaves no trace in it."""
    del restarted
    assert _reader is not None
    return _reader.stage(demonstration)
