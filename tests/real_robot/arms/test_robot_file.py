"""The file of a robot, and the arms by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_robot.arms.arm import ArmError
from real_robot.arms.registry import make_arm
from real_robot.arms.robot_file import FOLDER, read_robot_file
from real_robot.arms.simulated import SimulatedArm, SimulatedSettings
from real_robot.preparation import filter_settings
from sim.so101.embodiment import SO101
from sim.so101.expert import GRIPPER_STEP
from vla.errors import ReflexError
from vla.safety.config import FilterConfig

SHIPPED = (FOLDER / "so101.yaml").read_text()


def test_the_so101_s_file_is_of_its_embodiment() -> None:
    robot = read_robot_file("so101")
    assert robot.arm == "so101"
    assert robot.limits.names == SO101.action.names and robot.limits.units == SO101.action.units
    np.testing.assert_allclose(robot.limits.low, SO101.action.low, atol=0.1)
    np.testing.assert_allclose(robot.limits.high, SO101.action.high, atol=0.1)
    assert robot.limits.workspace is not None and robot.limits.workspace.low == (0.05, -0.30, 0.0)
    assert robot.limits.velocity[-1] > GRIPPER_STEP * SO101.control_frequency, "the expert's jaws are faster"


def test_how_far_an_arm_may_be_from_its_goal_is_the_file_s_unless_it_is_set(tmp_path: Path) -> None:
    robot, limits = read_robot_file("so101"), read_robot_file("so101").limits
    assert robot.max_tracking_error == (30.0,) * 5 + (101.0,)
    assert np.all(np.array(robot.max_tracking_error[:5]) > np.array(limits.velocity[:5]) / 12.0), "how far it lags"

    class Arm:
        max_tracking_error = robot.max_tracking_error

    arm: Any = Arm()
    assert filter_settings(FilterConfig(), arm).max_tracking_error == list(robot.max_tracking_error or ())
    assert filter_settings(FilterConfig(max_tracking_error=[1.0]), arm).max_tracking_error == [1.0]
    assert filter_settings(FilterConfig(), object()).max_tracking_error is None  # type: ignore[arg-type]
    path = tmp_path / "mine.yaml"
    path.write_text(re.sub(r", tracking: \d+", "", SHIPPED))
    assert read_robot_file(path).max_tracking_error is None


def test_a_calibrated_range_narrows_the_limits() -> None:
    robot = read_robot_file("so101")
    low, high = np.full(6, -300.0), np.full(6, 300.0)
    low[0], high[2] = -50.0, 20.0
    limits = robot.limits_within(low, high)
    assert (limits.low[0], limits.high[0]) == (-50.0, 110.0)
    assert (limits.low[2], limits.high[2]) == (-96.8, 20.0)
    assert limits.velocity == robot.limits.velocity
    with pytest.raises(ArmError, match=r"range of shoulder_pan\.pos .* nothing in common"):
        robot.limits_within(np.full(6, 120.0), np.full(6, 300.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHIPPED.replace("arm: so101", "harm: so101"), "lacks 'arm'"),
        (SHIPPED.replace("velocity: 240.0", "velocity: fast", 1), "fast"),
        (SHIPPED.replace("velocity: 240.0", "velocity: -1.0", 1), "velocity must be above 0"),
        (SHIPPED.replace(", tracking: 101", "", 1), "tracking is a number above 0 for each joint, or for none"),
        (SHIPPED.replace("tracking: 30", "tracking: 0", 1), "tracking is a number above 0"),
        ("a: [", "not as it should be"),
        ("- 1", "not as it should be"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ArmError, match=message) as refused:
        read_robot_file(path)
    assert str(path) in str(refused.value)


def test_a_robot_that_does_not_exist_is_told_the_known_ones() -> None:
    with pytest.raises(ArmError, match=r"no robot 'so102'; give .*so101"):
        read_robot_file("so102")
    with pytest.raises(ArmError, match="cannot read"):
        read_robot_file("nowhere/so101.yaml")


class OwnArm(SimulatedArm):
    """An arm of a user's own, by its import path."""

    @dataclass(frozen=True)
    class Settings(SimulatedSettings):
        """Nothing new."""


def test_arms_by_name_and_by_import_path() -> None:
    assert type(make_arm("simulated", {"task": 1})) is SimulatedArm
    own = make_arm(f"{__name__}:OwnArm", {"task": 2})
    assert isinstance(own, SimulatedArm) and own.settings.task == 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("so102", {}, "robot is 'so102'.*did you mean 'so101'"),
        ("json:JSONDecoder", {}, "no arm: it lacks connect"),
        ("simulated", {"tasks": 1}, r"robot\.settings\.simulated\.tasks does not exist.*did you mean 'task'"),
        ("simulated", {"task": "one"}, "must be a whole number"),
        ("so101", {"port": "/dev/null"}, "calibration"),
    ],
)
def test_what_cannot_be_made_is_explained(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        make_arm(name, settings)
