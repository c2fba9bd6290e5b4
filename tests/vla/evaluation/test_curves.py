"""Episodes to a success rate, bands over seeds and ratios, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.evaluation.curves import Curve, band, episodes_to_reach, paired_ratios


def test_a_target_is_reached_between_two_evaluations() -> None:
    curve = Curve.of([0, 100, 300], [0.5, 0.7, 0.95])
    assert episodes_to_reach(curve, 0.9) == pytest.approx(100 + 200 * 0.2 / 0.25)
    assert episodes_to_reach(curve, 0.5) == 0
    assert episodes_to_reach(curve, 0.96) is None
    dip = Curve.of([0, 10, 20, 30], [0.5, 0.9, 0.8, 0.9])
    assert episodes_to_reach(dip, 0.9) == 10, "the first time"


def test_a_band_by_hand() -> None:
    # At every episode rates 0.4 and 0.6: mean 0.5, standard error 0.1, t(1, 97.5 %) = 12.706.
    grid, mean, low, high = band([Curve.of([0, 10], [0.4, 0.4]), Curve.of([0, 20], [0.6, 0.6])], points=3)
    assert grid.tolist() == [0, 5, 10]
    assert mean.tolist() == pytest.approx([0.5] * 3)
    assert low.tolist() == [0.0] * 3 and high.tolist() == [1.0] * 3
    three = [Curve.of([0, 1], [value, value]) for value in (0.5, 0.6, 0.7)]
    _, _, low, high = band(three, points=2)
    assert high[0] - 0.6 == pytest.approx(4.3027 * 0.1 / np.sqrt(3), abs=1e-4)
    assert 0.6 - low[0] == pytest.approx(high[0] - 0.6)


def test_one_seed_has_no_interval() -> None:
    _, mean, low, high = band([Curve.of([0, 1], [0.2, 0.4])], points=2)
    assert mean.tolist() == low.tolist() == high.tolist() == [0.2, 0.4]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_where_the_target_is_reached_the_curve_is_at_it(rates: list[float], target: float) -> None:
    curve = Curve.of(np.arange(len(rates)) * 10.0, rates)
    reached = episodes_to_reach(curve, target)
    if max(rates) < target:
        assert reached is None
    else:
        assert reached is not None
        assert np.interp(reached, curve.episodes, curve.rates) == pytest.approx(max(target, rates[0]), abs=1e-6) or (
            reached == 0 and rates[0] >= target
        )


def test_ratios_are_paired_and_leave_out_seeds_that_one_method_failed() -> None:
    assert paired_ratios([50, None, 80], [100, 100, 160]) == [0.5, 0.5]
    assert paired_ratios([50], [None]) == []
    with pytest.raises(ValueError, match="2 seeds of one"):
        paired_ratios([1, 2], [1])


def test_what_is_no_curve_is_refused() -> None:
    for episodes, rates in (([], []), ([0, 0], [0.1, 0.2]), ([0, 1], [0.1])):
        with pytest.raises(ValueError, match="a curve needs"):
            Curve.of(episodes, rates)
    with pytest.raises(ValueError, match="no episodes in common"):
        band([Curve.of([0, 1], [0, 0]), Curve.of([2, 3], [0, 0])])
    with pytest.raises(ValueError, match="no curve"):
        band([])
