"""robosuite's tasks as a suite."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from sim.contract import EnvironmentRequestError, Expert
from sim.core.stepping import SteppingMode
from sim.embodiments import PANDA_EEF
from sim.libero.definition import SceneDefinition, SceneState
from sim.libero.environment import LiberoEnvironment
from sim.libero.installation import MUJOCO_VERSION, PACKAGE_VERSIONS
from sim.libero.rendering import CAMERAS, Look
from sim.libero.scene import LiberoScene
from sim.libero.shared_model import SharedModel
from sim.libero.source import InstalledSimulation, StartedStates
from sim.libero.suite import NumberedTasks
from sim.libero.tasks import (
    FAST_SUFFIX,
    NUM_INIT_STATES,
    PLAIN_SUFFIX,
    SETTLE_ACTION,
    SETTLE_STEPS,
    check_image_size,
)
from sim.robosuite.build import ARM_NOISE, RobosuiteBuilder, check_version
from sim.robosuite.goals import Goal
from sim.robosuite.tasks import SUITE, TASKS, RobosuiteTask


class RobosuiteScene(LiberoScene):
    """The simulation of one task, judged by robosuite's conditions."""

    def __init__(
        self,
        shared: SharedModel,
        data: mujoco.MjData,
        definition: SceneDefinition,
        goal: Goal,
        stepping: SteppingMode = "exact",
    ) -> None:
        """Raises `EnvironmentRequestError` for an unknown stepping."""
        super().__init__(shared, data, definition, stepping)
        self._goal = goal

    def goal_predicates(self) -> list[bool]:
        """Whether each condition of the task's goal holds."""
        return self._goal.conditions(self.model, self.data)

    def restore(self, state: SceneState) -> None:
        """See `LiberoScene.restore`."""
        super().restore(state)
        self._goal.start(self.model)


class RobosuiteEnvironment(LiberoEnvironment):
    """A task of robosuite 1.4, with a Panda arm; an episode starts as LIBERO's do, settled for half a second.

    `wipe` has no gripper: its seventh action is ignored and its two finger positions are 0.
    """

    def _progress_of(self, predicates: list[bool]) -> float:
        """Share of the goal's conditions that hold."""
        return float(np.mean(predicates))


class RobosuiteSuite(NumberedTasks[RobosuiteTask]):
    """Lift, Stack, Door, NutAssembly, PickPlace and Wipe, and the variants of two of them with a single object.

    "_fast" and "_plain" behind the name mean what they mean for LIBERO (`sim.libero.tasks.Variant`). Initial states are
    50 draws of robosuite's own samplers for each split, with seeds that depend on task, split and index only.
    """

    def __init__(self, name: str = SUITE, image_size: int = 256) -> None:
        """Raises `EnvironmentRequestError` for another version of robosuite, or an image size that cannot be drawn."""
        check_version()
        check_image_size(image_size)
        self.name, self.image_size = name, image_size
        self.embodiment = PANDA_EEF.with_image_size(image_size)
        self._stepping: SteppingMode = "fast" if FAST_SUFFIX in name else "exact"
        self._look: Look = "plain" if name.endswith(PLAIN_SUFFIX) else "official"
        self._started: StartedStates = {}
        self._tasks = TASKS

    def horizon(self, task_id: int) -> int:
        """Control steps of an episode after settling."""
        return self._task(task_id).horizon

    def make(self, task_id: int) -> RobosuiteEnvironment:
        """Build one environment (a second)."""
        task = self._task(task_id)
        builder = RobosuiteBuilder(task)
        # A model of its own: what was wiped is in it.
        shared = SharedModel(builder.model, builder.definition.fixture_bodies)
        scene = RobosuiteScene(shared, mujoco.MjData(builder.model), builder.definition, builder.goal, self._stepping)
        simulation = InstalledSimulation(scene, builder, self._started)
        environment = RobosuiteEnvironment(task, simulation, task.horizon, self.image_size, self._look)
        environment.suite_name = self.name
        return environment

    def make_expert(self, task_id: int, seed: int) -> Expert:
        """There is none. Raises `EnvironmentRequestError`."""
        raise EnvironmentRequestError(f"{self.name} has no scripted experts; record demonstrations elsewhere")

    def protocol(self) -> dict[str, Any]:
        """JSON-ready facts that determine results; two results with equal protocols can be compared."""
        return {
            "suite": self.name,
            "versions": {"mujoco": MUJOCO_VERSION, "robosuite": PACKAGE_VERSIONS["robosuite"]},
            "stepping": self._stepping,
            "look": self._look,
            "settle_steps": SETTLE_STEPS,
            "settle_action": list(SETTLE_ACTION),
            "image_size": self.image_size,
            "cameras": list(CAMERAS),
            "splits": f"{NUM_INIT_STATES} draws each, seed crc32(suite/task/split/index), arm noise {ARM_NOISE} rad",
            "tasks": [{"name": task.name, "horizon": task.horizon} for task in TASKS],
        }
