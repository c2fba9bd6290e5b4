"""A rollout's reward less the mean of its group's others. RLOO (arXiv 2402.14740).

Measured from a weak start on ten tabletop tasks, one seed (docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla.rl.advantages import leave_one_out
from vla.rl.group_mean import GroupEstimator


class Rloo(GroupEstimator):
    """Reinforce, leave one out."""

    def of_group(self, rewards: NDArray[np.float64], batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """r - mean of the others."""
        return leave_one_out(rewards)
