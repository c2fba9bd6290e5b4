"""Inverse kinematics of the arm by damped least squares (Wampler 1986; Nakamura and Hanafusa 1986)."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.core.operational_space import orientation_error
from sim.so101.embodiment import JOINT_LIMITS

Array = NDArray[np.float64]

ARM_JOINTS = 5
DAMPING = 0.003
ROTATION_WEIGHT = 0.01
"""Metres that one radian of wrong orientation counts as. Little: where the wrist cannot bend far enough to point
straight down, the gripper shall tilt and not miss its place."""
LARGEST_STEP = 0.3
"""Radians a joint moves in one iteration: far from the target the Jacobian says little about the way there."""

_LOW, _HIGH = JOINT_LIMITS[:ARM_JOINTS, 0], JOINT_LIMITS[:ARM_JOINTS, 1]


def damped_least_squares(jacobian: Array, error: Array, damping: float) -> Array:
    """The step [n] that reduces `error` [m] most for its length: J^T (J J^T + damping^2 I)^-1 e, J [m, n]."""
    gram = jacobian @ jacobian.T
    gram[np.diag_indices_from(gram)] += damping * damping
    step: Array = jacobian.T @ np.linalg.solve(gram, error)
    return step


def limited_step(jacobian: Array, error: Array, angles: Array) -> Array:
    """`damped_least_squares` [5] with the joints at rest that are at a limit and would be moved beyond it."""
    step = damped_least_squares(jacobian, error, DAMPING)
    stuck = ((angles <= _LOW) & (step < 0.0)) | ((angles >= _HIGH) & (step > 0.0))
    if not stuck.any():
        return step
    step = damped_least_squares(np.where(stuck, 0.0, jacobian), error, DAMPING)
    return np.where(stuck, 0.0, step)


def downward(yaw: float) -> Array:
    """Rotation matrix [3, 3] of the gripper pointing straight down, jaws opening along `yaw` (rad) on the table."""
    return np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])


class Kinematics:
    """Joint angles for poses of the grip point, on a model of the arm."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._site = model.site("grip").id
        self._jacobian = np.zeros((6, model.nv))

    def pose(self, angles: Array) -> tuple[Array, Array]:
        """Position [3] (m) and rotation matrix [3, 3] of the grip point at joint angles (rad) [5] or more."""
        data = self._data
        data.qpos[: len(angles)] = angles
        mujoco.mj_kinematics(self._model, data)
        return data.site_xpos[self._site].copy(), data.site_xmat[self._site].reshape(3, 3).copy()

    def solve(self, start: Array, position: Array, yaw: float, iterations: int = 20) -> Array:
        """Angles (rad) [5] that bring the grip point to `position` (m, 3), pointing down with the jaws along `yaw`.

        The search begins at `start` [5] and ends within the joints' limits. Out of reach, the nearest pose found.
        """
        angles, rotation = np.array(start[:ARM_JOINTS], dtype=np.float64), downward(yaw)
        weights = np.array([1.0, 1.0, 1.0, ROTATION_WEIGHT, ROTATION_WEIGHT, ROTATION_WEIGHT])
        for _ in range(iterations):
            error = weights * self._error(angles, position, rotation)
            if float(np.abs(error).max()) < 1e-5:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
            step = limited_step(weights[:, None] * self._jacobian[:, :ARM_JOINTS], error, angles)
            step *= min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), 1e-9))
            angles = np.clip(angles + step, _LOW, _HIGH)
        return angles

    def _error(self, angles: Array, position: Array, rotation: Array) -> Array:
        found, orientation = self.pose(angles)
        return np.concatenate([position - found, orientation_error(rotation, orientation)])
