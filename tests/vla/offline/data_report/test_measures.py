"""The measures of a data set, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.offline.data_report.measures import (
    bin_counts,
    concatenated,
    count_state_actions,
    discounted_return,
    occupancy,
    principal_plane,
    state_action_coverage,
    trajectory_quality,
)
from vla.offline.episode_weights import positive_sided_variance


def test_a_return_is_discounted_from_the_first_step() -> None:
    assert discounted_return(np.array([1.0, 0.0, 4.0]), 0.5) == 1 + 4 / 4
    assert discounted_return(np.array([0.0, 0.0, 1.0], np.float32), 0.9) == pytest.approx(0.81)


def test_trajectory_quality_is_0_for_the_worst_and_1_for_an_expert() -> None:
    returns = np.array([1.0, 3.0, 5.0])
    assert trajectory_quality(returns, worst=1.0, best=5.0) == 0.5
    assert trajectory_quality(returns, worst=-1.0, best=7.0) == 0.5
    assert trajectory_quality(returns, worst=3.0, best=4.0) == 0.0
    with pytest.raises(ValueError, match="must be above"):
        trajectory_quality(returns, worst=1.0, best=1.0)


def test_positive_sided_variance_counts_what_is_above_the_mean() -> None:
    # Mean 1; above it only 4, by 3: 9 / 4. Below it three zeros, by 1, which do not count.
    assert positive_sided_variance(np.array([0.0, 0.0, 0.0, 4.0])) == 9 / 4
    # The other way round: mean 3; three of 4 above it, by 1.
    assert positive_sided_variance(np.array([4.0, 4.0, 4.0, 0.0])) == 3 / 4


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e3, 1e3)))
def test_both_sides_make_the_variance(returns: np.ndarray) -> None:
    both = positive_sided_variance(returns) + positive_sided_variance(-returns)
    assert both == pytest.approx(np.var(returns), abs=1e-6)


PAIRS = np.array([[0.0, 0.0], [0.1, 0.0], [0.9, 0.0], [1.0, 0.0], [1.0, 4.0]])


def test_pairs_in_one_cell_count_once() -> None:
    low, high = PAIRS.min(axis=0), PAIRS.max(axis=0)
    # Two bins: {0, 0.1} and {0.9, 1} with the first action, and 1 with the other.
    assert count_state_actions(PAIRS, 2, low, high) == 3
    assert count_state_actions(PAIRS, 100, low, high) == 5
    assert count_state_actions(PAIRS[:4], 2, low[:2], np.array([1.0, 0.0])) == 2, "a number that does not vary"
    assert count_state_actions(np.array([[9.0, 9.0]]), 2, low, high) == 1, "beyond the last bin"


def test_coverage_is_relative_to_a_reference_or_to_all_steps() -> None:
    assert state_action_coverage(PAIRS, None, 2) == 3 / 5
    assert state_action_coverage(PAIRS, PAIRS, 2) == 1.0
    assert state_action_coverage(PAIRS[:2], PAIRS, 2) == 1 / 3
    # The reference is wider: both share the bins between the least and the greatest of either.
    assert state_action_coverage(PAIRS, np.array([[0.0, 0.0], [100.0, 400.0]]), 2) == 1 / 2


def test_the_principal_plane_is_that_of_the_two_directions_that_vary_most() -> None:
    generator = np.random.default_rng(0)
    along, across = generator.normal(size=(2, 500))
    states = np.stack([along, along + 0.01 * across, across, np.full(500, 3.0)], axis=1)
    plane = principal_plane(states)
    assert abs(np.corrcoef(plane[:, 0], along)[0, 1]) > 0.999
    assert abs(np.corrcoef(plane[:, 1], across)[0, 1]) > 0.99
    np.testing.assert_allclose(plane, principal_plane(states * [10, 10, 0.1, 1]), atol=1e-9), "units do not matter"
    assert (principal_plane(states[:, :1])[:, 1] == 0).all()


def test_the_map_has_large_y_on_top() -> None:
    counts = occupancy(np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]), 2)
    assert counts.tolist() == [[0, 2], [1, 0]]


def test_histograms_cover_everything() -> None:
    assert bin_counts(np.array([0.0, 0.1, 0.9, 1.0]), 2) == [2, 2]
    assert sum(bin_counts(np.full(7, 3.0), 5)) == 7


def test_states_and_actions_stand_side_by_side() -> None:
    rows = concatenated([np.zeros((2, 3)), np.ones((1, 3))], [np.full((2, 1), 5.0), np.full((1, 1), 6.0)])
    assert rows.tolist() == [[0, 0, 0, 5], [0, 0, 0, 5], [1, 1, 1, 6]]
