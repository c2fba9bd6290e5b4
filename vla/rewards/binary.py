"""1 for a success, 0 for a failure: GRPO's reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.rewards.reward import Floats, Reward, Scores


class BinaryReward(Reward):
    """The outcome."""

    looks_at_rollouts: ClassVar[bool] = False
    compares_rollouts: ClassVar[bool] = False

    def embed(self, episodes: Sequence[Episode]) -> Floats:
        """Nothing is looked at: [n, 0]."""
        return np.zeros((len(episodes), 0), dtype=np.float32)

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """1 and 0."""
        return Scores(successes.astype(np.float32))
