"""Group advantages and length weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from tests.vla.rl.helpers import estimator, training_parts
from vla.rl.advantages import (
    MINIMUM_SPREAD,
    advantages_with_steps,
    by_group,
    group_spread,
    length_weights,
    with_weights,
)
from vla.rl.batch import Batch
from vla.rl.config import AlgoConfig
from vla.rl.group_mean import group_mean
from vla.rl.variants.difficulty_weight import difficulty_weights


def group_advantages(
    rewards: ArrayLike,
    groups: ArrayLike,
    *,
    name: str = "group_mean",
    negative_weight: float = 1.0,
    **settings: float,
) -> NDArray[np.float32]:
    """What an estimator makes of a batch; `minimum_deviation` is 0 where it is a setting and not given."""
    if name in ("group_mean", "lite_ppo"):
        settings = {"minimum_deviation": 0.0} | settings
    algo = AlgoConfig(advantage=name, negative_weight=negative_weight, settings={name: settings} if settings else {})
    values = np.asarray(rewards, dtype=np.float32)
    batch = Batch(groups=list(groups), rewards=values)
    found, metrics = estimator(training_parts(algo)).estimate(batch, values, np.ones(len(values), np.float32))
    assert metrics == {}
    return np.array(found)


def test_worked_by_hand():
    # Group 3: mean 0.5, deviation 0.5. Group 5: rewards 1, 0, 0, mean 1/3, deviation sqrt(2)/3.
    result = group_advantages([1, 1, 0, 0, 0], [3, 5, 3, 5, 5])
    assert result.tolist() == pytest.approx([1, np.sqrt(2), -1, -np.sqrt(0.5), -np.sqrt(0.5)], abs=1e-4)


def test_a_group_without_spread_teaches_nothing():
    assert group_advantages([1, 1, 0, 0, 0.4, 0.4], [0, 0, 1, 1, 2, 2]).tolist() == [0] * 6


def test_a_spread_below_the_minimum_is_not_blown_up():
    assert group_advantages([0.4, 0.40005], [0, 0]).tolist() == [0, 0]
    assert group_advantages([0.4, 0.41], [0, 0])[1] == pytest.approx(1, abs=1e-3)


def test_small_differences_among_failures_count_for_less_than_a_success():
    # Group 0: mean 0.4, deviation 0.1, divided by 0.2. Group 1: deviation 0.5, above the minimum.
    result = group_advantages([0.5, 0.3, 1, 0], [0, 0, 1, 1], minimum_deviation=0.2)
    assert result.tolist() == pytest.approx([0.5, -0.5, 1, -1], abs=1e-4)


def test_lite_ppo_divides_by_the_deviation_of_the_batch():
    # Rewards 1, 0 | 1, 1, 1, 0: mean 2/3, deviation sqrt(2)/3. Group means 1/2 and 3/4.
    result = group_advantages([1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], name="lite_ppo")
    scale = 3 / np.sqrt(2)
    expected = [0.5, -0.5, 0.25, 0.25, 0.25, -0.75]
    assert result.tolist() == pytest.approx([scale * value for value in expected], abs=1e-4)


def test_rloo_compares_with_the_mean_of_the_others():
    result = group_advantages([1, 0, 0, 0.5, 0.2], [0, 0, 0, 1, 1], name="rloo")
    assert result.tolist() == pytest.approx([1, -0.5, -0.5, 0.3, -0.3])


def test_raft_imitates_the_best_of_a_group_and_pushes_nothing_down():
    result = group_advantages([1, 0.4, 1, 0.3, 0.1, 0.2, 0.2], [0, 0, 0, 1, 1, 2, 2], name="raft")
    assert result.tolist() == [1, 0, 1, 1, 0, 0, 0]


def test_groups_are_weighed_by_the_variance_of_their_outcome():
    weights = difficulty_weights([1, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 2, 2])
    assert weights.tolist() == pytest.approx([1, 1, 0.75, 0.75, 0.75, 0.75, 0, 0])


@pytest.mark.parametrize("name", ["group_mean", "lite_ppo", "rloo"])
def test_every_formula_sums_to_zero_in_a_group_and_gives_equal_rewards_nothing(name):
    result = group_advantages([0.9, 0.1, 0.4, 0.3, 0.3], [0, 0, 0, 1, 1], name=name)
    assert result[:3].sum() == pytest.approx(0, abs=1e-6)
    assert result[3:].tolist() == [0, 0]
    assert result[0] > 0 > result[1]


def test_negative_weight_scales_negatives_only():
    full, half = group_advantages([1, 0], [0, 0]), group_advantages([1, 0], [0, 0], negative_weight=0.5)
    assert half[0] == full[0] and half[1] == full[1] / 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=16), st.floats(0.5, 5), st.floats(-3, 3))
def test_sum_is_zero_and_an_affine_change_of_rewards_does_nothing(rewards, scale, shift):
    values = np.array(rewards)
    if np.ptp(values) < 1e-2:
        return
    base = group_advantages(values, [0] * len(values))
    assert base.sum() == pytest.approx(0, abs=1e-4)
    assert group_advantages(scale * values + shift, [0] * len(values)) == pytest.approx(base, abs=1e-3)


def test_spread_of_each_group():
    assert group_spread([1, 0, 0.25, 0.75], [0, 0, 9, 9]) == {0: 1.0, 9: 0.5}


def test_length_weights_average_one_over_tokens_and_equalise_episodes():
    lengths = np.array([10, 30, 80])
    weights = length_weights(lengths, "episode")
    assert (weights * lengths).sum() / lengths.sum() == pytest.approx(1)
    assert (weights * lengths).tolist() == pytest.approx([40, 40, 40])
    assert length_weights(lengths, "token").tolist() == [1, 1, 1]


def test_a_rollout_counts_as_much_as_its_weight_says():
    batch = Batch(groups=[0, 0])
    rewards, weights = np.array([1, 0], np.float32), np.array([0.5, 0.25], np.float32)
    found, _ = estimator(training_parts(AlgoConfig(negative_weight=1.0))).estimate(batch, rewards, weights)
    assert found == pytest.approx([0.5, -0.25], abs=1e-4)


def test_negative_advantages_are_weighed_before_the_rollouts_weights():
    found = with_weights(np.array([2.0, -2.0]), 0.5, np.array([1.0, 3.0], np.float32))
    assert found.tolist() == [2.0, -3.0]


def test_a_formula_sees_one_group_at_a_time_and_only_those_with_a_spread():
    seen: list[list[float]] = []

    def formula(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        seen.append(rewards.tolist())
        return rewards + 10

    found = by_group([1, 0.5, 0, 0.5], [3, 8, 3, 8], formula)
    assert seen == [[1, 0]] and found.tolist() == [11, 0, 10, 0]


def test_the_deviation_given_stands_in_the_place_of_the_groups():
    assert group_mean(np.array([1.0, 0.0]), deviation=2.0).tolist() == pytest.approx([0.25, -0.25], abs=1e-5)


def test_decisions_that_made_progress_gain_over_those_that_did_not():
    # Increments 1, 0 | 0, 1: mean 1/2, deviation 1/2.
    credited = advantages_with_steps([1.0, -1.0], [np.array([1, 0]), np.array([0, 1])], [0, 0], weight=0.5)
    assert credited[0].tolist() == pytest.approx([1.5, 0.5], abs=1e-4)
    assert credited[1].tolist() == pytest.approx([-1.5, -0.5], abs=1e-4)


def test_progress_teaches_nothing_where_rewards_are_equal_and_nothing_without_weight():
    steps = [np.array([0.5, 0.5]), np.array([0.1])]
    assert [row.tolist() for row in advantages_with_steps([0, 0], steps, [0, 0], weight=0.5)] == [[0, 0], [0]]
    assert [row.tolist() for row in advantages_with_steps([1, -1], steps, [0, 0], weight=0.0)] == [[1, 1], [-1]]


GROUPS = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 3)), min_size=1, max_size=16)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.integers(0, 1000))
def test_groups_are_worked_out_apart_in_whatever_order_they_come(rollouts, seed):
    rewards, groups = (np.array(column) for column in zip(*rollouts, strict=True))
    found = by_group(rewards, groups, group_mean)
    for group in set(groups.tolist()):
        members = groups == group
        alone = by_group(rewards[members], np.zeros(members.sum(), int), group_mean)
        assert found[members] == pytest.approx(alone)
        assert found[members].sum() == pytest.approx(0, abs=1e-6)
    order = np.random.default_rng(seed).permutation(len(rewards))
    assert by_group(rewards[order], groups[order], group_mean) == pytest.approx(found[order], abs=1e-6)


@pytest.mark.parametrize(("difference", "teaches"), [(MINIMUM_SPREAD, True), (MINIMUM_SPREAD * 0.99, False)])
def test_the_smallest_difference_that_counts(difference, teaches):
    assert by_group([0.0, difference], [0, 0], lambda rewards: rewards + 1).any() == teaches


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_episodes_of_every_length_count_alike_and_tokens_average_one(lengths):
    counts = np.array(lengths)
    weights = length_weights(counts, "episode")
    totals = weights * counts
    assert totals[counts > 0] == pytest.approx(counts.mean(), rel=1e-5)
    assert not weights[counts == 0].any(), "an episode of which nothing counts"
    if counts.any():
        assert totals.sum() / counts.sum() == pytest.approx((counts > 0).mean(), rel=1e-5)
    assert length_weights(counts, "token").tolist() == [1.0] * len(counts)
    assert weights.dtype == length_weights(counts, "token").dtype == np.float32


def test_the_part_of_steps_is_of_the_weight_s_size_within_its_own_group():
    """Two groups of different scale; in each, steps are standardised over all of its decisions."""
    steps = [np.array([3.0, 1.0]), np.array([1.0]), np.array([0.0, 0.2]), np.array([0.4])]
    own = [0.5, -0.5, 1.0, -1.0]
    credited = advantages_with_steps(own, steps, [0, 0, 1, 1], weight=2.0, epsilon=0.0)
    for members in ((0, 1), (2, 3)):
        parts = np.concatenate([credited[member] - own[member] for member in members])
        assert parts.mean() == pytest.approx(0, abs=1e-5) and parts.std() == pytest.approx(2.0, rel=1e-4)
    assert credited[0][0] - credited[0][1] == pytest.approx(2.0 * 2.0 / np.std([3, 1, 1]), rel=1e-4)
    assert all(row.dtype == np.float32 for row in credited)


def test_steps_that_are_all_alike_add_nothing():
    credited = advantages_with_steps([1.0, -1.0], [np.array([0.5]), np.array([0.5])], [0, 0], weight=1.0)
    assert [row.tolist() for row in credited] == [[1.0], [-1.0]]
    # The default of what keeps the division defined is small beside any deviation that says something.
    blown = advantages_with_steps([1.0, -1.0], [np.array([0.0]), np.array([2e-6])], [0, 0], weight=1.0)
    assert blown[1][0] - blown[0][0] + 2 == pytest.approx(1.0, rel=1e-2)


def test_the_mean_over_the_deviation_by_hand():
    assert group_mean(np.array([3.0, 1.0])).tolist() == pytest.approx([1.0, -1.0], abs=1e-5)
    assert group_mean(np.array([0.5, 0.5])).tolist() == [0.0, 0.0]
    # Deviation 1e-6, and as much again that keeps the division defined.
    assert group_mean(np.array([1e-6, -1e-6]))[0] == pytest.approx(0.5)
    assert group_mean(np.array([3.0, 1.0]), minimum_deviation=4.0).tolist() == pytest.approx([0.25, -0.25], abs=1e-5)


def test_groups_are_worked_out_in_double_precision_and_named_by_whole_numbers():
    """Whatever numbers they come as; half precision cannot tell 1 - 1e-4 from 1."""
    rewards, groups = np.array([1.0, 1e-4], np.float16), np.array([7.0, 7.0])
    (found,) = group_spread(rewards, groups).items()
    assert found == (7, pytest.approx(1 - 1e-4, abs=1e-7)) and isinstance(found[0], int)
    seen = []
    by_group(rewards, groups, lambda values: seen.append(values.dtype) or values)
    assert seen == [np.float64]
    assert with_weights(np.array([1.0]), 1.0, np.array([2.0])).dtype == np.float32
