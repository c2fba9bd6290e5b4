"""Episodes to a success rate, bands over seeds and ratios, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.curves import Curve, Ratio, band, episodes_to_reach, mean_ratio, ratio_to_reach


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


def reaching(episodes: float | None, of: float = 100.0) -> Curve:
    """A curve that is at 50 % after so many of its episodes, or never; and at 20 % before."""
    if episodes is None:
        return Curve.of([0, of], [0.2, 0.4])
    return Curve.of([0, episodes, of], [0.2, 0.5, 0.6]) if episodes else Curve.of([0, of], [0.5, 0.6])


@pytest.mark.parametrize(
    ("ours", "theirs", "shown", "saved"),
    [
        (50, 40, "1.25", 1.25),
        (50, None, "<= 0.50", {"at_most": 0.5}),  # theirs needs more than its 100 episodes
        (None, 40, ">= 2.50", {"at_least": 2.5}),  # ours needs more than its 100
        (None, None, "not reached", None),
        (0, 40, "0.00", 0.0),
        (50, 0, "not reached", None),  # the other was there before it learnt anything: no measure of learning
    ],
)
def test_a_run_that_never_arrives_bounds_its_ratio(
    ours: float | None, theirs: float | None, shown: str, saved: object
) -> None:
    ratio = ratio_to_reach(reaching(ours), reaching(theirs), 0.5)
    assert (str(ratio), ratio.as_json()) == (shown, saved)
    assert Ratio.from_json(ratio.as_json()) == ratio


@pytest.mark.filterwarnings("error")
def test_the_mean_ratio_counts_every_seed() -> None:
    exact, at_most, at_least, unknown = Ratio(2.0, 2.0), Ratio(0.0, 0.5), Ratio(8.0, np.inf), Ratio(0.0, np.inf)
    assert mean_ratio([exact, Ratio(0.5, 0.5)]).as_json() == pytest.approx(1.0)
    assert str(mean_ratio([exact, at_most])) == "<= 1.00"
    assert str(mean_ratio([exact, at_least])) == ">= 4.00"
    assert str(mean_ratio([at_most, at_least])) == "not reached"
    assert str(mean_ratio([exact, unknown])) == "not reached"
    with pytest.raises(ValueError, match="no ratio"):
        mean_ratio([])


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_stopping_earlier_only_widens_what_is_known(episodes: list[tuple[int, int]]) -> None:
    """The ratio of runs that went on until they arrived lies within the bounds from runs stopped after 100 episodes."""

    def stopped(arrival: int) -> Curve:
        return reaching(arrival) if arrival < 100 else reaching(None)

    whole = [ratio_to_reach(reaching(a, 400), reaching(b, 400), 0.5) for a, b in episodes]
    short = [ratio_to_reach(stopped(a), stopped(b), 0.5) for a, b in episodes]
    for true, known in zip([*whole, mean_ratio(whole)], [*short, mean_ratio(short)], strict=True):
        assert known.low * (1 - 1e-9) <= true.low
        assert true.high <= known.high * (1 + 1e-9)


def test_what_is_no_curve_is_refused() -> None:
    for episodes, rates in (([], []), ([0, 0], [0.1, 0.2]), ([0, 1], [0.1])):
        with pytest.raises(ValueError, match="a curve needs"):
            Curve.of(episodes, rates)
    with pytest.raises(ValueError, match="no episodes in common"):
        band([Curve.of([0, 1], [0, 0]), Curve.of([2, 3], [0, 0])])
    with pytest.raises(ValueError, match="no curve"):
        band([])
