"""The embedded suite for policies that are told where everything is: `tabletop_state`.

Tasks, physics, success and the initial states of evaluations are those of `tabletop`. What is observed differs, and
there are more initial states to train from: logs of hundreds of episodes from fifty would teach those fifty by heart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray, ManipulationEnvironment, Split
from sim.embodiments import PANDA_EEF, State
from sim.tabletop.environment import TabletopEnvironment
from sim.tabletop.goals import (
    LIFT_HEIGHT,
    PUSH_DISTANCE,
    ButtonPressed,
    InDrawer,
    Lifted,
    PlacedOn,
    Pushed,
    WorldState,
)
from sim.tabletop.suite import TabletopSuite
from sim.tabletop.tasks import NUM_INIT_STATES, Layout, Task, get_task, initial_layout

Array = NDArray[np.float64]

TRAINING_STATES = 1000
"""Initial states of the training split; the first 50 are the tabletop's."""

MOST_OBJECTS = 2
"""Movable objects whose pose the state has room for; no scene of the suite has more."""

_POSE = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z")
_POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad")

PANDA_TRUE_STATE = dataclasses.replace(
    PANDA_EEF,
    name="panda_true_state",
    cameras=(),
    state=State(
        names=(
            *PANDA_EEF.state.names,
            *(f"{thing}_{number}" for thing in ("object", "second_object") for number in _POSE),
            "target_x",
            "target_y",
            "target_z",
            "button_pressed",
        ),
        units=(*PANDA_EEF.state.units, *_POSE_UNITS * MOST_OBJECTS, "m", "m", "m", ""),
    ),
)
"""The tabletop's Panda, which is told where everything is, 24 numbers: what it feels (8), the poses of the object that
its task is about and of the other one (6 each, 0 where there is none), where the task wants something to be (3), and
whether the button was pressed (0 or 1). Without a camera; `TabletopStateSuite` adds the tabletop's."""


class TabletopStateSuite(TabletopSuite):
    """The tasks of `tabletop`, with 1,000 initial states to train from, observed as the numbers of `PANDA_TRUE_STATE`.

    With an `image_size` both cameras are there too, so that a data set has pictures for a reward to look at. Without,
    there is none and nothing is ever drawn.
    """

    name = "tabletop_state"

    def __init__(self, image_size: int | None = None) -> None:
        super().__init__(image_size)
        self.embodiment = PANDA_TRUE_STATE
        if image_size is not None:
            cameras = PANDA_EEF.with_image_size(image_size).cameras
            self.embodiment = dataclasses.replace(PANDA_TRUE_STATE, cameras=cameras)

    def num_init_states(self, task_id: int, split: Split) -> int:
        """Those of `tabletop`, and more to train from."""
        stored = super().num_init_states(task_id, split)
        return TRAINING_STATES if split == "train" else stored

    def make(self, task_id: int) -> ManipulationEnvironment:
        """Build one environment (about 5 ms)."""
        return TrueStateEnvironment(task_id, self.image_size, get_task(task_id), robot=self.embodiment)

    def protocol(self) -> dict[str, Any]:
        """What determines results on this suite."""
        size = self.image_size if self.embodiment.cameras else None
        return {**super().protocol(), "image_size": size, "state": list(self.embodiment.state.names),
                "training_states": TRAINING_STATES}  # fmt: skip


class TrueStateEnvironment(TabletopEnvironment):
    """A task whose observed state is the whole scene's."""

    suite_name = TabletopStateSuite.name

    def _stored_layout(self, split: Split, init_state_id: int) -> Layout:
        count = TRAINING_STATES if split == "train" else NUM_INIT_STATES
        return initial_layout(self.task_id, split, init_state_id, count)

    def robot_state(self) -> FloatArray:
        """What the robot feels and where everything is, float32 [24]; see `PANDA_TRUE_STATE`."""
        rotations = {
            name: self.data.qpos[address + 3 : address + 7]
            for name, address in zip(self._object_names, self._object_addresses, strict=True)
        }
        scene = scene_state(self.task, self.world_state(), rotations)
        return np.concatenate([super().robot_state(), scene.astype(np.float32)])


def scene_state(task: Task, world: WorldState, rotations: Mapping[str, Array]) -> Array:
    """What is told of a scene beside what the robot feels, float64 [16]; see `PANDA_TRUE_STATE`.

    `rotations` has the quaternion [4] of each movable object by name. Raises `ValueError` for a scene with more objects
    than there is room for.
    """
    items = [goal.item for goal in task.goals if isinstance(goal, Lifted | PlacedOn | Pushed | InDrawer)]
    names = list(dict.fromkeys([*items, *world.objects]))
    if len(names) > MOST_OBJECTS:
        raise ValueError(f"task {task.name} has {len(names)} movable objects; its true state has room for 2")
    poses = np.zeros((MOST_OBJECTS, 6))
    for pose, name in zip(poses, names, strict=False):
        pose[:3] = world.objects[name]
        mujoco.mju_quat2Vel(pose[3:], rotations[name], 1.0)
    return np.concatenate([poses.ravel(), target_position(task, world), [float(world.button_latched)]])


def target_position(task: Task, world: WorldState) -> Array:
    """Where a task wants something to be, [3] m: of its first goal, the plate or object to place on, where a pushed or
    lifted object arrives, the drawer, the button."""
    goal = task.goals[0]
    if isinstance(goal, PlacedOn):
        return world.plates[goal.target] if goal.target in world.plates else world.objects[goal.target]
    if isinstance(goal, Pushed):
        return world.initial_objects[goal.item] + PUSH_DISTANCE * np.array([*goal.direction, 0.0])
    if isinstance(goal, Lifted):
        return np.array([*world.initial_objects[goal.item][:2], LIFT_HEIGHT])
    place = world.button if isinstance(goal, ButtonPressed) else world.drawer_position
    assert place is not None  # a goal's button or drawer is in its scene
    return place
