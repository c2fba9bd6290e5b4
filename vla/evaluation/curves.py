"""Learning curves over seeds: how many episodes a success rate took, and what lies between seeds.  Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Curve", "band", "episodes_to_reach", "paired_ratios"]


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


def paired_ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Episodes of one method over another's, seed by seed, where both reached the target.

    Raises:
        ValueError: not as many seeds of one as of the other.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} seeds of one method and {len(theirs)} of the other")
    return [mine / other for mine, other in zip(ours, theirs, strict=True) if mine is not None and other]
