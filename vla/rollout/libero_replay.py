"""One of LIBERO's demonstrations as an episode, as `vla libero import` makes it in each worker process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from sim.contract import CONTROL_FREQUENCY
from sim.libero.environment import LiberoEnvironment
from sim.libero.suite import LiberoSuite
from sim.pool.worker import EpisodeRequest
from vla.data.episode import Episode
from vla.data.lerobot_reader import UNKNOWN
from vla.data.libero_hdf5 import RecordedDemonstration, fixture_poses, read_demonstration, without_idle_steps
from vla.data.staging import stage_episode
from vla.data.video import PixelFormat
from vla.errors import ReflexError
from vla.rollout.actors import Replayed
from vla.rollout.builder import EpisodeBuilder
from vla.rollout.play import Player, play_episode
from vla.rollout.requests import RolloutRequest

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


class DemonstrationReader(Player):
    """Makes episodes one after another."""

    def __init__(self, settings: ReplaySettings) -> None:
        super().__init__(LiberoSuite(settings.suite, settings.image_size))
        self._settings = settings

    def run(self, job: Demonstration, restarted: bool = False) -> bool:
        """Stage one as an episode; returns False, with nothing staged, when it fails on being played again.

        A worker's death (`restarted`) leaves no trace in it. Raises `ReflexError` when the file cannot be used or the
        disk is full.
        """
        settings = self._settings
        recorded = read_demonstration(Path(job.file), job.name)
        if settings.replayed:
            episode = self._replay(job, recorded)
        else:
            episode = as_recorded(recorded, self.suite.name, job.task_id, self.suite.instruction(job.task_id))
        if episode.success:
            size = settings.image_size
            stage_episode(settings.staging, job.key, episode, size, CONTROL_FREQUENCY, settings.pixel_format)
        return episode.success

    def _replay(self, demonstration: Demonstration, recorded: RecordedDemonstration) -> Episode:
        environment = self.environment_of(demonstration.task_id)
        assert isinstance(environment, LiberoEnvironment)
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
        wanted = RolloutRequest(EpisodeRequest(demonstration.task_id, "train", UNKNOWN), UNKNOWN)
        builder = EpisodeBuilder(self.suite.name, wanted, DEMONSTRATION)
        return play_episode(environment, Replayed(actions), builder, frame_stride=1)


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
