"""1 for the rollouts of a group with its highest reward, 0 for the others: imitation. RAFT (arXiv 2304.06767).

Measured from a weak start on ten tabletop tasks, two seeds (docs/results/advantages.md): +18 and -1 points on GRPO.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla.rl.advantages import MINIMUM_SPREAD
from vla.rl.group_mean import GroupEstimator


class Raft(GroupEstimator):
    """Reward-ranked fine-tuning."""

    def of_group(self, rewards: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 or 0."""
        return np.where(rewards >= rewards.max() - MINIMUM_SPREAD, 1.0, 0.0)
