"""The SO-101 as LeRobot records it: six servos told where to be, in degrees, and the gripper in per cent of its travel.

Names and units are those of a dataset that `lerobot-record` makes of this arm in its default mode: "shoulder_pan.pos"
and so on, degrees from the middle of each joint's range, and a gripper of 0 (shut) to 100 (wide open).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray
from sim.embodiments import Action, Camera, Embodiment, State

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
JOINT_LIMITS = np.array(
    [
        [-1.9198621771937616, 1.9198621771937634],
        [-1.7453292519943224, 1.7453292519943366],
        [-1.69, 1.69],
        [-1.6580628494556928, 1.6580627293335335],
        [-2.7438472969992493, 2.841206309382605],
        [-0.17453297762778586, 1.7453291995659765],
    ]
)
"""[6, 2] rad: what the arm's model allows."""
GRIPPER = 5
CONTROL_FREQUENCY = 30.0
GRIPPER_OPEN = 60.0
"""Per cent at which the jaws are wide enough to go down around a block."""
GRIPPER_CLOSED = 15.0
"""Per cent that presses the jaws on a block, which stops them at about 30."""

_SCALE = np.full(6, 180.0 / math.pi)
_SCALE[GRIPPER] = 100.0 / (JOINT_LIMITS[GRIPPER, 1] - JOINT_LIMITS[GRIPPER, 0])
_ZERO = np.zeros(6)
_ZERO[GRIPPER] = JOINT_LIMITS[GRIPPER, 0]


def to_radians(commands: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Joint angles (rad) [..., 6] of the model for commands [..., 6] in degrees and per cent."""
    angles: NDArray[np.float64] = np.asarray(commands, dtype=np.float64) / _SCALE + _ZERO
    return angles


def from_radians(angles: NDArray[np.float64]) -> FloatArray:
    """Inverse of `to_radians`, as float32: what the arm reports."""
    commands: FloatArray = ((angles - _ZERO) * _SCALE).astype(np.float32)
    return commands


_LOW, _HIGH = from_radians(JOINT_LIMITS[:, 0]), from_radians(JOINT_LIMITS[:, 1])
_NAMES = tuple(f"{joint}.pos" for joint in JOINTS)
_UNITS = ("deg",) * 5 + ("%",)

SO101 = Embodiment(
    name="so101",
    cameras=(Camera("front", 64, 64), Camera("wrist", 64, 64)),
    state=State(names=_NAMES, units=_UNITS),
    action=Action(
        names=_NAMES,
        kind="joint_position",
        low=tuple(map(float, _LOW)),
        high=tuple(map(float, _HIGH)),
        units=_UNITS,
        gripper=GRIPPER,
        gripper_closed=GRIPPER_CLOSED,
        gripper_open=GRIPPER_OPEN,
        stay=None,
    ),
    control_frequency=CONTROL_FREQUENCY,
)
"""The arm with a camera in front of it and one on its gripper.

State: where the six servos are. Action: where they shall be, as LeRobot's SO-101 follower takes it."""
