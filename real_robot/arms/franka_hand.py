"""The command space of a Franka: where its hand is, and what a policy's changes of that add up to.

A hand pose and not joint angles, because the policies that drive this arm (`sim.embodiments.PANDA_EEF`: tabletop,
LIBERO) change the hand's pose. So the limits of the action filter mean what they say where the hand is, a change is an
addition, and the arm's own controller, which knows its kinematics, finds the joint angles.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.core.operational_space import matrix_to_rotation_vector, rotation_vector_to_matrix
from sim.embodiments import PANDA_EEF, POSITION_SCALE, ROTATION_SCALE, Action, Embodiment
from vla.safety.limits import MotionLimits

Array = NDArray[np.float64]

DOWN = np.diag([1.0, -1.0, -1.0])
"""A hand that points straight down, its fingers opening along y: the rotation [3, 3] that turns are counted from."""
WIDTH = 0.08
"""Metres between the fingers of an open Franka hand."""


def hand_embodiment(limits: MotionLimits) -> Embodiment:
    """A Franka told where its hand shall be.

    The kind is `joint_position` for whoever has to know that its numbers are positions and may be limited as such.
    """
    action = Action(
        names=limits.names,
        kind="joint_position",
        low=limits.low,
        high=limits.high,
        units=limits.units,
        gripper=6,
        gripper_closed=1.0,
        gripper_open=-1.0,
    )
    return dataclasses.replace(PANDA_EEF, name="franka", action=action)


def command_of(place: Array, rotation: Array, width: float) -> Array:
    """Hand pose and gripper as a command [7]: m (3), turn away from `DOWN` (rad, 3), gripper from -1 open to 1 closed.

    `place` is [3] (m), `rotation` [3, 3] and `width` the metres between the fingers.
    """
    turn = matrix_to_rotation_vector(rotation @ DOWN.T)
    return np.concatenate([place, turn, [1.0 - 2.0 * width / WIDTH]])


def rotation_of(command: Array) -> Array:
    """Rotation [3, 3] of the hand that a command [7] asks for."""
    return rotation_vector_to_matrix(command[3:6]) @ DOWN


def state_of(place: Array, rotation: Array, width: float) -> NDArray[np.float32]:
    """The same as the state [8] of `PANDA_EEF`, the fingers with opposite signs as in the suites."""
    orientation = matrix_to_rotation_vector(rotation)
    if orientation[0] < 0.0:  # straight down is a half turn about x, where the sign flips
        orientation = orientation * (1.0 - 2.0 * np.pi / max(float(np.linalg.norm(orientation)), 1e-9))
    return np.concatenate([place, orientation, [width / 2.0, -width / 2.0]]).astype(np.float32)


@dataclass(frozen=True)
class HandDeltas:
    """What changes of the hand's pose, as `PANDA_EEF` has them, come to on an arm that is told positions."""

    response: float = 0.47
    """Share of a change that the hand really moves in one control step. In simulation a change moves the goal of an
    impedance controller, and the hand is still on its way when the next one comes: with the tabletop suite's stiffness
    (600 1/s^2, critically damped) a steady change of 5 cm moves it 2.34 cm."""

    def positions(self, changes: Array, state: NDArray[np.float32]) -> Array:
        """Commands [H, 7] that changes [H, 7] ask for one after another, from the state [8] they were decided on."""
        place = np.asarray(state[:3], np.float64)
        rotation = rotation_vector_to_matrix(np.asarray(state[3:6], np.float64))
        commands = np.empty((len(changes), 7))
        for index, change in enumerate(np.asarray(changes, np.float64)):
            place = place + self.response * POSITION_SCALE * change[:3]
            rotation = rotation_vector_to_matrix(self.response * ROTATION_SCALE * change[3:6]) @ rotation
            commands[index] = command_of(place, rotation, 0.0)
            commands[index, 6] = change[6]
        return commands
