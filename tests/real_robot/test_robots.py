"""From settings to a robot: what is refused, and how a camera is written on a command line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from real_robot.robots import check_joint_positions, hand_of, make_arm_by_settings, open_robot
from sim.embodiments import PANDA_EEF
from sim.so101.hand import SO101Hand
from vla.errors import ReflexError


class Arm:
    """As much of an arm as is looked at."""

    def __init__(self) -> None:
        arm: Any = make_arm_by_settings("simulated", {})
        self.embodiment, self.limits = arm.embodiment, arm.limits


def test_the_simulated_robot_has_cameras_and_a_hand_of_its_own() -> None:
    with open_robot("simulated", {"task": 1}, {}) as robot:
        assert set(robot.cameras) == {"front", "wrist"} and robot.spec is None
        assert isinstance(robot.hand, SO101Hand)
    with pytest.raises(ReflexError, match="has cameras of its own"), open_robot("simulated", {}, {"front": "0"}):
        raise AssertionError


def test_a_wrong_setting_of_the_arm_is_named() -> None:
    with pytest.raises(ReflexError, match="tsk"):
        make_arm_by_settings("simulated", {"tsk": 1})
    with pytest.raises(ReflexError, match="robot=so101"):
        make_arm_by_settings("so101", {"port": "/dev/null", "calibration": "/nowhere.json"})


def test_an_arm_must_be_told_the_joint_positions_that_its_limits_name() -> None:
    arm: Any = Arm()
    check_joint_positions(arm)
    arm.embodiment = PANDA_EEF
    with pytest.raises(ReflexError, match="is told end_effector_delta"):
        check_joint_positions(arm)


def test_limits_of_places_need_a_hand() -> None:
    arm: Any = Arm()
    assert isinstance(hand_of(arm), SO101Hand)
    arm.embodiment = dataclasses.replace(arm.embodiment, name="somebody's")
    with pytest.raises(ReflexError, match="nothing says where its hand is"):
        hand_of(arm)
    arm.limits = dataclasses.replace(arm.limits, workspace=None, keep_out=())
    assert hand_of(arm) is None
