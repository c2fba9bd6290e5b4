"""The three tasks of the suite and how their initial states are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Split
from sim.so101.goals import Goal, Lifted, Placed, Reached
from sim.so101.scene import Scene

Array = NDArray[np.float64]

NUM_INIT_STATES = 50
"""Initial states per task and split."""
SEED = 20260301
PAN_AXIS = np.array([0.0388, 0.0])
"""Where (m) the first joint turns: everything is placed on a ring around it that the gripper reaches from above."""
RADII, BEARINGS = (0.15, 0.235), (-0.65, 0.65)
"""Metres and radians."""
APART = 0.1
"""Least distance (m) between the middles of block and target: the gripper fits between them."""
YAW = 0.35
"""Largest turn (rad) of a block."""
JOINT_NOISE = 0.03
"""Largest deviation (rad) of each joint from the arm's rest position."""


@dataclass(frozen=True)
class Task:
    """One language-conditioned task."""

    name: str
    instruction: str
    scene: Scene
    goal: Goal
    horizon: int
    """Control steps before truncation."""


@dataclass(frozen=True)
class Layout:
    """Where everything starts. Positions in metres on the table, angles in radians."""

    block: Array
    """[3]: x, y, yaw."""
    target: Array
    """[2]; drawn, and not used, where the scene has none."""
    joint_noise: Array
    """[5] added to the arm's rest position."""


TASKS: tuple[Task, ...] = (
    Task("reach_red", "move the gripper to the red block", Scene("red"), Reached(), 60),
    Task("lift_red", "pick up the red block", Scene("red"), Lifted(), 100),
    Task("place_blue", "put the red block on the blue target", Scene("red", "blue"), Placed(), 150),
)


def get_task(task_id: int) -> Task:
    """The task of that number. Raises `EnvironmentRequestError` naming the known ones."""
    if not isinstance(task_id, int) or isinstance(task_id, bool) or not 0 <= task_id < len(TASKS):
        known = ", ".join(f"{index} {task.name}" for index, task in enumerate(TASKS))
        raise EnvironmentRequestError(f"so101 has no task {task_id!r}; its tasks are {known}")
    return TASKS[task_id]


def initial_layout(task_id: int, split: Split, init_state_id: int) -> Layout:
    """The stored initial state of that number: a pure function of its three arguments, on every machine.

    The two splits use different seed streams, so no training state is ever an evaluation state. Raises
    `EnvironmentRequestError` out of range.
    """
    get_task(task_id)
    if split not in ("train", "eval"):
        raise EnvironmentRequestError(f"split must be 'train' or 'eval', not {split!r}")
    if not 0 <= init_state_id < NUM_INIT_STATES:
        raise EnvironmentRequestError(
            f"so101 task {task_id} has {NUM_INIT_STATES} {split} initial states (0 to {NUM_INIT_STATES - 1}), "
            f"not number {init_state_id}"
        )
    stream = {"train": 1, "eval": 2}[split]
    return _draw(np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, stream, task_id, init_state_id]))))


def _draw(generator: np.random.Generator) -> Layout:
    block = _place(generator)
    target = _place(generator)
    while np.linalg.norm(block - target) < APART:
        target = _place(generator)
    yaw = generator.uniform(-YAW, YAW)
    return Layout(np.array([*block, yaw]), target, generator.uniform(-JOINT_NOISE, JOINT_NOISE, 5))


def _place(generator: np.random.Generator) -> Array:
    # The root makes places equally dense everywhere on the ring.
    radius = np.sqrt(generator.uniform(RADII[0] ** 2, RADII[1] ** 2))
    bearing = generator.uniform(*BEARINGS)
    place: Array = PAN_AXIS + radius * np.array([np.cos(bearing), np.sin(bearing)])
    return place
