"""Measures of a reward, by hand and by property."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vla.rewards.audit import measures

NUMBERS = st.lists(st.integers(0, 20), min_size=3, max_size=12)


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 4 against 1 3 2 4: squared differences 0 1 1 0, so 1 - 6 * 2 / (4 * 15) = 0.8.
    assert measures.rank_correlation([0.1, 0.2, 0.3, 0.9], [0.0, 0.6, 0.5, 0.7]) == pytest.approx(0.8)


def test_pair_agreement_by_hand() -> None:
    # Of six pairs one is the wrong way round: (5 - 1) / 6.
    assert measures.pair_agreement([0.1, 0.2, 0.3, 0.9], [0.0, 0.6, 0.5, 0.7]) == pytest.approx(4 / 6)


def test_separation_by_hand() -> None:
    # Successes 0.8 and 0.3, failures 0.3 and 0.1: pairs won 1, 1, tied 1/2, won 1.
    assert measures.separation([0.8, 0.3, 0.3, 0.1], [True, True, False, False]) == pytest.approx(3.5 / 4)


def test_comparison_by_hand() -> None:
    # group 0: 0.5 above 0.1 (right); group 1: 0.9 above 0.2 (wrong), 0.9 above 0.88 (no further, does not count),
    # 0.88 above 0.2 (a tie counts one half). Nothing is compared across groups.
    truth = [[0.1, 0], [0.5, 0], [0.2, 1], [0.9, 1], [0.88, 1]]
    assert measures.comparison([0.0, 0.4, 0.3, 0.1, 0.3], truth) == pytest.approx((1 + 0 + 0.5) / 3)
    assert np.isnan(measures.comparison([0.1, 0.2], [[0.3, 0], [0.9, 1]]))  # each is alone in its group
    assert np.isnan(measures.comparison([], np.empty((0, 2))))


def test_what_says_nothing_is_chance() -> None:
    equal, progress = [0.4] * 4, [0.0, 0.1, 0.5, 0.9]
    assert measures.rank_correlation(equal, progress) == 0.0
    assert measures.pair_agreement(equal, progress) == 0.0
    assert measures.separation(equal, [True, False, False, True]) == 0.5


def test_rounding_is_no_opinion() -> None:
    assert measures.rank_correlation([0.4, 0.4 + 1e-12, 0.4 + 2e-12], [0.0, 0.5, 1.0]) == 0.0


@pytest.mark.parametrize("measure", [measures.rank_correlation, measures.pair_agreement])
def test_nothing_to_measure_is_nan(measure: measures.Measure) -> None:
    assert math.isnan(measure(np.array([0.1, 0.9]), np.array([0.0, 1.0])))
    assert math.isnan(measure(np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.3, 0.3])))
    assert math.isnan(measures.separation([0.1, 0.2], [True, True]))
    assert math.isnan(measures.calibration_error([], []))
    assert math.isnan(measures.mean_reward([], []))


def test_calibration_and_mean_by_hand() -> None:
    assert measures.calibration_error([0.2, 0.8], [0.0, 0.5]) == pytest.approx(0.25)
    assert measures.mean_reward([0.2, 0.8], [0.0, 0.5]) == pytest.approx(0.5)


def test_tasks_are_measured_by_themselves() -> None:
    """Task 2's rewards are all above task 5's, and in each task they follow progress, or turn it round."""
    rewards = [0.7, 0.8, 0.9, 0.3, 0.2, 0.1, 0.99]
    progress = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.0]
    tasks = [2, 2, 2, 5, 5, 5, 5]
    chosen = [True] * 6 + [False]
    found = measures.by_task(measures.rank_correlation, rewards, progress, tasks, chosen)
    assert found == pytest.approx([1.0, -1.0])
    assert math.isnan(measures.by_task(measures.rank_correlation, rewards, progress, tasks, [False] * 7)[0])


def test_estimate_leaves_out_what_could_not_be_measured() -> None:
    found = measures.estimate([0.5, float("nan"), 0.7])
    assert (found.value, found.tasks) == (pytest.approx(0.6), 2)
    assert 0.5 <= found.low <= 0.6 <= found.high <= 0.7
    nothing = measures.estimate([float("nan")])
    assert nothing.tasks == 0
    assert math.isnan(nothing.value)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of 300 samples of 20 tasks, the 90 % interval holds the true mean in about 90 % (percentile: a little less)."""
    generator = np.random.default_rng(1)
    held = 0
    for number in range(300):
        found = measures.estimate(generator.normal(0.3, 0.2, 20), confidence=0.9, resamples=400, seed=number)
        held += found.low <= 0.3 <= found.high
    assert 0.83 <= held / 300 <= 0.95


def test_a_difference_is_paired() -> None:
    """Tasks differ much, the two little: only pairs show it."""
    first, second = np.array([0.1, 0.5, 0.9]) + 0.05, np.array([0.1, 0.5, 0.9])
    found = measures.difference(first, second)
    assert found.value == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_order_of_rollouts_does_not_matter(values: list[int], random: object) -> None:
    truth = [value * value % 7 for value in values]
    order = np.random.default_rng(len(values)).permutation(len(values))
    given_, wanted = np.array(values) / 20, np.array(truth) / 7
    for measure in (measures.rank_correlation, measures.pair_agreement, measures.calibration_error):
        before, after = measure(given_, wanted), measure(given_[order], wanted[order])
        assert (math.isnan(before) and math.isnan(after)) or before == pytest.approx(after)


@given(NUMBERS)
def test_turning_a_reward_round_turns_the_measures_round(values: list[int]) -> None:
    rewards: NDArray[np.float64] = np.array(values) / 20
    positive = np.arange(len(values)) % 2 == 0
    assert measures.separation(1 - rewards, positive) == pytest.approx(1 - measures.separation(rewards, positive))
    progress = np.arange(len(values)) / len(values)
    assert measures.rank_correlation(1 - rewards, progress) == pytest.approx(
        -measures.rank_correlation(rewards, progress), abs=1e-12
    )
