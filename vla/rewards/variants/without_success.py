"""Failures are rewarded only where no rollout of their group succeeded.

Where one did, success tells rollouts apart, and what tells failures apart is less certain than that. Groups without a
success then come on top of those that an update wants: GRPO, and what its replaced groups can teach. Measured over
seeds from a weak start (docs/results/rewards.md): no gain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.rewards.reward import Floats, Scores, WrappedReward


class WithoutSuccess(WrappedReward):
    """The reward inside, for failures of groups without a success."""

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """Groups of successes and failures are those that count."""
        scores = self.inner.score(embeddings, successes, task_ids, groups)
        rewards = rewards_without_success(scores.rewards, successes, groups)
        return replace(scores, rewards=rewards, telling=successes.astype(np.float32))


def rewards_without_success(rewards: ArrayLike, successes: ArrayLike, groups: ArrayLike) -> NDArray[np.float32]:
    """Rewards [N] with 0 for the failures of every group in which a rollout succeeded.

    There success and failure differ already, and what tells failures apart is less certain than that. A group without
    a success has nothing else to learn from.

    Args:
        rewards: [N].
        successes: [N] bool.
        groups: [N] int, which group each rollout belongs to.
    """
    kept, succeeded, ids = np.array(rewards, dtype=np.float32), np.asarray(successes, dtype=bool), np.asarray(groups)
    kept[~succeeded & np.isin(ids, ids[succeeded])] = 0.0
    return kept
