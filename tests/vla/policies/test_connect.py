"""A policy meets a suite's robot: its cameras are found, or it says why it cannot act there."""

from __future__ import annotations

import dataclasses

import pytest

from sim.embodiments import PANDA_EEF, Action, Camera, State
from tests.vla.policies.helpers import make_observations, small_policy
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.connect import connect, connected

OTHER_NAMES = dataclasses.replace(PANDA_EEF, cameras=(Camera("wrist", 32, 32), Camera("agentview", 128, 128)))


def test_where_names_do_not_say_the_user_does() -> None:
    policy, swapped = small_policy(), {"cameras": {"image": "wrist", "wrist_image": "agentview"}}
    connect(policy, OTHER_NAMES, swapped)
    assert policy.feature_map == FeatureMap({"image": "wrist", "wrist_image": "agentview"})
    with pytest.raises(ReflexError, match="hand"):
        connect(policy, OTHER_NAMES, {"cameras": {"image": "hand"}})


def test_cameras_are_found_by_what_they_show_and_the_names_come_back_afterwards() -> None:
    policy = small_policy()
    seen = make_observations(1)
    renamed = {**seen, "images": {"agentview": seen["images"]["image"], "wrist": seen["images"]["wrist_image"]}}
    with connected(policy, OTHER_NAMES):
        assert policy.feature_map == FeatureMap({"image": "agentview", "wrist_image": "wrist"})
        found = policy.act(renamed).actions  # type: ignore[arg-type] # a copy with other pictures
    assert policy.feature_map == SAME_NAMES
    assert (found == policy.act(seen).actions).all()
    connect(policy, OTHER_NAMES)
    connect(policy, PANDA_EEF)
    assert policy.feature_map == SAME_NAMES, "the names of one place are not those of the next"


def test_a_robot_that_it_cannot_act_on_is_refused_with_both_sides() -> None:
    joints = Action(tuple(f"joint_{number}" for number in range(7)), "joint_position")
    with pytest.raises(ReflexError, match="end_effector_delta and joint_position are not the same"):
        connect(small_policy(), dataclasses.replace(PANDA_EEF, action=joints))
    turned = State(PANDA_EEF.state.names[::-1])
    with pytest.raises(ReflexError, match="the numbers of its state in another order"):
        connect(small_policy(), dataclasses.replace(PANDA_EEF, state=turned))


def test_a_policy_that_ignores_the_state_acts_on_a_robot_with_any() -> None:
    blind = small_policy(state_size=0)
    connect(blind, dataclasses.replace(PANDA_EEF, state=State(("only", "three", "numbers"))))
