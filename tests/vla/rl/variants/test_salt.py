"""Credit for single decisions, by hand and by what it must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.rl.variants.salt import ALONE, meeting_places, shared_step_advantages


def test_rollouts_meet_where_they_look_alike_before_the_same_decision():
    # One feature of deviation 1 or so; three rollouts of group 0 and one of group 1 in the same place as the first.
    features = [np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.05], [-2.0]]), np.array([[0.0], [-1.0]])]
    places = meeting_places([*features, features[0]], [0, 0, 0, 1], tolerance=0.2)
    first, second, third, other = (place.tolist() for place in places)
    assert first[0] == second[0] == third[0] >= 0
    assert first[1] == second[1] >= 0 and third[1] == ALONE
    assert first[2] == second[2] == ALONE
    assert other == [ALONE] * 3, "another group"
    assert first[0] != first[1]


def test_a_place_at_another_time_is_another_place():
    places = meeting_places([np.array([[0.0], [1.0]]), np.array([[1.0], [0.0]])], [0, 0], tolerance=0.1)
    assert [place.tolist() for place in places] == [[ALONE, ALONE], [ALONE, ALONE]]


def test_what_several_did_alike_gets_the_mean_of_their_advantages():
    # Rollouts 0 and 1 go 5 -> 6 together, then part. Rollout 2 starts with them and leaves at once.
    places = [np.array([5, 6, ALONE]), np.array([5, 6, 7]), np.array([5, ALONE])]
    credited = shared_step_advantages([1.0, -0.5, -0.2], places)
    assert credited[0].tolist() == pytest.approx([0.25, 1.0, 1.0])
    assert credited[1].tolist() == pytest.approx([0.25, -0.5, -0.5])
    assert credited[2].tolist() == pytest.approx([-0.2, -0.2])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_without_a_merge_every_decision_has_its_rollouts_advantage(lengths: list[int], seed: int):
    generator = np.random.default_rng(seed)
    features = [generator.normal(size=(length, 3)) for length in lengths]
    advantages = generator.normal(size=len(lengths)).astype(np.float32)
    places = meeting_places(features, np.zeros(len(lengths)), tolerance=-1.0)
    for credited, advantage, length in zip(
        shared_step_advantages(advantages, places), advantages, lengths, strict=True
    ):
        assert credited.tolist() == [advantage] * length


@given(st.integers(0, 1000), st.floats(0.0, 3.0))
@settings(max_examples=50, deadline=None)
def test_shared_credit_stays_between_the_groups_extremes_and_follows_the_order_of_rollouts(seed: int, tolerance: float):
    generator = np.random.default_rng(seed)
    features = [generator.normal(size=(generator.integers(1, 5), 2)) for _ in range(6)]
    advantages, groups = generator.normal(size=6), generator.integers(0, 2, 6)
    credited = shared_step_advantages(advantages, meeting_places(features, groups, tolerance))
    for steps, group in zip(credited, groups, strict=True):
        members = advantages[groups == group]
        assert (steps >= members.min() - 1e-6).all() and (steps <= members.max() + 1e-6).all()
    order = generator.permutation(6)
    again = shared_step_advantages(
        advantages[order], meeting_places([features[index] for index in order], groups[order], tolerance)
    )
    for position, index in enumerate(order):
        np.testing.assert_allclose(again[position], credited[index], atol=1e-6)
