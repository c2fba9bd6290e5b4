"""What a reward is worth, in numbers: pure functions of rewards, true progress and outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Vector = NDArray[np.float64]

Measure = Callable[[Vector, Vector], float]
"""(rewards [n], truth [n]) -> a number; NaN where there is nothing to measure."""

SMALLEST_DIFFERENCE = 1e-9
"""Rewards that differ by less are ties: rounding is not an opinion."""


SMALLEST_STRIDE = 0.05
"""Progress that differs by less is not further."""


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks with its bootstrap interval."""

    value: float
    low: float
    high: float
    tasks: int
    """Tasks it could be measured on; 0 makes the others NaN."""


def rank_correlation(rewards: ArrayLike, progress: ArrayLike) -> float:
    """Spearman's correlation of rewards [n] with true progress [n].

    0 when all rewards are equal: they say nothing. NaN for fewer than three rollouts, or when progress is the same in
    all of them.
    """
    given, truth = _rounded(rewards), _rounded(progress)
    if len(given) < 3 or np.ptp(truth) == 0:
        return float("nan")
    return 0.0 if np.ptp(given) == 0 else float(stats.spearmanr(given, truth).statistic)


def pair_agreement(rewards: ArrayLike, progress: ArrayLike) -> float:
    """Kendall's tau-b of rewards [n] and true progress [n]; 0 and NaN as in `rank_correlation`."""
    given, truth = _rounded(rewards), _rounded(progress)
    if len(given) < 3 or np.ptp(truth) == 0:
        return float("nan")
    return 0.0 if np.ptp(given) == 0 else float(stats.kendalltau(given, truth).statistic)


def separation(rewards: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: the chance that one of the `positive` [n] is rewarded above one of the others.

    A tie counts one half. NaN when either kind is missing.
    """
    given, chosen = _rounded(rewards), np.asarray(positive, dtype=bool)
    wins, losses = int(chosen.sum()), int((~chosen).sum())
    if wins == 0 or losses == 0:
        return float("nan")
    ranks = stats.rankdata(given)  # ties share their mean rank
    return float((ranks[chosen].sum() - wins * (wins + 1) / 2) / (wins * losses))


def comparison(rewards: ArrayLike, progress_and_group: ArrayLike) -> float:
    """The chance that of two rollouts of one group the one that came further is rewarded above the other.

    `progress_and_group` [n, 2] is each rollout's true progress in [0, 1], and the number of its group. Pairs that came
    equally far, within `SMALLEST_STRIDE`, do not count; equal rewards count one half. NaN without a pair that does.
    Policy gradients compare the rollouts of a group and no others, so this is what they see of a reward.
    """
    given, truth = _rounded(rewards), np.asarray(progress_and_group, dtype=np.float64).reshape(-1, 2)
    progress, groups = truth[:, 0], truth[:, 1]
    further = (progress[:, None] - progress[None, :] > SMALLEST_STRIDE) & (groups[:, None] == groups[None, :])
    if not further.any():
        return float("nan")
    judged = (np.sign(given[:, None] - given[None, :]) + 1.0) / 2.0
    return float(judged[further].mean())


def mean_reward(rewards: ArrayLike, _: ArrayLike) -> float:
    """Mean of rewards [n], whatever is true; NaN without rollouts."""
    given = np.asarray(rewards, dtype=np.float64)
    return float(given.mean()) if len(given) else float("nan")


def calibration_error(rewards: ArrayLike, progress: ArrayLike) -> float:
    """Mean distance of rewards [n] from true progress [n], both in [0, 1]; NaN without rollouts."""
    given, truth = np.asarray(rewards, dtype=np.float64), np.asarray(progress, dtype=np.float64)
    return float(np.abs(given - truth).mean()) if len(given) else float("nan")


def by_task(measure: Measure, rewards: ArrayLike, truth: ArrayLike, tasks: ArrayLike, chosen: ArrayLike) -> Vector:
    """The measure of each task's `chosen` [N] rollouts by themselves; rewards never compare across tasks.

    In order of task number, one value for each task in `tasks` [N]; what a measure of no rollouts is, it says itself.
    """
    given, wanted, ids = (np.asarray(values) for values in (rewards, truth, tasks))
    members = [np.asarray(chosen, dtype=bool) & (ids == task) for task in np.unique(ids)]
    return np.array([measure(given[rows], wanted[rows]) for rows in members], dtype=np.float64)


def estimate(per_task: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over tasks and its percentile bootstrap interval, tasks drawn with replacement; NaN tasks left out.

    Tasks are drawn, not rollouts: those of one task resemble one another, and what is asked is how the reward does on
    tasks like these.
    """
    values = np.asarray(per_task, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values[draws].mean(axis=1), [tail, 1.0 - tail])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """`estimate` of first minus second [tasks], paired by task."""
    return estimate(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))


def _rounded(values: ArrayLike) -> Vector:
    return np.round(np.asarray(values, dtype=np.float64) / SMALLEST_DIFFERENCE) * SMALLEST_DIFFERENCE
