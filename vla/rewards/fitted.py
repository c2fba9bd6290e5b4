"""Failures by what a reward model says of how they ended: `algo.reward=fitted`.

The model is a folder that `vla reward` wrote, or one of your own. Its scores have a scale of their own, so a failure is
ranked among the batch's failures of its task, by SRPO's formula with the score in place of the nearness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rewards.models.model import load_reward_model, score_episode
from vla.rewards.reward import Floats, Reward, RewardParts, Scores, failure_mean
from vla.rewards.srpo import ALPHA_REASON, failure_rewards, rows_by_task
from vla.run.settings import Checks


class ModelReward(Reward):
    """1 for a success; a failure by the rank of a reward model's score of its last moment."""

    looks_at_rollouts: ClassVar[bool] = False  # the model brings what it looks with

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.reward=fitted`."""

        model: str = ""
        """Folder of a reward model (`vla reward`), or package.module:Class of your own."""
        alpha: float = 0.8
        """What a failure is worth at most, in [0, 1]."""

        def __post_init__(self) -> None:
            Checks(self).within(0.0, 1.0, "alpha", reason=ALPHA_REASON)

    @classmethod
    def check_algorithm(cls, algo: Any) -> None:
        """There is no reward without a model."""
        if not algo.settings.get("fitted", {}).get("model"):
            raise ReflexError("algo.settings.fitted.model is empty; give the folder of a reward model (vla reward)")

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        super().__init__(settings, parts)
        self._model = load_reward_model(settings.model)

    def embed(self, episodes: Sequence[Episode]) -> Floats:
        """[n, 1] the model's score of each rollout's last moment. Raises `ReflexError` as the model does."""
        return np.array([[score_episode(self._model, episode)[-1]] for episode in episodes], np.float32)

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """alpha * sigmoid of a failure's score, standardised over the batch's failures of its task."""
        rewards = successes.astype(np.float32)
        scores = np.asarray(embeddings[:, 0], dtype=np.float64)
        for _, failures in rows_by_task(scores[:, None], successes, task_ids):
            if len(failures):
                rewards[failures] = failure_rewards(-scores[failures], self.settings.alpha)
        return Scores(rewards, failure_mean(rewards, successes))
