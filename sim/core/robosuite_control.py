"""The arm and gripper control of robosuite 1.4 (`OSC_POSE` with its default gains), equal to robosuite's to the bit.

Floating-point results depend on the order of operations and on which library multiplies the matrices, so each product
is made where robosuite makes it: inside compiled functions (numba's BLAS) or outside (numpy's), on arrays of the same
memory layout. What robosuite only records (forces, poses and velocities of recent steps) is left out.

The law is Khatib's (IEEE J. Robotics and Automation 3(1), 1987), positions and orientations decoupled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STIFFNESS = 150.0
"""Task-space stiffness (1/s^2), of position and orientation."""

DAMPING = 2 * math.sqrt(STIFFNESS)
"""Task-space damping (1/s): critical."""

NULL_SPACE_STIFFNESS = 10
"""Stiffness (1/s^2) of the spring that pulls the joints to where they were at the reset."""

GOAL_SCALE = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5])
"""What a full-scale action adds to the goal: metres and radians."""

FINGER_SPEEDS = np.array([-0.01, 0.01])
"""Change of the two fingers' commands (each of a range of 2) in one physics substep of closing."""


@dataclass(frozen=True)
class ArmIndices:
    """Where a model keeps its arm and gripper."""

    site: int
    """The point between the fingertips that is controlled."""
    joint_positions: list[int]
    """Of the 7 joints, in `qpos`."""
    joint_velocities: list[int]
    """The same in `qvel`."""
    joint_actuators: list[int]
    finger_actuators: list[int]


@dataclass(frozen=True)
class ArmMemory:
    """What the control law remembers between control steps."""

    goal_position: Array
    goal_rotation: Array
    rest_positions: Array
    fingers: Array


class RobosuiteArm:
    """Goal pose, finger command and the torques that follow them.

    Create one for each model; `restart` at each reset, `set_goal` before each control step, `write_controls` before
    each physics substep, when `data` holds positions and velocities that belong together.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, indices: ArmIndices) -> None:
        self._model, self._data, self._site = model, data, indices.site
        positions, self._velocities = np.array(indices.joint_positions), np.array(indices.joint_velocities)
        self._joint_actuators = np.array(indices.joint_actuators)
        self._finger_actuators = np.array(indices.finger_actuators)
        self._jacobians = np.zeros((2, 3, model.nv))  # of position and rotation
        self._mass = np.zeros((model.nv, model.nv))
        # robosuite's arrays are in column-major order, and which routine multiplies them depends on it.
        joints = len(indices.joint_positions)
        self._arm_jacobian = np.zeros((6, joints), order="F")
        self._arm_mass = np.zeros((joints, joints), order="F")
        self._wrench = np.zeros(6)
        # Views into the simulation, made once: making one costs as much as the arithmetic on it.
        self._joint_space = (data.qpos, data.qvel, positions, self._velocities)
        self._qvel, self._bias, self._controls = data.qvel, data.qfrc_bias, data.ctrl
        self._site_pose = data.site_xpos[indices.site], data.site_xmat[indices.site].reshape(3, 3)
        self._position, self._rotation, self._velocity = np.zeros(3), np.eye(3), np.zeros((2, 3))
        self._joints = np.zeros((2, joints))  # positions and velocities
        self.holds_state = False
        self._torque_low, self._torque_high = model.actuator_ctrlrange[self._joint_actuators].T.copy()
        fingers = model.actuator_ctrlrange[self._finger_actuators]
        self._finger_middle = 0.5 * (fingers[:, 1] + fingers[:, 0])
        self._finger_reach = 0.5 * (fingers[:, 1] - fingers[:, 0])
        self._goal_position, self._goal_rotation = np.zeros(3), np.eye(3)
        self._rest_positions = np.zeros(joints)
        self._fingers = np.zeros(2)

    def restart(self) -> None:
        """Begin an episode, with `data` as robosuite's reset left it.

        That state's joint positions are what the null-space spring pulls to from now on, its orientation is held until
        an action turns it, and the first `write_controls` acts on it even when another state is loaded in between:
        robosuite's controller looks at the simulation when it is created, at the reset, and not again before it has run
        once.
        """
        self._look()
        self.holds_state = True
        self._rest_positions = self._joints[0].copy()
        self._goal_rotation = self._rotation.copy()
        self._fingers = np.zeros(2)

    def memory(self) -> ArmMemory:
        """What it remembers now, between two control steps."""
        parts = (self._goal_position, self._goal_rotation, self._rest_positions, self._fingers)
        return ArmMemory(*(part.copy() for part in parts))

    def recall(self, memory: ArmMemory) -> None:
        """Go on as if `memory` had been taken just now."""
        self._goal_position, self._goal_rotation = memory.goal_position.copy(), memory.goal_rotation.copy()
        self._rest_positions, self._fingers = memory.rest_positions.copy(), memory.fingers.copy()
        self.holds_state = False

    def set_goal(self, action: Array) -> None:
        """Move the goal pose by `action` [6] or more, in [-1, 1], from the present pose in `data`."""
        if not self.holds_state:
            self._look()
            self.holds_state = True
        change = np.clip(action[:6], -1.0, 1.0) * GOAL_SCALE
        if any(not math.isclose(value, 0.0) for value in change[3:]):
            self._goal_rotation = np.dot(_rotation_of(change[3:]), self._rotation)
        self._goal_position = self._position + change[:3]

    def write_controls(self, gripper: float) -> None:
        """Write joint torques and finger commands into `data.ctrl`; `gripper` is -1 to open and 1 to close."""
        if not self.holds_state:
            self._look()
        self.holds_state = False
        rotation_error = _rotation_error(self._goal_rotation, self._rotation)
        inertia_position, inertia_rotation, null_torques = _inertias_and_null_torques(
            self._arm_mass, self._arm_jacobian, self._rest_positions, self._joints
        )
        force = (self._goal_position - self._position) * STIFFNESS - self._velocity[0] * DAMPING
        torque = rotation_error * STIFFNESS - self._velocity[1] * DAMPING
        self._wrench[:3] = np.dot(inertia_position, force)
        self._wrench[3:] = np.dot(inertia_rotation, torque)
        torques = np.dot(self._arm_jacobian.T, self._wrench) + self._bias[self._velocities] + null_torques
        self._controls[self._joint_actuators] = np.minimum(np.maximum(torques, self._torque_low), self._torque_high)
        self._fingers = np.minimum(np.maximum(self._fingers + np.sign(gripper) * FINGER_SPEEDS, -1.0), 1.0)
        self._controls[self._finger_actuators] = self._finger_middle + self._finger_reach * self._fingers

    def _look(self) -> None:
        """Take what the control law needs from the simulation."""
        jacobian_position, jacobian_rotation = self._jacobians
        mujoco.mj_jacSite(self._model, self._data, jacobian_position, jacobian_rotation, self._site)
        mujoco.mj_fullM(self._model, self._mass, self._data.qM)
        self._position[:], self._rotation[:] = self._site_pose
        np.dot(jacobian_position, self._qvel, out=self._velocity[0])
        np.dot(jacobian_rotation, self._qvel, out=self._velocity[1])
        _gather(self._mass, self._jacobians, *self._joint_space, self._arm_mass, self._arm_jacobian, self._joints)


@numba.njit(cache=True)
def _gather(
    full_mass: Array,
    jacobians: Array,
    qpos: Array,
    qvel: Array,
    positions: NDArray[np.int64],
    velocities: NDArray[np.int64],
    mass: Array,
    jacobian: Array,
    joints: Array,
) -> None:
    """The arm's part of the mass matrix [nv, nv], `jacobians` [2, 3, nv] and joint positions and velocities.

    Chosen by the arm's `positions` [7] in `qpos` and `velocities` [7] in `qvel`, and written into `mass` [7, 7],
    `jacobian` [6, 7] and `joints` [2, 7].
    """
    for column in range(len(velocities)):
        for row in range(len(velocities)):
            mass[row, column] = full_mass[velocities[row], velocities[column]]
        for row in range(6):
            jacobian[row, column] = jacobians[row // 3, row % 3, velocities[column]]
        joints[0, column] = qpos[positions[column]]
        joints[1, column] = qvel[velocities[column]]


@numba.njit(cache=True)
def _column_major(rows: Array) -> Array:
    copy = np.empty((rows.shape[1], rows.shape[0])).T
    copy[:] = rows
    return copy


@numba.njit(cache=True)
def _inertias_and_null_torques(
    mass: Array, jacobian: Array, rest_positions: Array, joints: Array
) -> tuple[Array, Array, Array]:
    """Task-space inertias [3, 3] of position and rotation, and the null space's torques [7].

    `mass` [7, 7], `jacobian` [6, 7], `rest_positions` [7], `joints` [2, 7] positions and velocities.
    """
    jacobian_position, jacobian_rotation = _column_major(jacobian[:3]), _column_major(jacobian[3:])
    inverse_mass = np.linalg.inv(mass)
    inertia = np.linalg.pinv(np.dot(np.dot(jacobian, inverse_mass), jacobian.transpose()))
    inertia_position = np.linalg.pinv(np.dot(np.dot(jacobian_position, inverse_mass), jacobian_position.transpose()))
    inertia_rotation = np.linalg.pinv(np.dot(np.dot(jacobian_rotation, inverse_mass), jacobian_rotation.transpose()))
    inverse_jacobian = np.dot(inverse_mass, jacobian.transpose()).dot(inertia)
    null_space = np.eye(jacobian.shape[-1], jacobian.shape[-1]) - np.dot(inverse_jacobian, jacobian)
    damping = np.sqrt(NULL_SPACE_STIFFNESS) * 2
    spring = np.dot(mass, NULL_SPACE_STIFFNESS * (rest_positions - joints[0]) - damping * joints[1])
    return inertia_position, inertia_rotation, np.dot(null_space.transpose(), spring)


@numba.njit(cache=True)
def _rotation_error(desired: Array, current: Array) -> Array:
    """Small-angle rotation vector [3] from `current` to `desired`, both [3, 3]: half the axes' cross products."""
    error = np.cross(current[0:3, 0], desired[0:3, 0]) + np.cross(current[0:3, 1], desired[0:3, 1])
    return 0.5 * (error + np.cross(current[0:3, 2], desired[0:3, 2]))


def _rotation_of(vector: Array) -> Any:
    """Rotation matrix [3, 3] of a rotation vector (rad, 3)."""
    angle = np.linalg.norm(vector)
    quaternion = np.zeros(4)
    quaternion[3] = np.cos(angle / 2.0)
    quaternion[:3] = vector / angle * np.sin(angle / 2.0)
    return _matrix_of_quaternion(quaternion)


@numba.njit(cache=True)
def _matrix_of_quaternion(quaternion: Array) -> Array:
    """Rotation matrix [3, 3] of a quaternion (x, y, z, w), computed in float32 as robosuite does."""
    q = quaternion.astype(np.float32)[np.array([3, 0, 1, 2])]
    q *= math.sqrt(2.0 / np.dot(q, q))
    p = np.outer(q, q)
    return np.array(
        [
            [1.0 - p[2, 2] - p[3, 3], p[1, 2] - p[3, 0], p[1, 3] + p[2, 0]],
            [p[1, 2] + p[3, 0], 1.0 - p[1, 1] - p[3, 3], p[2, 3] - p[1, 0]],
            [p[1, 3] - p[2, 0], p[2, 3] + p[1, 0], 1.0 - p[1, 1] - p[2, 2]],
        ]
    )
