"""Which episodes a batch is drawn from: all alike, the best, the successful, or the better the likelier.

"return" and "advantage" are the trajectory weighting of Hong et al. (Harnessing Mixed Offline Reinforcement Learning
Datasets via Trajectory Weighting, ICLR 2023): a few good episodes among many bad ones are drawn about as often as if
the data had only them, and any algorithm profits that stays close to its data. Where returns hardly differ it only
throws data away, so a gate declines it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.offline.transitions import Transitions

EpisodeWeighting = Literal["uniform", "success", "best", "return", "advantage"]


@dataclass(frozen=True)
class EpisodeWeights:
    """How likely the transitions of each episode are drawn."""

    episodes: NDArray[np.int64]
    """[E] numbers of the episodes, increasing."""
    weights: NDArray[np.float64] | None
    """[E] of each of an episode's transitions, of any sum; None for all alike."""
    spread: float
    """The square root of the positive-sided variance of returns, as a share of the greatest return's size."""
    declined: bool = False
    """The gate took uniform weights instead of those asked for, because returns differ too little."""

    def probabilities(self, episodes: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """[N] of transitions of the episodes [N], of sum 1; None for all alike."""
        if self.weights is None:
            return None
        each = self.weights[np.searchsorted(self.episodes, episodes)]
        scaled: NDArray[np.float64] = each / each.sum()
        return scaled


def positive_sided_variance(returns: NDArray[np.floating]) -> float:
    """E[max(G - mean, 0)^2] over returns [E]: how far better episodes than the usual one are above it.

    It says how much there is to gain by sampling good trajectories more often (Hong et al. 2023, arXiv 2306.13085).
    """
    above = np.maximum(returns - returns.mean(), 0.0)
    return float((above**2).mean())


def episode_weights(
    transitions: Transitions,
    weighting: EpisodeWeighting,
    *,
    temperature: float = 0.1,
    best_share: float = 0.1,
    least_spread: float = 0.05,
) -> EpisodeWeights:
    """How likely the transitions of each episode are drawn.

    Args:
        transitions: the data, of single steps.
        weighting: "uniform" all alike; "success" those of successful episodes; "best" those of the `best_share` of
            episodes with the greatest returns; "return" proportional to exp(S / temperature), S the return scaled to
            [0, 1] over the episodes; "advantage" the same of the return less what a linear regression on the first
            observation expects.
        temperature: alpha of the paper, above 0.
        best_share: at least one episode is kept.
        least_spread: "return" and "advantage" are declined where `EpisodeWeights.spread` is less.

    Raises:
        ReflexError: under "success", no episode succeeded.
    """
    starts = transitions.episode_starts()
    numbers, returns = transitions.episodes[starts], transitions.episode_returns()[starts]
    size = float(np.abs(returns).max())
    spread = positive_sided_variance(returns) ** 0.5 / size if size > 0 else 0.0
    if weighting == "uniform":
        return EpisodeWeights(numbers, None, spread)
    if weighting == "success":
        successes = transitions.successes[starts]
        if not successes.any():
            raise ReflexError(
                "weighting=success needs successful episodes, and the data has none; use weighting=best, or other data"
            )
        return EpisodeWeights(numbers, successes.astype(np.float64), spread)
    if weighting == "best":
        best = np.zeros(len(returns))
        best[np.argsort(-returns, kind="stable")[: max(1, round(best_share * len(returns)))]] = 1.0
        return EpisodeWeights(numbers, best, spread)
    if spread < least_spread:
        return EpisodeWeights(numbers, None, spread, declined=True)
    scores = returns
    if weighting == "advantage":
        scores = returns - _expected_returns(transitions.observations[starts], returns)
    span = float(np.ptp(scores))
    scores = (scores - scores.max()) / (span if span > 0 else 1.0)
    return EpisodeWeights(numbers, np.exp(scores / temperature), spread)


def _expected_returns(first: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """[E] a linear function of the first observations [E, O], fitted to returns by least squares."""
    inputs = np.concatenate([first.astype(np.float64), np.ones((len(first), 1))], axis=1)
    fitted: NDArray[np.float64] = inputs @ np.linalg.lstsq(inputs, returns, rcond=None)[0]
    return fitted
