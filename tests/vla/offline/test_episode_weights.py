"""Which episodes are drawn: the published formula by hand, and the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.vla.offline.corridor import corridor
from tests.vla.offline.test_transitions import episodes
from vla.errors import ReflexError
from vla.offline.episode_weights import EpisodeWeights, episode_weights, positive_sided_variance


def shares(weights: EpisodeWeights, numbers: list[int]) -> Any:
    """Probabilities of transitions."""
    probabilities = weights.probabilities(np.array(numbers))
    assert probabilities is not None
    return pytest.approx(probabilities.tolist())


def test_positive_sided_variance_by_hand() -> None:
    # mean 1; only 4 is above it, by 3
    assert positive_sided_variance(np.array([0.0, 0.0, 0.0, 4.0])) == pytest.approx(9 / 4)


def test_uniform_needs_no_probabilities() -> None:
    assert episode_weights(corridor(), "uniform").probabilities(np.array([0, 1])) is None


def test_successful_episodes_only() -> None:
    weights = episode_weights(episodes([2, 1, 1], [False, True, True]), "success")
    assert shares(weights, [0, 0, 1, 2]) == [0, 0, 0.5, 0.5]
    with pytest.raises(ReflexError, match="the data has none"):
        episode_weights(episodes([2], [False]), "success")


def test_the_best_share_of_episodes() -> None:
    data = episodes([1, 1, 2, 1], [False] * 4, [1, 5, 1, 2, 4])  # returns 1, 5, 3, 4
    assert shares(episode_weights(data, "best", best_share=0.1), [0, 1, 2, 2, 3]) == [0, 1, 0, 0, 0]
    assert shares(episode_weights(data, "best", best_share=0.5), [0, 1, 2, 2, 3]) == [0, 0.5, 0, 0, 0.5]


def test_return_weighting_by_hand() -> None:
    data = episodes([1, 2], [False, False], [1, 1, 2])  # returns 1 and 3: scores 0 and 1
    weights = episode_weights(data, "return", temperature=0.5)
    small, great = 1.0, np.exp(2.0)
    total = small + 2 * great
    assert [small / total, great / total, great / total] == shares(weights, [0, 1, 1])


def test_advantage_weighting_asks_what_the_first_observation_leads_to_expect() -> None:
    data = episodes([1, 1, 1, 1], [False] * 4, [0, 2, 10, 12])
    easy = np.array([0, 0, 1, 1], np.float32)[:, None]  # two starts from which more is earned by everybody
    weights = episode_weights(replace(data, observations=easy), "advantage", temperature=0.5)
    low, high = 1.0, np.exp(2.0)
    expected = np.array([low, high, low, high]) / (2 * low + 2 * high)
    assert expected.tolist() == shares(weights, [0, 1, 2, 3])


def test_the_gate_declines_where_returns_hardly_differ() -> None:
    alike = episodes([1, 1, 1], [False] * 3, [100, 101, 102])
    weights = episode_weights(alike, "return")
    assert weights.declined
    assert weights.weights is None
    assert weights.spread < 0.01
    few_good = episodes([1] * 10, [False] * 10, [0] * 9 + [10])
    chosen = episode_weights(few_good, "return")
    assert not chosen.declined
    assert chosen.spread == pytest.approx((0.1 * 81) ** 0.5 / 10)
    probabilities = chosen.probabilities(np.arange(10))
    assert probabilities is not None
    assert probabilities[9] > 0.99


def test_nothing_earned_at_all() -> None:
    assert episode_weights(episodes([1, 1], [False] * 2, [0, 0]), "advantage").declined
