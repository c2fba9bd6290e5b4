"""Intervals and paired tests, against hand-worked and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.evaluation.statistics import mcnemar_exact, paired_bootstrap, wilson_interval

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # 8/10, z = 1.95996: centre (0.8 + 0.192073) / 1.384146 = 0.716740,
        # half width 1.95996 sqrt(0.016 + 0.00960365) / 1.384146 = 0.226577
        (8, 10, 0.490162, 0.943318),
        (0, 10, 0.0, 0.277533),  # z^2 / (n + z^2) = 3.841459 / 13.841459
        (10, 10, 0.722467, 1.0),
        (485, 500, 0.951096, 0.981737),  # the span of about 3 points at 97 % of 500 episodes
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_known_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=2e-6)


@given(counts, st.floats(0.5, 0.999))
def test_wilson_solves_its_equation(count: tuple[int, int], confidence: float) -> None:
    """Its ends are the rates p whose score |rate - p| / sqrt(p (1 - p) / n) is the same normal quantile."""
    successes, trials = count
    rate = successes / trials
    low, high = wilson_interval(successes, trials, confidence)
    assert 0.0 <= low <= rate <= high <= 1.0
    scores = [abs(rate - end) / math.sqrt(end * (1 - end) / trials) for end in (low, high) if 0.0 < end < 1.0]
    for score in scores:
        assert math.erf(score / math.sqrt(2)) == pytest.approx(confidence, abs=1e-6)


@given(counts)
def test_wilson_mirrors_and_narrows(count: tuple[int, int]) -> None:
    successes, trials = count
    low, high = wilson_interval(successes, trials)
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wider = wilson_interval(successes, trials, 0.99)
    assert wider[0] <= low
    assert high <= wider[1]
    more = wilson_interval(4 * successes, 4 * trials)
    assert more[1] - more[0] < high - low


@pytest.mark.parametrize("arguments", [(-1, 3), (4, 3), (0, -1), (1, 2, 0.0), (1, 2, 1.0)])
def test_wilson_refuses_nonsense(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"need 0 <=|confidence"):
        wilson_interval(*arguments)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 32),
        (1, 9, 2 * (1 + 10) / 1024),
        (3, 3, 1.0),  # 2 (1 + 6 + 15 + 20) / 64 exceeds one
        (6, 16, 0.052479),  # published worked example of the exact test
    ],
)
def test_mcnemar_known_values(only_a: int, only_b: int, p_value: float) -> None:
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p_value, abs=1e-6)
    assert mcnemar_exact(only_b, only_a) == mcnemar_exact(only_a, only_b)


def test_mcnemar_of_many_pairs_does_not_underflow() -> None:
    assert mcnemar_exact(3000, 3000) == 1.0
    assert 0.0 < mcnemar_exact(1400, 1600) < 0.001


def test_paired_difference_by_hand() -> None:
    before = [True] * 4 + [False] * 6
    after = [False] + [True] * 8 + [False]
    result = paired_bootstrap(before, after)
    assert (result.only_a, result.only_b, result.pairs) == (1, 5, 10)
    assert result.difference == pytest.approx(0.4)
    assert result.p_value == pytest.approx(2 * 7 / 64)
    assert -0.2 <= result.low < 0.4 < result.high <= 0.9


def test_the_bootstrap_interval_agrees_with_resampling_pairs_one_by_one() -> None:
    generator = np.random.default_rng(1)
    before, after = generator.random(120) < 0.5, generator.random(120) < 0.7
    picks = generator.integers(0, 120, size=(20_000, 120))
    direct = np.quantile((after[picks].astype(float) - before[picks]).mean(1), [0.025, 0.975])
    result = paired_bootstrap(before.tolist(), after.tolist(), resamples=20_000)
    assert (result.low, result.high) == pytest.approx(tuple(direct), abs=0.01)


def test_the_bootstrap_takes_its_settings() -> None:
    before, after = [True] * 4 + [False] * 6, [False] + [True] * 8 + [False]
    wide, narrow = (paired_bootstrap(before, after, confidence) for confidence in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    # Each pair changes by -1, 0 or 1 with chances 0.1, 0.4 and 0.5: deviation sqrt(0.6 - 0.4^2) = 0.663 a pair,
    # 0.2098 for the mean of ten, of which the middle half spans 0.674 to either side.
    assert (narrow.low, narrow.high) == pytest.approx((0.4 - 0.141, 0.4 + 0.141), abs=0.06)
    assert paired_bootstrap(before, after) == paired_bootstrap(before, after, seed=0)
    few = [paired_bootstrap(before * 9, after * 9, resamples=20, seed=seed) for seed in range(4)]
    assert len({(result.low, result.high) for result in few}) > 1


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_bootstrap_properties(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    result = paired_bootstrap(before, after, resamples=200)
    assert result.difference == pytest.approx(np.mean(after) - np.mean(before))
    assert -1.0 <= result.low <= result.high <= 1.0
    swapped = paired_bootstrap(after, before, resamples=200)
    assert swapped.difference == pytest.approx(-result.difference)
    assert swapped.p_value == result.p_value
    same = paired_bootstrap(before, before, resamples=50)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False]), ([2], [0])])
def test_paired_bootstrap_refuses_nonsense(a: list[int], b: list[int]) -> None:
    with pytest.raises(ValueError, match=r"equally long|0 or 1"):
        paired_bootstrap(a, b)
