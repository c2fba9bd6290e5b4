"""How good and how varied a data set is, as pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def discounted_return(rewards: NDArray[np.floating], discount: float) -> float:
    """Sum over t of discount^t rewards[t], of one episode's rewards [T]."""
    return float(np.sum(np.asarray(rewards, np.float64) * discount ** np.arange(len(rewards))))


def trajectory_quality(returns: Array, worst: float, best: float) -> float:
    """Mean return on the scale from a worst policy's (0) to an expert's (1): the TQ of Schweighofer et al. 2021.

    (mean return - worst) / (best - worst), arXiv 2111.04714, of returns [E]. Raises `ValueError` unless best > worst.
    """
    if not best > worst:
        raise ValueError(f"the best return {best} must be above the worst {worst}")
    return float((np.mean(returns) - worst) / (best - worst))


def count_state_actions(pairs: Array, bins: int, low: Array, high: Array) -> int:
    """How many different pairs there are among [N, S + A] numbers, each number cut into bins.

    The bins lie between `low` and `high` [S + A]; what is beyond is in the outermost. Numbers that do not vary
    (high = low) are all in one.
    """
    width = np.where(high > low, high - low, 1.0)
    cells = np.floor((pairs - low) / width * bins).clip(0, bins - 1).astype(np.int32)
    return len(np.unique(cells, axis=0))


def state_action_coverage(pairs: Array, reference: Array | None, bins: int) -> float:
    """SACo of Schweighofer et al. 2021: different state-action pairs, over those of a reference data set.

    arXiv 2111.04714; `pairs` is [N, S + A]. Continuous numbers are cut into bins, as the paper's code does (into 100,
    between the least and the greatest of both data sets). Without a `reference` [M, S + A] the pairs are compared with
    the most that so many steps could hold, N: then it is the share of pairs that are not repetitions.
    """
    everything = pairs if reference is None else np.concatenate([pairs, reference])
    low, high = everything.min(axis=0), everything.max(axis=0)
    most = len(pairs) if reference is None else count_state_actions(reference, bins, low, high)
    return count_state_actions(pairs, bins, low, high) / most


def principal_plane(states: Array) -> Array:
    """States [N, S] on their two principal components, [N, 2] (0 where there is but one); each number is standardised.

    The sign of a component is such that its largest loading is positive.
    """
    spread = states.std(axis=0)
    centred = (states - states.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    covariance = centred.T @ centred / len(centred)
    _, vectors = np.linalg.eigh(covariance)  # by growing eigenvalue
    axes = vectors[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    plane = np.zeros((len(states), 2))
    plane[:, : axes.shape[1]] = centred @ axes
    return plane


def occupancy(plane: Array, cells: int) -> NDArray[np.int64]:
    """How often each cell of a grid over points [N, 2] is visited, [cells, cells]: rows from the top (large y) down."""
    counts, _, _ = np.histogram2d(plane[:, 1], plane[:, 0], bins=cells)
    return counts[::-1].astype(np.int64)


def bin_counts(values: Array, bins: int) -> list[int]:
    """How many of [N] values lie in each of `bins` equal parts from their least to their greatest."""
    counts, _ = np.histogram(values, bins=bins)
    return [int(count) for count in counts]


def concatenated(states: Sequence[NDArray[np.floating]], actions: Sequence[NDArray[np.floating]]) -> Array:
    """States [T, S] and actions [T, A] of some episodes, side by side: [sum of T, S + A] float64."""
    rows = [np.concatenate([state, action], axis=1) for state, action in zip(states, actions, strict=True)]
    return np.concatenate(rows).astype(np.float64)
