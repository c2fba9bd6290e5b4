"""Units and names: a data set recorded here says the same as one of the arm itself."""

import numpy as np
import pytest

from sim.embodiments import Embodiment
from sim.so101.embodiment import GRIPPER, JOINT_LIMITS, SO101, from_radians, to_radians


def test_degrees_and_per_cent() -> None:
    assert from_radians(np.zeros(6))[:5].tolist() == [0.0] * 5
    assert to_radians(np.array([180.0, -90.0, 0, 0, 0, 0]))[:2] == pytest.approx([np.pi, -np.pi / 2])
    shut, open_wide = JOINT_LIMITS[GRIPPER]
    angles = to_radians(np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 50], [0, 0, 0, 0, 0, 100]]))[:, GRIPPER]
    assert angles == pytest.approx([shut, (shut + open_wide) / 2, open_wide])


def test_there_and_back() -> None:
    angles = np.random.default_rng(0).uniform(JOINT_LIMITS[:, 0], JOINT_LIMITS[:, 1], (20, 6))
    reported = from_radians(angles)
    assert reported.dtype == np.float32
    np.testing.assert_allclose(to_radians(reported), angles, atol=1e-6)


def test_names_are_those_of_lerobot() -> None:
    names = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    assert SO101.state.names == SO101.action.names == tuple(f"{name}.pos" for name in names)
    assert SO101.camera_names == ("front", "wrist") and SO101.control_frequency == 30
    assert SO101.action.kind == "joint_position" and SO101.action.stay is None


def test_limits_enclose_the_gripper_commands() -> None:
    action = SO101.action
    assert action.gripper == GRIPPER
    assert (action.low[GRIPPER], action.high[GRIPPER]) == pytest.approx((0, 100))
    assert 0 <= action.gripper_closed < action.gripper_open <= 100
    assert action.low[4] == pytest.approx(-157.2, abs=0.05) and action.high[4] == pytest.approx(162.8, abs=0.05)


def test_it_survives_json() -> None:
    assert Embodiment.from_dict(SO101.to_dict()) == SO101
