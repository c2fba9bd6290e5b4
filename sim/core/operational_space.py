"""Operational-space control of a 7-joint arm, compiled.

The law is Khatib's (IEEE J. Robotics and Automation 3(1), 1987) in the decoupled form of robosuite 1.4's `OSC_POSE`:
position and orientation errors are turned into a wrench through separate 3 x 3 task-space inertias, gravity and
velocity forces are compensated, and a joint-space spring acts in the null space.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@numba.njit(cache=True)
def cholesky_solve(matrix: Array, right_hand_side: Array) -> Array:
    """Solve `matrix @ x = right_hand_side` for a symmetric positive definite [n, n] matrix and [n, k] right-hand side.

    Written out because a LAPACK call costs more than the arithmetic at n = 3 and n = 7.
    """
    n = matrix.shape[0]
    columns = right_hand_side.shape[1]
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                lower[i, i] = np.sqrt(max(total, 1e-12))
            else:
                lower[i, j] = total / lower[j, j]
    solution = right_hand_side.copy()
    for c in range(columns):
        for i in range(n):
            total = solution[i, c]
            for k in range(i):
                total -= lower[i, k] * solution[k, c]
            solution[i, c] = total / lower[i, i]
        for i in range(n - 1, -1, -1):
            total = solution[i, c]
            for k in range(i + 1, n):
                total -= lower[k, i] * solution[k, c]
            solution[i, c] = total / lower[i, i]
    return solution


@numba.njit(cache=True)
def orientation_error(desired: Array, current: Array) -> Array:
    """Small-angle rotation vector (rad, 3) from `current` to `desired`, both [3, 3] rotation matrices.

    Half the sum of the cross products of matching axes: exact direction, sine of the angle in magnitude.
    """
    error = np.zeros(3)
    for axis in range(3):
        error[0] += 0.5 * (current[1, axis] * desired[2, axis] - current[2, axis] * desired[1, axis])
        error[1] += 0.5 * (current[2, axis] * desired[0, axis] - current[0, axis] * desired[2, axis])
        error[2] += 0.5 * (current[0, axis] * desired[1, axis] - current[1, axis] * desired[0, axis])
    return error


@numba.njit(cache=True)
def operational_space_torques(
    joint_positions: Array,
    joint_velocities: Array,
    mass_matrix: Array,
    jacobian_position: Array,
    jacobian_rotation: Array,
    bias_forces: Array,
    position: Array,
    rotation: Array,
    goal_position: Array,
    goal_rotation: Array,
    rest_positions: Array,
    stiffness: float,
    null_space_stiffness: float,
    torque_limits: Array,
    torques: Array,
) -> None:
    """Write the 7 joint torques (N m) that pull the end effector to its goal pose into `torques`.

    Shapes: joint arrays [7]; `mass_matrix` [nv, nv] and Jacobians [3, nv] of the whole model, of which the first seven
    degrees of freedom are the arm's; poses [3] and [3, 3]. Damping is critical: 2 sqrt(stiffness).
    """
    joints = joint_positions.shape[0]
    damping = 2.0 * np.sqrt(stiffness)
    null_damping = 2.0 * np.sqrt(null_space_stiffness)
    mass = np.empty((joints, joints))
    jacobian = np.empty((6, joints))
    for i in range(joints):
        for j in range(joints):
            mass[i, j] = mass_matrix[i, j]
        for axis in range(3):
            jacobian[axis, i] = jacobian_position[axis, i]
            jacobian[3 + axis, i] = jacobian_rotation[axis, i]
    velocity = jacobian @ joint_velocities
    rotation_error = orientation_error(goal_rotation, rotation)
    acceleration = np.empty((6, 1))
    for axis in range(3):
        acceleration[axis, 0] = stiffness * (goal_position[axis] - position[axis]) - damping * velocity[axis]
        acceleration[3 + axis, 0] = stiffness * rotation_error[axis] - damping * velocity[3 + axis]
    inverse_mass_jacobian = cholesky_solve(mass, jacobian.T.copy())  # [7, 6]
    inverse_inertia = jacobian @ inverse_mass_jacobian  # [6, 6]
    for axis in range(6):
        inverse_inertia[axis, axis] += 1e-9
    wrench = np.empty((6, 1))
    wrench[:3] = cholesky_solve(inverse_inertia[:3, :3].copy(), acceleration[:3].copy())
    wrench[3:] = cholesky_solve(inverse_inertia[3:, 3:].copy(), acceleration[3:].copy())
    null_torque = np.zeros((joints, 1))
    for i in range(joints):
        for j in range(joints):
            null_torque[i, 0] += mass[i, j] * (
                null_space_stiffness * (rest_positions[j] - joint_positions[j]) - null_damping * joint_velocities[j]
            )
    # Project the spring: (I - J^T Lambda J M^-1) tau.
    projected = cholesky_solve(inverse_inertia, inverse_mass_jacobian.T.copy() @ null_torque)
    for i in range(joints):
        torque = bias_forces[i] + null_torque[i, 0]
        for axis in range(6):
            torque += jacobian[axis, i] * (wrench[axis, 0] - projected[axis, 0])
        torques[i] = min(max(torque, -torque_limits[i]), torque_limits[i])


def rotation_vector_to_matrix(vector: Array) -> Array:
    """Rodrigues' formula: rotation matrix [3, 3] of a rotation vector (rad, 3)."""
    angle = float(np.sqrt(vector @ vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross))


def matrix_to_rotation_vector(matrix: Array) -> Array:
    """Axis-angle vector (rad, 3) of a rotation matrix, angle in [0, pi]."""
    cosine = min(max((matrix[0, 0] + matrix[1, 1] + matrix[2, 2] - 1.0) / 2.0, -1.0), 1.0)
    angle = float(np.arccos(cosine))
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    if angle < 1e-6:
        return np.asarray(0.5 * skew)
    if angle < np.pi - 1e-3:
        return np.asarray(angle / (2.0 * np.sin(angle)) * skew)
    # Near a half turn the skew part vanishes: read the axis off the symmetric part, its sign off the skew part.
    symmetric = (matrix + matrix.T) / 2.0
    column = int(np.argmax(np.diag(symmetric)))
    axis = symmetric[:, column] - cosine * np.eye(3)[:, column]
    axis = axis / np.linalg.norm(axis)
    if axis @ skew < 0.0:
        axis = -axis
    return np.asarray(angle * axis)
