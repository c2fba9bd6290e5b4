"""A rollout's reward less its group's mean, over the deviation of the batch's rewards. Lite PPO (arXiv 2508.08221).

Measured from a weak start on ten tabletop tasks, one seed (docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla.rl.group_mean import GroupEstimator, GroupMean, group_mean


class LitePpo(GroupEstimator):
    """GRPO's with the batch's deviation."""

    @dataclass(frozen=True)
    class Settings(GroupMean.Settings):
        """Of `algo.advantage=lite_ppo`."""

    def of_group(self, rewards: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r - mean of the group) / max(deviation of the batch, minimum_deviation)."""
        return group_mean(rewards, self.settings.minimum_deviation, float(batch.std()))
