"""The scripted expert of the embedded suite.

It is a feedback law on the true state, not a time line: wherever noise puts the gripper, the next action is the one
that makes sense from there. Demonstrations of a memoryless law can be imitated by a memoryless policy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.contract import Expert, FloatArray, ManipulationEnvironment
from sim.core.operational_space import orientation_error
from sim.embodiments import POSITION_SCALE, ROTATION_SCALE
from sim.tabletop.environment import TabletopEnvironment
from sim.tabletop.goals import (
    DrawerOpened,
    DrawerShut,
    Goal,
    InDrawer,
    Lifted,
    PlacedOn,
    Pushed,
    WorldState,
)
from sim.tabletop.scene import DRAWER_HANDLE, HALF_SIZE, PLATE_HALF_HEIGHT
from sim.tabletop.tasks import Task

Array = NDArray[np.float64]

OPEN, CLOSE = -1.0, 1.0
HOVER = 0.10
"""Height (m) of the grip point when travelling."""
GRASP = 0.018
"""Height (m) of the grip point when closing on an object on the table."""
GAIN = 1.6
"""Action per (metre of error / full-scale displacement); tuned so that moves end without overshoot."""
_DOWN = np.diag([1.0, -1.0, -1.0])


def straight_line(position: Array, target: Array, gain: float = GAIN) -> Array:
    """The translation [3] of an action that moves `position` (m, 3) straight to `target` (m, 3), at most at full speed.

    Full speed is a length, not a box: a path whose direction varies smoothly with the target. Clipping each axis by
    itself makes most labels exactly +-1, and an extreme the likeliest token of an unsure policy.
    """
    velocity = gain * (target - position) / POSITION_SCALE
    return np.asarray(velocity / max(1.0, float(np.linalg.norm(velocity))))


class TabletopExpert(Expert):
    """Solves any task made of the suite's goals, one goal at a time."""

    def __init__(self, seed: int = 0, task: Task | None = None) -> None:
        """`task` is what to do, whatever the environment asks for; None takes the environment's."""
        # The small preferences below make demonstrations of one task differ, as people's do.
        self._generator = np.random.default_rng(seed)
        self._task = task
        self._hover = HOVER
        self._gain = GAIN

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode: draw this demonstration's travelling height and speed."""
        self._hover = HOVER + float(self._generator.uniform(-0.01, 0.02))
        self._gain = GAIN * float(self._generator.uniform(0.9, 1.1))

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [7]."""
        assert isinstance(environment, TabletopEnvironment)
        world = environment.world_state()
        target, grip = self._target((self._task or environment.task).ordered_goals(world), world)
        action = np.zeros(7, dtype=np.float32)
        action[:3] = straight_line(world.gripper, target, self._gain)
        tilt = orientation_error(_DOWN, environment.gripper_rotation())
        if np.abs(tilt).max() > 0.03:
            action[3:6] = np.clip(tilt / ROTATION_SCALE, -1.0, 1.0)
        action[6] = grip
        return action

    def _target(self, goals: tuple[Goal, ...], world: WorldState) -> tuple[Array, float]:
        for goal in goals:
            if goal.holds(world):
                continue
            if isinstance(goal, Lifted):
                return self._lift(goal.item, world)
            if isinstance(goal, PlacedOn):
                return self._place(goal, goals, world)
            if isinstance(goal, Pushed):
                return self._push(goal, world)
            if isinstance(goal, DrawerOpened):
                return self._pull_drawer(world)
            if isinstance(goal, DrawerShut):
                return self._shut_drawer(world)
            if isinstance(goal, InDrawer):
                return self._put_in_drawer(goal, world)
            return self._press(world)
        return world.gripper, OPEN

    # ---- skills: each returns the point to move the grip to, and the gripper command ---------------------------------

    def _travel(self, world: WorldState, point: Array, aligned: float = 0.012) -> Array:
        """Go to `point` from above: first over it at travelling height, then down."""
        offset = point[:2] - world.gripper[:2]
        distance = float(np.linalg.norm(offset))
        if distance < aligned:
            return point
        # Far away: climb before moving sideways. Closer in, sink along a funnel, as a person would.
        height = max(point[2] + min(distance * 2.0, 1.0) * (self._hover - point[2]), min(self._hover, point[2] + 0.06))
        goal = np.array([point[0], point[1], height])
        if world.gripper[2] < self._hover - 0.045 and distance > 0.04:
            goal[:2] = world.gripper[:2]
            goal[2] = self._hover
        return goal

    def _holding(self, item: str, world: WorldState) -> bool:
        near = float(np.linalg.norm(world.objects[item] - world.gripper)) < 0.025
        return near and world.gripper_opening < 2.0 * HALF_SIZE + 0.012

    def _grasp(self, item: str, world: WorldState) -> tuple[Array, float]:
        position = world.objects[item]
        grasp = np.array([position[0], position[1], position[2] - HALF_SIZE + GRASP])
        offset = float(np.linalg.norm(world.gripper[:2] - position[:2]))
        if offset < 0.009 and world.gripper[2] < grasp[2] + 0.01:
            return grasp, CLOSE
        return self._travel(world, grasp), OPEN

    def _lift(self, item: str, world: WorldState) -> tuple[Array, float]:
        if self._holding(item, world):
            return world.gripper + np.array([0.0, 0.0, 0.04]), CLOSE
        return self._grasp(item, world)

    def _carry(self, item: str, world: WorldState, point: Array) -> tuple[Array, float]:
        """Bring a held object's centre to `point` (m, 3) and let go there."""
        position = world.objects[item]
        offset = point - position
        sideways = float(np.linalg.norm(offset[:2]))
        if sideways < 0.012:
            if offset[2] > -0.006:
                return world.gripper, OPEN
            return world.gripper + offset, CLOSE
        clear = point[2] + 0.05
        target = world.gripper + offset
        target[2] = world.gripper[2] + clear - position[2]
        if position[2] < clear - 0.025:
            target[:2] = world.gripper[:2] + 0.15 * offset[:2]
        return target, CLOSE

    def _place(self, goal: PlacedOn, goals: tuple[Goal, ...], world: WorldState) -> tuple[Array, float]:
        if goal.target in world.plates:
            spot = world.plates[goal.target] + np.array([0.0, 0.0, PLATE_HALF_HEIGHT + HALF_SIZE + 0.002])
            sharing = [other for other in goals if isinstance(other, PlacedOn) and other.target == goal.target]
            if len(sharing) > 1:
                # Side by side across the fingers' opening direction, so the open gripper clears its neighbour.
                spot = spot + np.array([(sharing.index(goal) - (len(sharing) - 1) / 2) * 0.06, 0.0, 0.0])
        else:
            spot = world.objects[goal.target] + np.array([0.0, 0.0, 2.0 * HALF_SIZE + 0.002])
        position = world.objects[goal.item]
        if float(np.linalg.norm((position - spot)[:2])) < 0.014 and position[2] < spot[2] + 0.006:
            return world.gripper, OPEN
        if self._holding(goal.item, world):
            return self._carry(goal.item, world, spot)
        return self._grasp(goal.item, world)

    def _push(self, goal: Pushed, world: WorldState) -> tuple[Array, float]:
        direction = np.array([*goal.direction, 0.0])
        position = world.objects[goal.item]
        relative = world.gripper - position
        along = float(relative @ direction)
        across = float(np.linalg.norm((relative - along * direction)[:2]))
        low = 0.02
        if -0.075 < along < 0.0 and across < 0.02 and world.gripper[2] < low + 0.02:
            contact = position - 0.03 * direction
            target = contact + direction * 0.06
            return np.array([target[0], target[1], low]), CLOSE
        start = position - 0.06 * direction
        return self._travel(world, np.array([start[0], start[1], low])), CLOSE

    def _pull_drawer(self, world: WorldState) -> tuple[Array, float]:
        assert world.drawer_position is not None
        handle = world.drawer_position + DRAWER_HANDLE
        hook = handle + np.array([0.0, 0.026, 0.0])
        relative = world.gripper - hook
        if abs(relative[0]) < 0.02 and -0.012 < relative[1] < 0.015 and relative[2] < 0.015:
            return hook + np.array([0.0, -0.05, 0.0]), CLOSE
        return self._travel(world, hook, aligned=0.008), CLOSE

    def _shut_drawer(self, world: WorldState) -> tuple[Array, float]:
        assert world.drawer_position is not None
        handle = world.drawer_position + DRAWER_HANDLE
        start = handle + np.array([0.0, -0.04, -0.005])
        relative = world.gripper - handle
        if abs(relative[0]) < 0.025 and -0.07 < relative[1] < -0.01 and world.gripper[2] < start[2] + 0.02:
            return np.array([handle[0], handle[1] + 0.03, start[2]]), CLOSE
        return self._travel(world, start), CLOSE

    def _put_in_drawer(self, goal: InDrawer, world: WorldState) -> tuple[Array, float]:
        assert world.drawer_position is not None
        spot = world.drawer_position + np.array([0.0, -0.035, 0.065])
        if self._holding(goal.item, world):
            return self._carry(goal.item, world, spot)
        return self._grasp(goal.item, world)

    def _press(self, world: WorldState) -> tuple[Array, float]:
        assert world.button is not None
        target = world.button + np.array([0.0, 0.0, -0.012])
        return self._travel(world, target), CLOSE
