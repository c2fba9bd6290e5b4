"""The choice of pairs, by hand and by property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.offline.labels.selection import (
    choose,
    disagreement,
    identical_pairs,
    k_centre,
    outcome_pairs,
    start_end_pairs,
    uniform_pairs,
)
from vla.offline.preferences import Moment


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), max_size=6), st.integers(0, 40), st.integers(0, 2**32))
def test_uniform_pairs_are_of_one_group_within_bounds_and_never_twice(
    episodes: list[tuple[int, int]], count: int, seed: int
) -> None:
    lengths, groups = [length for length, _ in episodes], [group for _, group in episodes]
    pairs = uniform_pairs(lengths, groups, count, rng(seed))
    assert len(pairs) <= count
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    for first, second in pairs:
        assert first != second
        assert groups[first.episode] == groups[second.episode]
        assert all(0 <= moment.frame < lengths[moment.episode] for moment in (first, second))


def test_uniform_pairs_follow_the_paper_episodes_first_then_a_moment_in_each() -> None:
    """An episode of 20 frames is drawn as often as one of 900: the draw is of episodes, not of frames."""
    pairs = uniform_pairs([20, 900, 900], [0, 0, 0], 600, rng())
    drawn = [moment.episode for pair in pairs for moment in pair]
    assert len(pairs) == 600
    assert np.bincount(drawn).min() / len(drawn) > 0.25  # frames would give 0.01
    assert 0.22 < np.mean([pair[0].episode == pair[1].episode for pair in pairs]) < 0.42


def test_where_there_is_nothing_to_compare_there_are_no_pairs() -> None:
    assert uniform_pairs([], [], 5, rng()) == []
    assert uniform_pairs([1], [0], 5, rng()) == []
    assert uniform_pairs([1, 1], [0, 1], 5, rng()) == []
    assert {frozenset(pair) for pair in uniform_pairs([1, 1], [0, 0], 5, rng())} == {
        frozenset({Moment(0, 0), Moment(1, 0)})
    }


def test_disagreement_by_hand() -> None:
    scores = [[0.0, 0.0, 5.0], [0.0, 2.0, 5.0]]
    sigmoid = 1 / (1 + np.exp(-2.0))
    found = disagreement(scores, [0, 0, 1], [1, 2, 0])
    assert found[0] == pytest.approx(abs(0.5 - sigmoid) / 2)
    assert found[1] == pytest.approx(0.0)
    assert found[2] == pytest.approx(found[0])  # whichever comes first
    assert np.isfinite(disagreement([[0, 1e9], [0, -1e9]], [0], [1])).all()


def test_k_centre_goes_to_the_farthest_and_never_twice() -> None:
    points = np.array([[0.0], [1.0], [10.0], [4.0], [0.0]])
    assert k_centre(points, 3).tolist() == [0, 2, 3]
    assert sorted(k_centre(points, 9).tolist()) == [0, 1, 2, 3, 4]
    assert k_centre(points, 0).tolist() == []


def test_a_share_is_kept_as_drawn_and_the_rest_has_the_highest_values() -> None:
    values = np.array([0.0, 0.0, 5.0, 1.0, 4.0, 3.0])
    kept, best = choose(values, 4, 0.5)
    assert (kept.tolist(), best.tolist()) == ([0, 1], [2, 4])
    kept, best = choose(values, 2, 0.0)
    assert (kept.tolist(), best.tolist()) == ([], [2, 4])
    assert [part.tolist() for part in choose(values, 3, 1.0)] == [[0, 1, 2], []]


def test_with_embeddings_the_chosen_differ() -> None:
    values = np.array([9.0, 8.0, 7.0, 1.0])
    alike = np.array([[0.0], [0.1], [5.0], [99.0]])
    _, best = choose(values, 2, 0.0, alike, spread=1)
    assert best.tolist() == [0, 1]  # no room to choose in
    _, best = choose(values, 2, 0.0, alike[:, :1], spread=2)
    assert best.tolist() == [0, 3]
    _, best = choose(values[:3], 2, 0.0, alike[:3], spread=2)
    assert best.tolist() == [0, 2]


def test_checks_are_of_successes_ends_and_twins() -> None:
    lengths, groups, successes = [4, 6, 3, 1], [0, 0, 1, 0], [True, False, True, True]
    for pair in start_end_pairs(lengths, successes, 9, rng()):
        low, high = sorted(pair)
        assert low.frame == 0 and high.frame == lengths[low.episode] - 1 and successes[low.episode]
        assert lengths[low.episode] > 1
    ends = outcome_pairs(lengths, groups, successes, 9, rng())
    assert {frozenset(pair) for pair in ends} == {
        frozenset({Moment(0, 3), Moment(1, 5)}),
        frozenset({Moment(3, 0), Moment(1, 5)}),
    }
    twins = identical_pairs(lengths, 5, rng())
    assert len(twins) == 5 and all(first == second for first, second in twins)
    assert outcome_pairs([3], [0], [True], 4, rng()) == start_end_pairs([3], [False], 4, rng()) == []
    assert identical_pairs([], 3, rng()) == []


def test_the_better_side_of_a_check_is_not_always_the_same() -> None:
    pairs = start_end_pairs([5] * 40, [True] * 40, 40, rng())
    assert 8 < sum(first.frame == 0 for first, _ in pairs) < 32
    pairs = outcome_pairs([5] * 40, [0] * 40, [n % 2 == 0 for n in range(40)], 20, rng())
    assert 4 < sum(first.episode % 2 == 0 for first, _ in pairs) < 16
