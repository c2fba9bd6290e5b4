"""Groups are weighed by how uncertain their outcome is: 4 p (1 - p), p their share of successes.

The variance of success bounds the expected improvement from below (arXiv 2504.03380). Measured from a weak start on ten
tabletop tasks, one seed (docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.rl.batch import Batch
from vla.rl.method import Variant


class DifficultyWeight(Variant):
    """Groups of failures only then teach nothing."""

    def weights(self, batch: Batch) -> NDArray[np.float32]:
        """See `difficulty_weights`."""
        return difficulty_weights(batch.successes, batch.groups)


def difficulty_weights(successes: ArrayLike, groups: ArrayLike) -> NDArray[np.float32]:
    """4 p (1 - p) for each rollout [N], p the share of its group that succeeded: 1 for groups half of which did.

    The variance of success bounds the expected improvement from below (arXiv 2504.03380). A group of
    failures only gets 0, and with it whatever a reward found between them.
    """
    succeeded, ids = np.asarray(successes, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    weights = np.zeros(len(ids))
    for group in np.unique(ids).tolist():
        share = succeeded[ids == group].mean()
        weights[ids == group] = 4.0 * share * (1.0 - share)
    return weights.astype(np.float32)
