"""The arm and gripper control of robosuite 1.4 (`OSC_POSE` with its default gains), compiled, equal to the bit.

Floating-point results depend on the order of operations and on the memory layout of what a library multiplies, so both
are robosuite's here. What robosuite only records (forces, poses and velocities of recent steps) is left out.

The law is Khatib's (IEEE J. Robotics and Automation 3(1), 1987), positions and orientations decoupled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numba
import numpy as np
from numpy.typing import NDArray

from sim.core.operational_space import operational_space_torques
from sim.embodiments import POSITION_SCALE, ROTATION_SCALE

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

STIFFNESS = 150.0
"""Task-space stiffness (1/s^2), of position and orientation."""

DAMPING = 2 * math.sqrt(STIFFNESS)
"""Task-space damping (1/s): critical."""

NULL_SPACE_STIFFNESS = 10
"""Stiffness (1/s^2) of the spring that pulls the joints to where they were at the reset."""

GOAL_SCALE = np.array([POSITION_SCALE] * 3 + [ROTATION_SCALE] * 3)
"""What a full-scale action adds to the goal: metres and radians."""

FINGER_SPEED = 0.01
"""Change of the fingers' commands, each of a range of 2, in one physics substep."""


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


class ArmArrays(NamedTuple):
    """What the compiled law works on. Views into the simulation, what it saw there, what it remembers, constants."""

    qpos: Array
    qvel: Array
    bias: Array
    """[nv] gravity and velocity forces."""
    controls: Array
    site_position: Array
    site_rotation: Array
    jacobians: Array
    """[2, 3, nv] of position and rotation, as MuJoCo writes them."""
    full_mass: Array
    """[nv, nv] as MuJoCo writes it."""
    mass: Array
    """[7, 7] and below: as last seen."""
    jacobian: Array
    """[6, 7]"""
    position: Array
    rotation: Array
    velocity: Array
    """[2, 3] linear (m/s) and angular (rad/s)."""
    joints: Array
    """[2, 7] positions and velocities."""
    goal_position: Array
    goal_rotation: Array
    rest_positions: Array
    fingers: Array
    positions: Indices
    """[7] in `qpos`; and so on."""
    velocities: Indices
    joint_actuators: Indices
    finger_actuators: Indices
    torque_low: Array
    torque_high: Array
    finger_middle: Array
    finger_reach: Array


class RobosuiteArm:
    """Goal pose, finger command and the torques that follow them.

    One for each simulation: `restart` at each reset, `set_goal` at each control step. `sim.core.stepping` writes the
    controls of each physics substep, by `look` and `write_controls`.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, indices: ArmIndices) -> None:
        self._model, self._data, self.site = model, data, indices.site
        joints = len(indices.joint_positions)
        limits = model.actuator_ctrlrange[indices.joint_actuators]
        fingers = model.actuator_ctrlrange[indices.finger_actuators]
        self.arrays = ArmArrays(
            qpos=data.qpos,
            qvel=data.qvel,
            bias=data.qfrc_bias,
            controls=data.ctrl,
            site_position=data.site_xpos[indices.site],
            site_rotation=data.site_xmat[indices.site].reshape(3, 3),
            jacobians=np.zeros((2, 3, model.nv)),
            full_mass=np.zeros((model.nv, model.nv)),
            # robosuite's are in column-major order, and which routine multiplies them depends on it
            mass=np.zeros((joints, joints), order="F"),
            jacobian=np.zeros((6, joints), order="F"),
            position=np.zeros(3),
            rotation=np.eye(3),
            velocity=np.zeros((2, 3)),
            joints=np.zeros((2, joints)),
            goal_position=np.zeros(3),
            goal_rotation=np.eye(3),
            rest_positions=np.zeros(joints),
            fingers=np.zeros(2),
            positions=np.array(indices.joint_positions),
            velocities=np.array(indices.joint_velocities),
            joint_actuators=np.array(indices.joint_actuators),
            finger_actuators=np.array(indices.finger_actuators, dtype=np.int64),  # none of a tool without fingers
            torque_low=limits[:, 0].copy(),
            torque_high=limits[:, 1].copy(),
            finger_middle=0.5 * (fingers[:, 1] + fingers[:, 0]),
            finger_reach=0.5 * (fingers[:, 1] - fingers[:, 0]),
        )
        self.holds_state = False
        """Whether the next controls act on what was seen before, not on the simulation as it is then."""

    def restart(self) -> None:
        """Begin an episode, with `data` as robosuite's reset left it.

        That state's joint positions are what the null-space spring pulls to from now on, its orientation is held until
        an action turns it, and the first controls act on it even when another state is loaded in between: robosuite's
        controller looks at the simulation when it is created, at the reset, and not again before it has run once.
        """
        self._look()
        self.holds_state = True
        self.arrays.rest_positions[:] = self.arrays.joints[0]
        self.arrays.goal_rotation[:] = self.arrays.rotation
        self.arrays.fingers[:] = 0.0

    def memory(self) -> ArmMemory:
        """What it remembers now, between two control steps."""
        arrays = self.arrays
        parts = (arrays.goal_position, arrays.goal_rotation, arrays.rest_positions, arrays.fingers)
        return ArmMemory(*(part.copy() for part in parts))

    def recall(self, memory: ArmMemory) -> None:
        """Go on as if `memory` had been taken just now."""
        for name, value in vars(memory).items():
            getattr(self.arrays, name)[:] = value
        self.holds_state = False

    def set_goal(self, action: Array) -> None:
        """Move the goal pose by `action` [6] or more, in [-1, 1], from the present pose in `data`."""
        if not self.holds_state:
            self._look()
            self.holds_state = True
        change = np.clip(action[:6], -1.0, 1.0) * GOAL_SCALE
        if any(not math.isclose(value, 0.0) for value in change[3:]):
            self.arrays.goal_rotation[:] = np.dot(_rotation_of(change[3:]), self.arrays.rotation)
        self.arrays.goal_position[:] = self.arrays.position + change[:3]

    def _look(self) -> None:
        arrays = self.arrays
        mujoco.mj_jacSite(self._model, self._data, arrays.jacobians[0], arrays.jacobians[1], self.site)
        mujoco.mj_fullM(self._model, arrays.full_mass, self._data.qM)
        look(arrays)


@numba.njit(cache=True)
def look(arm: ArmArrays) -> None:
    """Take what the law needs from the simulation, once Jacobians and mass matrix are there."""
    arm.position[:] = arm.site_position
    arm.rotation[:] = arm.site_rotation
    arm.velocity[0] = np.dot(arm.jacobians[0], arm.qvel)
    arm.velocity[1] = np.dot(arm.jacobians[1], arm.qvel)
    velocities = arm.velocities
    for column in range(len(velocities)):
        for row in range(len(velocities)):
            arm.mass[row, column] = arm.full_mass[velocities[row], velocities[column]]
        for row in range(6):
            arm.jacobian[row, column] = arm.jacobians[row // 3, row % 3, velocities[column]]
        arm.joints[0, column] = arm.qpos[arm.positions[column]]
        arm.joints[1, column] = arm.qvel[velocities[column]]


@numba.njit(cache=True)
def write_controls(arm: ArmArrays, gripper: float) -> None:
    """Write joint torques and finger commands, from what was last seen; `gripper` is -1 to open and 1 to close."""
    jacobian = arm.jacobian
    jacobian_position, jacobian_rotation = _column_major(jacobian[:3]), _column_major(jacobian[3:])
    inverse_mass = np.linalg.inv(arm.mass)
    inertia = np.linalg.pinv(np.dot(np.dot(jacobian, inverse_mass), jacobian.transpose()))
    inertia_position = np.linalg.pinv(np.dot(np.dot(jacobian_position, inverse_mass), jacobian_position.transpose()))
    inertia_rotation = np.linalg.pinv(np.dot(np.dot(jacobian_rotation, inverse_mass), jacobian_rotation.transpose()))
    inverse_jacobian = np.dot(inverse_mass, jacobian.transpose()).dot(inertia)
    null_space = np.eye(jacobian.shape[-1], jacobian.shape[-1]) - np.dot(inverse_jacobian, jacobian)
    null_damping = np.sqrt(NULL_SPACE_STIFFNESS) * 2
    spring = NULL_SPACE_STIFFNESS * (arm.rest_positions - arm.joints[0]) - null_damping * arm.joints[1]
    null_torques = np.dot(null_space.transpose(), np.dot(arm.mass, spring))
    force = (arm.goal_position - arm.position) * STIFFNESS - arm.velocity[0] * DAMPING
    torque = _rotation_error(arm.goal_rotation, arm.rotation) * STIFFNESS - arm.velocity[1] * DAMPING
    wrench = np.empty(6)
    wrench[:3] = np.dot(inertia_position, force)
    wrench[3:] = np.dot(inertia_rotation, torque)
    torques = np.dot(jacobian.T, wrench)
    for joint in range(len(torques)):
        torques[joint] = torques[joint] + arm.bias[arm.velocities[joint]] + null_torques[joint]
    _write(arm, torques, gripper)


@numba.njit(cache=True)
def write_controls_quickly(arm: ArmArrays, gripper: float) -> None:
    """`write_controls` by cheaper arithmetic: the same up to rounding, away from singular poses."""
    torques = np.empty(len(arm.velocities))
    operational_space_torques(
        arm.joints[0],
        arm.joints[1],
        arm.mass,
        arm.jacobian[:3],
        arm.jacobian[3:],
        arm.bias[arm.velocities],
        arm.position,
        arm.rotation,
        arm.goal_position,
        arm.goal_rotation,
        arm.rest_positions,
        STIFFNESS,
        float(NULL_SPACE_STIFFNESS),
        arm.torque_high,
        torques,
    )
    _write(arm, torques, gripper)


@numba.njit(cache=True)
def _write(arm: ArmArrays, torques: Array, gripper: float) -> None:
    for joint in range(len(torques)):
        torque = min(max(torques[joint], arm.torque_low[joint]), arm.torque_high[joint])
        arm.controls[arm.joint_actuators[joint]] = torque
    for finger in range(len(arm.finger_actuators)):
        change = (FINGER_SPEED if finger else -FINGER_SPEED) * np.sign(gripper)
        arm.fingers[finger] = min(max(arm.fingers[finger] + change, -1.0), 1.0)
        command = arm.finger_middle[finger] + arm.finger_reach[finger] * arm.fingers[finger]
        arm.controls[arm.finger_actuators[finger]] = command


@numba.njit(cache=True)
def _column_major(rows: Array) -> Array:
    copy = np.empty((rows.shape[1], rows.shape[0])).T
    copy[:] = rows
    return copy


@numba.njit(cache=True)
def _rotation_error(desired: Array, current: Array) -> Array:
    """Small-angle rotation vector [3] from `current` to `desired`, both [3, 3]: half the axes' cross products.

    `orientation_error` of `sim.core.operational_space`, in robosuite's order of additions.
    """
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
