from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.embodiments import PANDA_EEF, Action, Camera, Embodiment, State
from vla.data.camera_names import SYNONYMS
from vla.data.feature_map import SAME_NAMES, FeatureMap, check_fits, infer, one_embodiment
from vla.errors import ReflexError


def robot(
    *cameras: str,
    state: tuple[str, ...] = ("a", "b"),
    action: tuple[str, ...] = ("a", "b"),
    rate: float = 30,
    **action_fields: Any,
) -> Embodiment:
    meaning = Action(action, **({"kind": "unknown"} | action_fields))
    return Embodiment("arm", tuple(Camera(name, 48, 64) for name in cameras), State(state), meaning, rate)


def test_names_that_agree_need_no_map() -> None:
    policy = robot("front", "wrist")
    assert infer(policy, policy) == SAME_NAMES
    assert infer(robot("wrist"), robot("front", "wrist")) == SAME_NAMES  # another camera is left out
    assert infer(PANDA_EEF, PANDA_EEF.with_image_size(256), side="suite") == SAME_NAMES


@pytest.mark.parametrize(
    ("policy", "other", "cameras"),
    [
        (("image", "wrist_image"), ("front", "wrist"), {"image": "front", "wrist_image": "wrist"}),
        (
            ("image", "wrist_image"),
            ("agentview", "robot0_eye_in_hand"),
            {"image": "agentview", "wrist_image": "robot0_eye_in_hand"},
        ),
        (("image",), ("top",), {"image": "top"}),
        (("front", "wrist"), ("top", "front", "hand"), {"wrist": "hand"}),  # "front" agrees, so "top" is no rival
        (
            ("base_0_rgb", "left_wrist_0_rgb"),
            ("cam_high", "cam_left_wrist", "cam_right_wrist"),
            {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist"},
        ),
        (("wrist",), ("corner2", "gripperPOV"), {"wrist": "gripperPOV"}),
        (("image2", "image"), ("image", "wrist_image"), {"image2": "wrist_image"}),
    ],
)
def test_known_synonyms_are_found(policy: tuple[str, ...], other: tuple[str, ...], cameras: dict[str, str]) -> None:
    assert infer(robot(*policy), robot(*other)) == FeatureMap(cameras)


@pytest.mark.parametrize(
    ("policy", "other", "missing"),
    [
        (("image",), ("front", "top"), "image"),  # which of both?
        (("wrist",), ("left_wrist", "right_wrist"), "wrist"),
        (("front", "top"), ("agentview",), "front"),
        (("wrist",), ("front",), "wrist"),
        (("image",), (), "image"),
        (("camera_left",), ("laptop",), "camera_left"),
    ],
)
def test_what_is_not_sure_is_one_error_with_both_sides(
    policy: tuple[str, ...], other: tuple[str, ...], missing: str
) -> None:
    with pytest.raises(ReflexError) as caught:
        infer(robot(*policy), robot(*other))
    text = str(caught.value)
    assert f"no camera {missing!r} for the policy's {missing!r}" in text
    assert f"The policy is for {robot(*policy).describe()}." in text
    assert f"The dataset is of {robot(*other).describe()}." in text
    assert (f"feature_map.cameras.{missing}= one of {', '.join(other)}" in text) == bool(other)
    assert "\n" not in text


@pytest.mark.parametrize(
    "overrides",
    [
        {"cameras.wrist": "observation.images.gripper_left"},
        {"cameras.wrist": "gripper_left"},
        {"cameras": {"wrist": "gripper_left"}},
        {"cameras.observation.images.wrist": "gripper_left"},
    ],
)
def test_a_command_line_chooses(overrides: dict[str, Any]) -> None:
    other = robot("front", "hand", "gripper_left")
    assert infer(robot("front", "wrist"), other).camera("wrist") == "hand"
    assert infer(robot("front", "wrist"), other, overrides) == FeatureMap({"wrist": "gripper_left"})


def test_names_with_dots_may_come_in_groups() -> None:
    policy, other = robot(state=("jaw.pos", "lift.pos")), robot(state=("lift", "jaw.pos", "open"))
    chosen = infer(policy, other, {"state": {"jaw": {"pos": 2}, "lift": {"pos": "lift"}}})
    assert chosen.state == {"jaw.pos": 2, "lift.pos": "lift"}
    assert chosen.states_for(policy, other, np.float32([1, 2, 3])).tolist() == [3, 1]


def test_liberos_own_key_of_the_wrist_camera_is_understood() -> None:
    policy = robot("hand_camera")
    chosen = infer(policy, robot("image", "wrist_image"), {"cameras.hand_camera": "observation.images.image2"})
    assert chosen.cameras == {"hand_camera": "wrist_image"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"cameras.wrist": "elbow"}, r"cameras\.wrist=elbow: there is no camera 'elbow'.* arm has front, hand"),
        ({"cameras.elbow": "hand"}, r"cameras\.elbow=hand: there is no camera 'elbow'.* arm has front, wrist"),
        ({"camera.wrist": "hand"}, r"feature_map\.camera\.wrist='hand' is none of feature_map\.cameras\.NAME=CAMERA"),
        ({"cameras": "hand"}, r"feature_map\.cameras='hand' is none of"),
        ({"state.c": "a"}, r"state: the policy has no number 'c' \(it has a, b\)"),
        (
            {"state.a": "c"},
            r"state: no number 'c' for the policy's 'a'; 2 are needed \(a, b\) and 2 are there \(a, b\)",
        ),
        ({"action.a": 2}, r"action: no number 2 for the policy's 'a'"),
    ],
)
def test_a_choice_that_does_not_exist(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        infer(robot("front", "wrist"), robot("front", "hand"), overrides)


LIBERO_STATE = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper")
LIBERO_ACTION = (*LIBERO_STATE[:6], "gripper")


def test_numbers_with_other_names_go_by_place() -> None:
    copy = replace(PANDA_EEF, state=State(LIBERO_STATE), action=Action(LIBERO_ACTION, "unknown"))
    found = infer(PANDA_EEF, copy)
    assert found.state == {name: at for at, name in enumerate(PANDA_EEF.state.names) if at > 2}
    states, actions = np.arange(16, dtype=np.float32).reshape(2, 8), np.arange(7, dtype=np.float32)[None]
    assert np.array_equal(found.states_for(PANDA_EEF, copy, states), states)
    assert np.array_equal(found.actions_for(PANDA_EEF, copy, actions), actions)
    back = infer(copy, PANDA_EEF)  # a policy made for such a dataset
    assert back.state["gripper#2"] == 7
    assert np.array_equal(back.states_for(copy, PANDA_EEF, states), states)
    unnamed = replace(PANDA_EEF, state=State(tuple(f"state_{index}" for index in range(8))))
    assert list(infer(PANDA_EEF, unnamed).state.values()) == list(range(8))


def test_numbers_in_another_order_go_by_name() -> None:
    policy, other = (
        robot(state=("a", "b", "c"), action=("p", "q")),
        robot(state=("c", "a", "b", "d"), action=("q", "p")),
    )
    found = infer(policy, other)
    assert found == SAME_NAMES
    assert found.states_for(policy, other, np.float32([[1, 2, 3, 4]])).tolist() == [[2, 3, 1]]
    assert found.actions_for(policy, other, np.float32([5, 6])).tolist() == [6, 5]
    assert found.actions_to(policy, other, np.float32([6, 5])).tolist() == [5, 6]
    chosen = infer(policy, other, {"state.b": "d", "action": {"p": "0", "q": 1}})
    assert chosen.states_for(policy, other, np.float32([1, 2, 3, 4])).tolist() == [2, 4, 1]
    assert chosen.actions_for(policy, other, np.float32([5, 6])).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("policy", "other", "message"),
    [
        (robot(state=("a", "b")), robot(state=("b", "c")), r"state: no number 'a' for the policy's 'a'"),
        (
            robot(state=("a", "b", "c")),
            robot(),
            r"state: no number 'c' .*3 are needed \(a, b, c\) and 2 are there \(a, b\)",
        ),
        (robot(), robot(state=()), r"state: no number 'a' .*2 are needed \(a, b\) and 0 are there \(none\)"),
        (robot(action=("x", "y", "z")), robot(), r"action: no number 'x'"),
        (robot(), robot(rate=20), r"rate: 30 Hz and 20 Hz"),
        (robot(kind="joint_position"), robot(kind="velocity"), r"action: joint_position and velocity are not the same"),
    ],
)
def test_what_does_not_fit(policy: Embodiment, other: Embodiment, message: str) -> None:
    with pytest.raises(ReflexError, match=message) as caught:
        infer(policy, other)
    assert "Set embodiment=dataset to make the policy one for that robot" in str(caught.value)
    with pytest.raises(ReflexError, match="Choose a suite of the policy's robot, or fine-tune the policy on data of"):
        infer(policy, other, side="suite")


def test_every_fault_is_in_one_message() -> None:
    with pytest.raises(ReflexError, match=r"no camera 'image' .*; state: .*; rate: 20 Hz and 30 Hz\. The policy"):
        infer(replace(PANDA_EEF, action=robot().action), robot("laptop"))


def test_a_robot_needs_every_number_of_its_action() -> None:
    policy, other = robot(action=("a",)), robot(action=("a", "b"))
    infer(policy, other)  # of a dataset some may be learned
    with pytest.raises(ReflexError, match="action: the policy commands 1 of 2 numbers"):
        infer(policy, other, side="suite")
    with pytest.raises(ReflexError, match="action: the policy commands 1 of 2 numbers"):
        infer(robot(), robot(), {"action.a": "b"}, side="suite")


def test_nearly_the_same_rate_fits() -> None:
    check_fits(robot(rate=30), robot(rate=29.97), SAME_NAMES)
    with pytest.raises(ReflexError, match="rate: 30 Hz and 29 Hz"):
        check_fits(robot(rate=30), robot(rate=29), SAME_NAMES)


def test_a_policy_without_a_state_fits_any(tmp_path: Any) -> None:
    assert infer(robot(state=()), robot()).states_for(robot(state=()), robot(), np.zeros((3, 2), np.float32)).shape == (
        3,
        0,
    )


ENTRIES = st.dictionaries(
    st.text("ab_", min_size=1, max_size=3), st.one_of(st.integers(0, 9), st.sampled_from(["x", "y"]))
)


@given(st.dictionaries(st.text("ab_", min_size=1, max_size=3), st.text("ab", min_size=1)), ENTRIES, ENTRIES)
def test_a_map_survives_json(cameras: dict[str, str], state: dict[str, Any], action: dict[str, Any]) -> None:
    written = FeatureMap(cameras, state, action)
    content = json.loads(json.dumps(written.to_dict()))
    assert FeatureMap.from_dict(content) == written == FeatureMap(**content)


def test_cameras_to_read_have_the_policys_sizes() -> None:
    found = FeatureMap({"wrist": "hand"}).cameras_to_read(robot("wrist", "front").with_image_size(64))
    assert found == (Camera("hand", 64, 64), Camera("front", 64, 64))


def test_no_name_means_two_things() -> None:
    every = [name for group in SYNONYMS.values() for name in group]
    assert len(every) == len(set(every))
    assert all(name == name.lower() for name in every)


def test_two_robots_are_not_trained_on_together() -> None:
    assert one_embodiment([robot("front"), robot("front").with_image_size(8)]) == robot("front")
    with pytest.raises(ReflexError, match="episodes of two robots cannot be trained on together: arm: front"):
        one_embodiment([robot("front"), robot("front"), robot("top")])
    with pytest.raises(ReflexError, match="with other names or limits"):
        one_embodiment([robot(), robot(action=("a", "c"))])
    with pytest.raises(ReflexError, match="there is no episode"):
        one_embodiment([])
