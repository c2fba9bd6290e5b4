"""Correlated draws of a chunk: uniform each, together as correlated as asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vla.errors import ReflexError
from vla.policies.decoding import chunk_uniforms


def draws(correlation: float, count: int = 4000) -> np.ndarray:
    """[count, steps, dimensions]"""
    generator = np.random.default_rng(0)
    return np.stack([chunk_uniforms(generator, 8, 7, correlation) for _ in range(count)]).reshape(count, 8, 7)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_each_draw_is_uniform(correlation):
    values = draws(correlation)
    for step, dimension in ((0, 0), (7, 6), (3, 2)):
        assert stats.kstest(values[:, step, dimension], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_steps_of_a_dimension_are_correlated_and_dimensions_are_not(correlation):
    normal = stats.norm.ppf(draws(correlation))
    along_time = np.corrcoef(normal[:, 0, 2], normal[:, 6, 2])[0, 1]
    across = np.corrcoef(normal[:, 0, 2], normal[:, 0, 3])[0, 1]
    assert along_time == pytest.approx(correlation, abs=0.05)
    assert across == pytest.approx(0.0, abs=0.05)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 0.999), st.integers(0, 2**32 - 1))
def test_draws_stay_in_the_unit_interval_and_repeat_with_the_seed(correlation, seed):
    first, second = (chunk_uniforms(np.random.default_rng(seed), 4, 3, correlation) for _ in range(2))
    assert first.shape == (12,) and ((first >= 0) & (first <= 1)).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("correlation", [-0.1, 1.0, float("nan")])
def test_a_correlation_that_cannot_be_is_refused(correlation):
    with pytest.raises(ReflexError, match="chunk_correlation"):
        chunk_uniforms(np.random.default_rng(0), 4, 3, correlation)
