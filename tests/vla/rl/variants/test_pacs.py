"""PACS, by hand and as the gradient it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.rl.advantages import by_group, leave_one_out
from vla.rl.variants.pacs import pacs_advantages


def test_pacs_worked_by_hand():
    # Log-ratios 1 and 0, beta 2: implicit rewards 2 and 0, logits 2 and -2, sigmoids 0.8808 and 0.1192.
    result = pacs_advantages([1.0, 0.0], [7, 7], [1.0, 0.0], beta=2.0)
    residual = 1.0 - 1.0 / (1.0 + np.exp(-2.0))
    assert result.tolist() == pytest.approx([2 * residual, -2 * residual], abs=1e-6)
    # The other way round the success is the unlikely one, and teaches more.
    assert pacs_advantages([0.0, 1.0], [7, 7], [1.0, 0.0], beta=2.0)[1] == pytest.approx(2 * (1 - residual), abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.1, 5.0))
@settings(max_examples=50, deadline=None)
def test_pacs_at_the_reference_is_rloo(rewards: list[float], beta: float):
    groups = [0] * len(rewards)
    expected = by_group(rewards, groups, leave_one_out)
    result = pacs_advantages(rewards, groups, np.full(len(rewards), -0.3), beta)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_pacs_is_the_gradient_of_the_cross_entropy():
    rewards, ratios, beta, step = np.array([1.0, 0.2, 0.0]), np.array([0.3, -0.5, 0.1]), 1.5, 1e-5

    def loss(values: np.ndarray) -> float:
        implicit = beta * values
        logits = np.array([implicit[i] - np.delete(implicit, i).mean() for i in range(3)])
        chance = 1 / (1 + np.exp(-logits))
        return float(-(rewards * np.log(chance) + (1 - rewards) * np.log(1 - chance)).sum())

    slope = [(loss(ratios + step * row) - loss(ratios - step * row)) / (2 * step) for row in np.eye(3)]
    np.testing.assert_allclose(pacs_advantages(rewards, [0, 0, 0], ratios, beta), -np.array(slope) / beta, atol=1e-4)


def test_pacs_leaves_groups_without_spread_alone():
    assert pacs_advantages([1, 1, 0], [0, 0, 1], [0.5, -0.5, 0.2], beta=1.0).tolist() == [0, 0, 0]
