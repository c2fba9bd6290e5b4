"""Where the servos of an arm stand for which angles: LeRobot's calibration file and its conversions.

The file is `{joint: {id, drive_mode, homing_offset, range_min, range_max}}`. A body joint is told in degrees from the
middle of its range, a gripper in per cent of its range: LeRobot's modes DEGREES and RANGE_0_100.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError
from real_robot.arms.registers import RESOLUTION
from vla.run.files import write_json

FULL_TURN = RESOLUTION - 1
"""Steps that LeRobot counts as 360 degrees; its angles, and those of its datasets, are larger by a part in 4096."""


@dataclass(frozen=True)
class JointCalibration:
    """One joint, in the servo's steps."""

    id: int
    drive_mode: int
    """1 for a gripper whose per cent run the other way; degrees ignore it, as LeRobot's do."""
    homing_offset: int
    """What the servo subtracts from its encoder."""
    range_min: int
    range_max: int


class Calibration:
    """An arm's joints in order, with the conversions between steps and positions [J] in degrees and per cent."""

    def __init__(self, joints: Mapping[str, JointCalibration], gripper: str | None = "gripper") -> None:
        """`gripper` is told in per cent, every other joint in degrees. Raises `ArmError` for an empty range."""
        for name, joint in joints.items():
            if not 0 <= joint.range_min < joint.range_max < RESOLUTION:
                raise ArmError(
                    f"calibration: {name} has the range {joint.range_min} to {joint.range_max}; it must rise and lie "
                    f"in 0 to {RESOLUTION - 1}: calibrate the arm again"
                )
        self.joints = dict(joints)
        self.names = tuple(joints)
        low = np.array([joint.range_min for joint in joints.values()], np.float64)
        high = np.array([joint.range_max for joint in joints.values()], np.float64)
        self._range = low, high
        self._zero = (low + high) / 2.0
        self._scale = np.full(len(joints), 360.0 / FULL_TURN)
        if gripper is not None:
            index = self.names.index(gripper)
            inverted = bool(self.joints[gripper].drive_mode)
            self._scale[index] = (-100.0 if inverted else 100.0) / (high - low)[index]
            self._zero[index] = high[index] if inverted else low[index]

    @property
    def low(self) -> NDArray[np.float64]:
        """[J] the smallest positions of the calibrated range."""
        ends = [self._convert(end) for end in self._range]
        lowest: NDArray[np.float64] = np.minimum(ends[0], ends[1])
        return lowest

    @property
    def high(self) -> NDArray[np.float64]:
        """[J] the largest positions of the calibrated range."""
        ends = [self._convert(end) for end in self._range]
        highest: NDArray[np.float64] = np.maximum(ends[0], ends[1])
        return highest

    @property
    def step(self) -> NDArray[np.float64]:
        """[J] how far one step of the servo moves a position."""
        step: NDArray[np.float64] = np.abs(self._scale)
        return step

    def to_positions(self, steps: Sequence[int] | NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions [J] of what the servos report [J].

        An encoder's last step is followed by its first: each report stands for the angle within half a turn of the
        middle of the joint's range. NaN stays NaN.
        """
        middle = (self._range[0] + self._range[1]) / 2.0
        turns = np.round((np.asarray(steps, np.float64) - middle) / RESOLUTION)
        return self._convert(np.asarray(steps, np.float64) - turns * RESOLUTION)

    def to_steps(self, positions: NDArray[np.float64]) -> NDArray[np.int64]:
        """The servos' steps [J] nearest to positions [J], always within the calibrated range."""
        steps = np.asarray(positions, np.float64) / self._scale + self._zero
        clipped: NDArray[np.int64] = np.clip(np.round(steps), *self._range).astype(np.int64)
        return clipped

    def to_velocities(self, steps: Sequence[int] | NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Velocities [J] in degrees and per cent a second, of the servos' steps a second."""
        velocities: NDArray[np.float64] = np.asarray(steps, np.float64) * self._scale
        return velocities

    def _convert(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        positions: NDArray[np.float64] = (steps - self._zero) * self._scale
        return positions

    def write(self, path: Path) -> None:
        """Write the file, wholly or not at all. Raises `ReflexError` when it cannot be."""
        write_json(path, {name: asdict(joint) for name, joint in self.joints.items()})


def read_calibration(path: Path, names: Sequence[str], gripper: str | None = "gripper") -> Calibration:
    """The calibration of an arm with joints `names`. Raises `ArmError` naming the file and what is wrong in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        keys = [field.name for field in fields(JointCalibration)]
        joints = {name: JointCalibration(**{key: int(found[name][key]) for key in keys}) for name in names}
    except FileNotFoundError as error:
        raise ArmError(
            f"there is no calibration at {path}; copy LeRobot's (~/.cache/huggingface/lerobot/calibration/robots/...) "
            "or make one with lerobot-calibrate"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ArmError(f"the calibration {path} cannot be read ({error}); make it again") from error
    except KeyError as error:
        raise ArmError(f"the calibration {path} lacks {error}; it must have {', '.join(names)}") from error
    try:
        return Calibration(joints, gripper)
    except ArmError as error:
        raise ArmError(f"{path}: {error}") from error
