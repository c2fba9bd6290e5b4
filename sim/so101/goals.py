"""Goals of the suite: what must hold for a task, and how far along it is.

A goal reads a `WorldState` (true positions), never MuJoCo, so that it can be worked by hand in a test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.so101.scene import HALF_SIZE, TARGET_RADIUS

Array = NDArray[np.float64]

REACHED = 0.02
"""Distance (m) of the grip point from a block's centre at which the block is between the jaws."""
LIFT_HEIGHT = 0.05
"""How far (m) above the table a block that counts as lifted is."""
RESTING = 0.006
"""A block rests on the table when its centre is at most this far (m) from where it stands."""
FAR = 0.25
"""Distance (m) of the grip point from which on nearing counts as progress."""
MOST_UNFINISHED = 0.95
"""Progress counts at most this before the goal holds."""


@dataclass(frozen=True)
class WorldState:
    """True state of a scene. Positions in metres; the table is at z = 0, the arm's base at x = y = 0."""

    grip: Array
    """[3] the middle of a block that would lie against the fixed jaw."""
    block: Array
    """[3] centre."""
    block_yaw: float
    """Radians about the vertical."""
    initial_block: Array
    """[3] the block at the start of the episode."""
    target: Array | None
    """[2] centre of the target, if the scene has one."""
    touched: bool
    """The gripper touches the block."""
    gripped: bool
    """Both jaws touch the block."""

    @property
    def distance(self) -> float:
        """Metres between grip point and block."""
        return float(np.linalg.norm(self.grip - self.block))

    @property
    def nearness(self) -> float:
        """1 with the grip point at the block, 0 from `FAR` on."""
        return float(np.clip(1.0 - self.distance / FAR, 0.0, 1.0))


@dataclass(frozen=True)
class Reached:
    """The block is between the jaws."""

    def holds(self, world: WorldState) -> bool:
        return world.distance < REACHED

    def partial(self, world: WorldState) -> float:
        return world.nearness


@dataclass(frozen=True)
class Lifted:
    """The block is in the gripper, off the table."""

    def holds(self, world: WorldState) -> bool:
        return bool(world.gripped and world.block[2] - HALF_SIZE > LIFT_HEIGHT)

    def partial(self, world: WorldState) -> float:
        height = np.clip((world.block[2] - HALF_SIZE) / LIFT_HEIGHT, 0.0, 1.0)
        return float(0.5 * world.nearness + 0.5 * height)


@dataclass(frozen=True)
class Placed:
    """The block rests on the target and the gripper has let go of it."""

    def holds(self, world: WorldState) -> bool:
        resting = abs(world.block[2] - HALF_SIZE) < RESTING
        return bool(_to_target(world, world.block) < TARGET_RADIUS and resting and not world.touched)

    def partial(self, world: WorldState) -> float:
        whole = max(_to_target(world, world.initial_block), TARGET_RADIUS)
        carried = np.clip(1.0 - _to_target(world, world.block) / whole, 0.0, 1.0)
        return float(0.25 * world.nearness + 0.7 * carried)


def _to_target(world: WorldState, point: Array) -> float:
    assert world.target is not None
    return float(np.linalg.norm(point[:2] - world.target))


Goal = Reached | Lifted | Placed


def task_progress(goal: Goal, world: WorldState) -> float:
    """Progress in [0, 1] of a task; 1 exactly where its goal holds."""
    return 1.0 if goal.holds(world) else min(goal.partial(world), MOST_UNFINISHED)
