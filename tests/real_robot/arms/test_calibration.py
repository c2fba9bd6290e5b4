"""LeRobot's calibration file and its conversions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real_robot.arms.arm import ArmError
from real_robot.arms.calibration import Calibration, JointCalibration, read_calibration

ELBOW, GRIPPER = JointCalibration(3, 0, -1200, 1000, 3001), JointCalibration(6, 0, 40, 2000, 3250)
NAMES = ("elbow_flex", "gripper")


def calibration(**changes: int) -> Calibration:
    """Of two joints; `changes` are of the gripper's."""
    return Calibration({"elbow_flex": ELBOW, "gripper": JointCalibration(**(asdict(GRIPPER) | changes))})


def test_degrees_are_from_the_middle_and_per_cent_from_the_end() -> None:
    """By hand: the middle of 1000 to 3001 is 2000.5; LeRobot counts 4095 steps as 360 degrees."""
    positions = calibration().to_positions([2500, 2125])
    np.testing.assert_allclose(positions, [499.5 * 360 / 4095, 10.0])
    assert calibration().to_steps(positions).tolist() == [2500, 2125]
    np.testing.assert_allclose(calibration().to_velocities([4095, -125]), [360.0, -10.0])


def test_an_inverted_gripper_counts_from_the_other_end() -> None:
    inverted = calibration(drive_mode=1)
    np.testing.assert_allclose(inverted.to_positions([2500, 2125])[1], 90.0)
    assert inverted.to_steps(np.array([0.0, 90.0]))[1] == 2125
    assert (inverted.low[1], inverted.high[1]) == (0.0, 100.0)


@given(st.integers(1000, 3001), st.integers(2000, 3250))
def test_steps_survive_the_way_there_and_back(elbow: int, gripper: int) -> None:
    there = calibration().to_positions([elbow, gripper])
    assert calibration().to_steps(there).tolist() == [elbow, gripper]
    assert (calibration().low <= there + 1e-9).all() and (there - 1e-9 <= calibration().high).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_no_command_leaves_the_calibrated_range(positions: list[float]) -> None:
    elbow, gripper = calibration().to_steps(np.array(positions)).tolist()
    assert 1000 <= elbow <= 3001 and 2000 <= gripper <= 3250


@given(st.integers(-47, 4048))
def test_the_encoder_s_end_is_followed_by_its_beginning(step: int) -> None:
    """A joint that is pushed past 4095 is not thrown to the other end; firmware may count on, or begin at 0 again."""
    free = Calibration({"wrist_roll": JointCalibration(5, 0, 0, 0, 4000)}, gripper=None)
    assert free.to_positions([step]) == pytest.approx(free.to_positions([step % 4096]))
    assert abs(float(free.to_positions([step])[0])) <= 2048 * 360 / 4095


def test_the_file_is_lerobot_s(tmp_path: Path) -> None:
    path = tmp_path / "arms" / "my_arm.json"
    calibration().write(path)
    assert json.loads(path.read_text())["elbow_flex"] == {
        "id": 3, "drive_mode": 0, "homing_offset": -1200, "range_min": 1000, "range_max": 3001,
    }  # fmt: skip
    assert read_calibration(path, NAMES).joints == calibration().joints
    assert [file.name for file in path.parent.iterdir()] == ["my_arm.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"elbow_flex": {"id": 3}}', "lacks 'drive_mode'"),
        ("[]", "cannot be read"),
        (json.dumps({"elbow_flex": asdict(ELBOW)}), "lacks 'gripper'"),
        (json.dumps({"elbow_flex": asdict(ELBOW) | {"range_min": 3001}, "gripper": asdict(GRIPPER)}), "must rise"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "arm.json"
    path.write_text(text)
    with pytest.raises(ArmError, match=message) as refused:
        read_calibration(path, NAMES)
    assert str(path) in str(refused.value)


def test_a_missing_file_says_where_lerobot_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(ArmError, match=r"no calibration at .*lerobot"):
        read_calibration(tmp_path / "none.json", NAMES)
