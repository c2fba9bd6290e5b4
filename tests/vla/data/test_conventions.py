from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.embodiments import PANDA_EEF, Action, Embodiment, State
from vla.data.conventions import check_actions
from vla.errors import ReflexError

ARM = Embodiment(
    name="arm",
    cameras=(),
    state=State(()),
    action=Action(("lift", "jaw"), "joint_position", (-90.0, 0.0), (90.0, 100.0), gripper=1, gripper_closed=0.0),
    control_frequency=30,
)
ARM = replace(ARM, action=replace(ARM.action, gripper_open=100.0))


def recorded(length: int = 40) -> NDArray[np.float32]:
    """Commands of a Panda: the gripper open in the first half."""
    actions = np.random.default_rng(0).uniform(-1, 1, (length, 7)).astype(np.float32)
    actions[:, 6] = np.where(np.arange(length) < length // 2, -1, 1)
    return actions


@pytest.mark.parametrize("gripper", [[-1.0], [1.0], [-1.0, 1.0], [-1.0, -0.3, 0.2, 1.0], [-1.01, 1.01]])
def test_what_an_embodiment_means_passes(gripper: list[float]) -> None:
    actions = recorded()
    actions[:, 6] = np.resize(gripper, 40)
    check_actions(actions, PANDA_EEF)
    check_actions(actions * 0, replace(PANDA_EEF, action=replace(PANDA_EEF.action, gripper=None)))  # stands still


@pytest.mark.parametrize(
    ("gripper", "message"),
    [
        ([1.0, 0.0, 0.0, 0.0], "is neither in 75.0 % of 40 frames: from 0 to 1"),
        ([1.0, 0.0], "is neither in 50.0 % of 40 frames: from 0 to 1"),
        ([0.0], "is neither in 100.0 % of 40 frames: always 0"),
        ([0.0, 0.04], "is neither in 100.0 % of 40 frames: from 0 to 0.04"),
        ([-1.0, 0.0], "is neither in 50.0 % of 40 frames: from -1 to 0"),
    ],
)
def test_a_gripper_of_another_convention_is_refused(gripper: list[float], message: str) -> None:
    actions = recorded()
    actions[:, 6] = np.resize(gripper, 40)
    with pytest.raises(ReflexError) as caught:
        check_actions(actions, PANDA_EEF, "datasets/mine")
    assert str(caught.value).startswith("datasets/mine does not mean by its actions what panda (end effector delta)")
    assert "gripper (number 6), the gripper (-1 open, 1 closed), " + message in str(caught.value)
    assert "Set embodiment=dataset" in str(caught.value)
    assert "number 0" not in str(caught.value)


def test_absolute_angles_in_degrees_are_refused_with_their_share() -> None:
    actions = recorded()
    actions[:, :6] *= 0.9
    actions[10:20, 1] = 45.0
    actions[39, 3] = -1.5
    expected = (
        r"axis_angle_x \(number 3\) is outside \[-1, 1\] in 2\.5 % of 40 frames, from -1\.5 to ",
        r"y \(number 1\) is outside \[-1, 1\] in 25\.0 % of 40 frames, from -\S+ to 45;",
    )
    with pytest.raises(ReflexError) as caught:
        check_actions(actions, PANDA_EEF)
    assert all(re.search(part, str(caught.value)) for part in expected)
    assert str(caught.value).count("number") == 2
    with pytest.raises(ReflexError, match=r"z \(number 2\) is .*; and so are 4 more numbers\. Set"):
        check_actions(90 * recorded(), PANDA_EEF)


def test_metres_are_no_shares_of_the_largest_movement() -> None:
    actions = recorded()
    actions[:, :6] *= 0.02
    with pytest.raises(ReflexError, match=r"no movement in 40 frames is above [\d.]+ % of the largest possible, as if"):
        check_actions(actions, PANDA_EEF)
    actions[0, 0] = 0.2
    check_actions(actions, PANDA_EEF)


def test_limits_and_gripper_of_another_robot() -> None:
    check_actions(np.array([[-89.0, 0.0], [80.0, 100.0]]), ARM)
    with pytest.raises(ReflexError, match=r"lift \(number 0\) is outside \[-90, 90\] in 50\.0 % of 2 frames"):
        check_actions(np.array([[-100.0, 0.0], [80.0, 100.0]]), ARM)
    with pytest.raises(
        ReflexError, match=r"jaw .*\(100 open, 0 closed\), is neither in 50\.0 % of 2 frames: from 0 to 50"
    ):
        check_actions(np.array([[-80.0, 0.0], [80.0, 50.0]]), ARM)


def test_what_nobody_knows_is_not_checked() -> None:
    unknown = replace(PANDA_EEF, action=Action(PANDA_EEF.action.names, "unknown"))
    check_actions(1000 * recorded(), unknown)
    check_actions(np.zeros((0, 7)), PANDA_EEF)
    with pytest.raises(ReflexError, match=r"actions of shape \(40, 6\); panda needs \[T, 7\]"):
        check_actions(recorded()[:, :6], PANDA_EEF)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.floats(1.05, 1e6), st.integers(1, 39))
def test_any_command_beyond_the_limits_is_found(number: int, value: float, count: int) -> None:
    actions = recorded()
    actions[:count, number] = value
    with pytest.raises(ReflexError) as caught:
        check_actions(actions, PANDA_EEF)
    assert f"(number {number}) is outside [-1, 1] in {100 * count / 40:.1f} % of 40 frames" in str(caught.value)
