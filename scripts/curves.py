"""Learning curves over seeds: how many episodes a success rate took, and what lies between seeds.  Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Curve", "Ratio", "band", "episodes_to_reach", "mean_ratio", "ratio_to_reach"]


@dataclass(frozen=True)
class Curve:
    """Held-out success of one run over the training episodes it had used."""

    episodes: NDArray[np.float64]
    """[E] increasing."""
    rates: NDArray[np.float64]
    """[E] success rates in [0, 1]."""

    @classmethod
    def of(cls, episodes: ArrayLike, rates: ArrayLike) -> Curve:
        """Raises `ValueError` unless both are equally long, not empty, and episodes increase."""
        x, y = np.asarray(episodes, dtype=np.float64), np.asarray(rates, dtype=np.float64)
        if x.shape != y.shape or x.ndim != 1 or len(x) == 0 or (np.diff(x) <= 0).any():
            raise ValueError(f"a curve needs as many rates as increasing episode counts, got {x.shape} and {y.shape}")
        return cls(x, y)


def episodes_to_reach(curve: Curve, target: float) -> float | None:
    """Training episodes after which held-out success first was `target`, between evaluations by a straight line.

    None when it never was.
    """
    reached = np.flatnonzero(curve.rates >= target)
    if len(reached) == 0:
        return None
    first = int(reached[0])
    if first == 0:
        return float(curve.episodes[0])
    before, after = curve.rates[first - 1], curve.rates[first]
    share = (target - before) / (after - before)
    return float(curve.episodes[first - 1] + share * (curve.episodes[first] - curve.episodes[first - 1]))


def band(
    curves: Sequence[Curve], points: int = 50, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean of runs and Student's interval of that mean: episodes [P], mean [P], low [P], high [P].

    Over the episodes that all runs cover. With one run the interval is the run itself: one seed says nothing of others.

    Raises:
        ValueError: no curve, or curves that have no episodes in common.
    """
    if not curves:
        raise ValueError("no curve to average")
    first, last = max(curve.episodes[0] for curve in curves), min(curve.episodes[-1] for curve in curves)
    if last < first:
        raise ValueError("the curves have no episodes in common")
    grid = np.linspace(first, last, points)
    rates = np.stack([np.interp(grid, curve.episodes, curve.rates) for curve in curves])
    mean = rates.mean(axis=0)
    if len(curves) == 1:
        return grid, mean, mean, mean
    error = rates.std(axis=0, ddof=1) / np.sqrt(len(curves))
    reach = float(stats.t.ppf(0.5 + confidence / 2, len(curves) - 1)) * error
    return grid, mean, np.clip(mean - reach, 0.0, 1.0), np.clip(mean + reach, 0.0, 1.0)


@dataclass(frozen=True)
class Ratio:
    """Episodes of one method to a target over another's, as far as they are known: between `low` and `high`.

    A run that stopped before the target needs more episodes than it had, so it still bounds the ratio.
    """

    low: float
    """0 when the other method never reached the target."""
    high: float
    """Infinite when this method never reached the target."""

    def as_json(self) -> float | dict[str, float] | None:
        """The ratio; ``{"at_most": x}`` or ``{"at_least": x}`` when only that is known; None when nothing is."""
        if self.low == self.high:
            return self.low
        if self.low > 0:
            return {"at_least": self.low}
        return {"at_most": self.high} if self.high < np.inf else None

    @classmethod
    def from_json(cls, value: float | dict[str, float] | None) -> Ratio:
        """What `as_json` gave."""
        if isinstance(value, int | float):
            return cls(value, value)
        bounds = value or {}
        return cls(bounds.get("at_least", 0.0), bounds.get("at_most", np.inf))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:.2f}"
        if self.low > 0:
            return f">= {self.low:.2f}"
        return f"<= {self.high:.2f}" if self.high < np.inf else "not reached"


def ratio_to_reach(ours: Curve, theirs: Curve, target: float) -> Ratio:
    """Episodes of `ours` to `target` over those of `theirs`.

    Nothing is known when neither reaches it, or when `theirs` is there before its first episode.
    """
    (least, most), (other_least, other_most) = _range_to_reach(ours, target), _range_to_reach(theirs, target)
    if other_least == 0:
        return Ratio(0.0, np.inf)
    return Ratio(least / other_most, most / other_least)


def mean_ratio(ratios: Sequence[Ratio]) -> Ratio:
    """Geometric mean over seeds; a bound where that of some seed is one.

    Raises:
        ValueError: there is no ratio.
    """
    if not ratios:
        raise ValueError("no ratio to average")
    low, high = (float(stats.gmean(ends)) for ends in zip(*((one.low, one.high) for one in ratios), strict=True))
    return Ratio(low, high)


def _range_to_reach(curve: Curve, target: float) -> tuple[float, float]:
    """Between which numbers the episodes to a target lie: more than the run had when it did not get there."""
    reached = episodes_to_reach(curve, target)
    return (float(curve.episodes[-1]), np.inf) if reached is None else (reached, reached)
