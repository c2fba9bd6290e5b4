"""The scripted expert: a point that moves smoothly towards what makes sense next, and the joint angles that follow it.

What makes sense next is a feedback law on the true state, not a time line. The moving point is what it remembers:
servos are told positions, and commands that followed the measured state would add up its sag and its lag.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.contract import Expert, FloatArray, ManipulationEnvironment
from sim.so101.embodiment import GRIPPER, GRIPPER_CLOSED, GRIPPER_OPEN, SO101, from_radians
from sim.so101.environment import SO101Environment
from sim.so101.goals import Lifted, Placed, WorldState
from sim.so101.kinematics import ARM_JOINTS, Kinematics
from sim.so101.scene import HALF_SIZE
from sim.so101.tasks import Task

Array = NDArray[np.float64]

HOVER = 0.075
"""Height (m) of the grip point when it travels to a block."""
CARRY = 0.07
"""Height (m) of a block that is carried."""
CLEARANCE = 0.009
"""Space (m) between the fixed jaw and a block on the way down."""
SPEED = 0.0075
"""Metres the grip point moves in a control step at most."""
GAIN = 0.22
"""Share of the remaining way per control step, near its end."""
ACCELERATION = 0.0012
"""Largest change (m) of the way made in one control step."""
LEASH = 0.03
"""Metres that the moving point runs ahead of the gripper at most, when something is in its way."""
ALIGNED = 0.008
"""Metres off its place at which the gripper may close."""
ON_TARGET = 0.015
"""Metres off the target's centre at which a block may be let go."""
TURN = 0.05
"""Radians the gripper turns in a control step at most."""
GRIPPER_STEP = 6.0
"""Per cent the jaws open or close in a control step at most."""


class SO101Expert(Expert):
    """Solves the suite's tasks."""

    def __init__(self, seed: int = 0, task: Task | None = None) -> None:
        """`task` is what to do, whatever the environment asks for; None takes the environment's."""
        # The small preferences below make demonstrations of one task differ, as people's do.
        self._generator = np.random.default_rng(seed)
        self._task = task
        self._kinematics: Kinematics | None = None

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode: draw this demonstration's height, speed and distance to the block."""
        assert isinstance(environment, SO101Environment)
        if self._kinematics is None:
            self._kinematics = Kinematics(environment.model)
        self._hover = HOVER + float(self._generator.uniform(-0.005, 0.01))
        self._speed = SPEED * float(self._generator.uniform(0.9, 1.1))
        self._clearance = CLEARANCE + float(self._generator.uniform(-0.002, 0.002))
        self._angles = environment.data.qpos[:ARM_JOINTS].copy()
        self._point, rotation = self._kinematics.pose(self._angles)
        self._yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        self._velocity = np.zeros(3)
        self._jaws = float(environment.robot_state()[GRIPPER])

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [6]: degrees, and the gripper in per cent."""
        assert isinstance(environment, SO101Environment) and self._kinematics is not None
        world = environment.world_state()
        yaw = nearest_side(world.block_yaw, np.pi / 2.0)
        target, jaws = self._target(self._task or environment.task, world, yaw)
        self._move(world.grip, target)
        self._yaw += float(np.clip(yaw - self._yaw, -TURN, TURN))
        self._jaws += float(np.clip(jaws - self._jaws, -GRIPPER_STEP, GRIPPER_STEP))
        self._angles = self._kinematics.solve(self._angles, self._point, self._yaw)
        command = environment.data.qpos[: GRIPPER + 1].copy()
        command[:ARM_JOINTS] = self._angles + environment.sag()[:ARM_JOINTS]
        action = from_radians(command)
        action[GRIPPER] = self._jaws
        return SO101.action.clip(action)

    def _move(self, grip: Array, target: Array) -> None:
        wanted = shortened(GAIN * (target - self._point), self._speed)
        self._velocity = self._velocity + shortened(wanted - self._velocity, ACCELERATION)
        self._point = grip + shortened(self._point + self._velocity - grip, LEASH)

    def _target(self, task: Task, world: WorldState, yaw: float) -> tuple[Array, float]:
        """The point to bring the grip to, and the gripper's command."""
        if isinstance(task.goal, Placed):
            assert world.target is not None
            return self._place(world, world.target, yaw)
        if isinstance(task.goal, Lifted) and world.gripped:
            return world.grip + np.array([0.0, 0.0, 0.06]), GRIPPER_CLOSED
        return self._grasp(world, yaw, closes=isinstance(task.goal, Lifted))

    def _grasp(self, world: WorldState, yaw: float, closes: bool = True) -> tuple[Array, float]:
        along = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        beside = world.block - self._clearance * along
        beside[2] = HALF_SIZE
        offset = world.grip - beside
        sideways = float(np.linalg.norm(offset[:2]))
        around = -ALIGNED < float(offset @ along) < self._clearance + ALIGNED
        across = abs(float(offset @ np.array([-along[1], along[0], 0.0])))
        if closes and around and across < ALIGNED and offset[2] < ALIGNED:
            return np.array([world.block[0], world.block[1], HALF_SIZE]), GRIPPER_CLOSED
        return np.array([beside[0], beside[1], funnel(self._hover, sideways)]), GRIPPER_OPEN

    def _place(self, world: WorldState, target: Array, yaw: float) -> tuple[Array, float]:
        offset = target - world.block[:2]
        sideways = float(np.linalg.norm(offset))
        if sideways < ON_TARGET and world.block[2] < HALF_SIZE + 0.005:
            return self._leave(world, yaw), GRIPPER_OPEN
        if not world.gripped:
            return self._grasp(world, yaw)
        rise = funnel(CARRY, sideways) - world.block[2]
        if rise > 0.025:
            offset = 0.15 * offset  # up first: what is dragged over the table turns in the jaws
        if sideways < 0.01:
            rise -= 0.004  # onto the table, not to just above it
        return world.grip + np.array([offset[0], offset[1], rise]), GRIPPER_CLOSED

    def _leave(self, world: WorldState, yaw: float) -> Array:
        """Away from a block that was let go: only the moving jaw leaves it by opening, the fixed one stands by it."""
        if world.gripped:
            return world.grip
        away: Array = world.grip + np.array([-0.015 * np.cos(yaw), -0.015 * np.sin(yaw), 0.03])
        return away


def funnel(height: float, sideways: float) -> float:
    """Height (m) to travel at, `sideways` (m) from the goal: `height` far away, a block's on the table at the goal."""
    return HALF_SIZE + (height - HALF_SIZE) * float(np.clip((sideways - 0.006) / 0.03, 0.0, 1.0))


def nearest_side(yaw: float, preferred: float) -> float:
    """The direction (rad) across two sides of a block turned by `yaw` that is nearest to `preferred`."""
    quarter = np.pi / 2.0
    return yaw + quarter * round((preferred - yaw) / quarter)


def shortened(vector: Array, length: float) -> Array:
    """The vector, at most `length` long, in the same direction."""
    norm = float(np.linalg.norm(vector))
    shorter: Array = vector if norm <= length else vector * (length / norm)
    return shorter
