"""A rollout's reward less its group's mean, over the group's deviation: GRPO's advantage.

GRPO (arXiv 2402.03300, equation 4) with one scalar for each rollout, as SimpleVLA-RL (arXiv 2509.09674) and SRPO (arXiv
2511.15605, equation 9) use it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vla.rl.advantages import by_group, with_weights
from vla.rl.batch import Batch
from vla.rl.method import AdvantageEstimator, Advantages
from vla.run.settings import Checks

EPSILON = 1e-6
"""Keeps divisions by a deviation defined. Deviations are population deviations."""


class GroupEstimator(AdvantageEstimator):
    """An advantage for each rollout, from the rewards of its group."""

    @abstractmethod
    def of_group(self, rewards: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """Advantages [n] of one group from its rewards [n], which are not all equal, and those of the batch [N]."""

    def estimate(
        self, batch: Batch, rewards: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> tuple[Advantages, dict[str, float]]:
        """One number for each rollout; see `vla.rl.advantages`."""
        everything = rewards.astype(np.float64)
        advantages = by_group(everything, batch.groups, partial(self.of_group, batch=everything))
        return list(with_weights(advantages, self.parts.algo.negative_weight, weights)), {}


class GroupMean(GroupEstimator):
    """GRPO's."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.advantage=group_mean`."""

        minimum_deviation: float = 0.2
        """A group's rewards are divided by their deviation, or by this where it is less; 0 is GRPO as published.
        Failures that differ a little under "srpo" then count for less than a success among failures does."""

        def __post_init__(self) -> None:
            Checks(self).at_least(0, "minimum_deviation")

    def of_group(self, rewards: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r - mean) / max(deviation, minimum_deviation)."""
        return group_mean(rewards, self.settings.minimum_deviation)


def group_mean(
    rewards: NDArray[np.float64], minimum_deviation: float = 0.0, deviation: float | None = None
) -> NDArray[np.float64]:
    """Rewards [n] of a group less their mean, over their deviation (or the one given), `minimum_deviation` at least."""
    spread = float(rewards.std()) if deviation is None else deviation
    centred: NDArray[np.float64] = rewards - rewards.mean()
    return centred / (max(spread, minimum_deviation) + EPSILON)
