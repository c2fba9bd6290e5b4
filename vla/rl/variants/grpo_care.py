"""More for successes that the averaged policy finds likely beside the group's others. GRPO-CARE (arXiv 2506.16141).

Measured from a weak start on ten tabletop tasks, one seed (docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.errors import ReflexError
from vla.rl.batch import Batch
from vla.rl.config import AlgoConfig
from vla.rl.likelihood import mean_log_probs
from vla.rl.method import Variant
from vla.run.settings import Checks


class GrpoCare(Variant):
    """A bonus that ranks successes."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[grpo_care]`."""

        bonus: float = 0.5
        """Added to the reward of a likely success."""
        margin: float = 0.0
        """How much less likely (in probability of a unit: a token) than the mean of the group's successes it may be."""

        def __post_init__(self) -> None:
            Checks(self).at_least(0, "bonus", "margin")

    @classmethod
    def check_algorithm(cls, algo: AlgoConfig) -> None:
        """Not beside a critic."""
        if algo.advantage == "critic":
            raise ReflexError(
                "algo.variants has grpo_care, but the critic forecasts rewards from 0 to 1; leave it out, or set "
                "algo.advantage to another"
            )

    def rewards(self, batch: Batch, rewards: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, float]]:
        """With the bonus; what is recorded as the reward stays as it is."""
        with self.parts.averaged():
            log_probs = mean_log_probs(self.parts.policy, batch.rollouts, self.parts.algo.sampling)
        bonus = likely_success_bonus(
            batch.successes, batch.groups, log_probs, self.settings.bonus, self.settings.margin
        )
        return rewards + bonus, {"advantage/likely_successes": float((bonus > 0).sum())}


def likely_success_bonus(
    successes: ArrayLike, groups: ArrayLike, log_probs: ArrayLike, coefficient: float, margin: float
) -> NDArray[np.float32]:
    """What to add to the rewards [N]: `coefficient` for successes that a slower policy finds at least as likely as its
    group's successes are on average, less `margin` (in probability); 0 for all others.

    It ranks successes only, and prefers the ways of succeeding that the policy already had. GRPO-CARE (arXiv
    2506.16141), with the likelihood of the actions in the place of an answer's. A rollout whose likelihood is not known
    (NaN) gets nothing.

    Args:
        successes: [N] bool.
        groups: [N].
        log_probs: [N] mean log-probability of each rollout's units under the slower policy.
        coefficient: the bonus.
        margin: in probability of a unit.
    """
    won, ids = np.asarray(successes, dtype=bool), np.asarray(groups, dtype=np.int64)
    likelihoods = np.exp(np.asarray(log_probs, dtype=np.float64))
    usable = won & np.isfinite(likelihoods)
    bonus = np.zeros(len(won), dtype=np.float32)
    for group in np.unique(ids).tolist():
        members = np.flatnonzero((ids == group) & usable)
        if len(members):
            bonus[members] = coefficient * (likelihoods[members] >= likelihoods[members].mean() - margin)
    return bonus
