"""Reward models: what a batch of rollouts is worth. The only part in which GRPO and SRPO differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.rewards.embeddings import RolloutEmbedding
from vla.rewards.modes import calibrated_rewards, siirl_rewards
from vla.rewards.srpo import Metric, srpo_rewards
from vla.rewards.success_bank import SuccessBank


@dataclass(frozen=True)
class Scores:
    """Rewards [N] of a batch and their telemetry."""

    rewards: NDArray[np.float32]
    metrics: dict[str, float]


class RewardModel(Protocol):
    """Rollouts are embedded as they end, so that their frames can be dropped, and scored together."""

    @property
    def compares_rollouts(self) -> bool:
        """Whether a rollout's reward depends on the others of its task."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D] one row for each rollout, from its own frames alone."""

    def score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        """Rewards of a batch from embeddings [N, D], successes [N] and tasks [N]; a success gets 1, a failure less."""


class BinaryReward:
    """1 for a success, 0 for a failure: GRPO."""

    compares_rollouts = False

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """Nothing is looked at: [n, 0]."""
        return np.zeros((len(episodes), 0), dtype=np.float32)

    def score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        """1 and 0."""
        return Scores(successes.astype(np.float32), {})


class _EmbeddingReward(ABC):
    """What the rewards on a frozen encoder's embeddings of rollouts have in common."""

    compares_rollouts = True

    def __init__(
        self,
        embedding: RolloutEmbedding,
        demonstrations: Mapping[int, Sequence[Episode]] | None = None,
        bank: SuccessBank | None = None,
    ) -> None:
        """`demonstrations` by task stand in for a task's successes while it has none.

        Successes in the `bank` are references beside those of the batch.
        """
        self._embedding, self._bank = embedding, bank
        self._demonstrations = {
            task: embedding.embed(episodes) for task, episodes in (demonstrations or {}).items() if episodes
        }

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D]. Raises `world_models.errors.WorldModelError` when the encoder cannot embed a rollout."""
        return self._embedding.embed(episodes)

    def score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        """See `RewardModel.score`."""
        kept = None if self._bank is None else self._bank.references(task_ids.tolist())
        if kept is None:
            scores = self._score(embeddings, successes, task_ids)
        else:
            # What the bank holds takes part as rollouts that succeeded, whose reward nobody asks for.
            rows, tasks = kept
            succeeded = np.concatenate([successes, np.ones(len(rows), dtype=bool)])
            everything = self._score(np.concatenate([embeddings, rows]), succeeded, np.concatenate([task_ids, tasks]))
            scores = Scores(everything.rewards[: len(embeddings)], everything.metrics)
        failures = scores.rewards[~successes]
        metrics = {**scores.metrics, "reward/failure_mean": float(failures.mean()) if failures.size else 0.0}
        if self._bank is not None:
            rescued = [] if kept is None else set(kept[1].tolist()) - set(task_ids[successes].tolist())
            metrics |= {
                "bank/successes": float(len(self._bank)),
                "bank/rescued_rollouts": float(np.isin(task_ids, list(rescued)).sum()),
            }
        return Scores(scores.rewards, metrics)

    @abstractmethod
    def _score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        """Rewards and telemetry, without a bank."""


class SiirlReward(_EmbeddingReward):
    """siiRL's formula (`vla.rewards.modes.siirl_rewards`) on the embeddings that SRPO's uses, to compare with."""

    def _score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        return Scores(siirl_rewards(embeddings, successes, task_ids), {})


class CalibratedReward(_EmbeddingReward):
    """Failures on an absolute scale (`vla.rewards.modes.calibrated_rewards`).

    A row of its embeddings holds two: the rollout's, and that of one that stays where it began.
    """

    def __init__(
        self,
        embedding: RolloutEmbedding,
        alpha: float = 0.8,
        demonstrations: Mapping[int, Sequence[Episode]] | None = None,
        bank: SuccessBank | None = None,
    ) -> None:
        """`alpha` is what a failure is worth at most."""
        super().__init__(embedding, demonstrations, bank)
        self._alpha = alpha

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 2 D]. Raises `world_models.errors.WorldModelError` when the encoder cannot embed a rollout."""
        return np.concatenate([self._embedding.embed(episodes), self._embedding.embed_starts(episodes)], axis=1)

    def _score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        moving, still = np.split(embeddings, 2, axis=1)
        rewards = calibrated_rewards(
            moving, still, successes, task_ids, alpha=self._alpha, demonstrations=self._demonstrations
        )
        return Scores(rewards, {})


class SrpoReward(_EmbeddingReward):
    """The SRPO reward (`vla.rewards.srpo`)."""

    def __init__(
        self,
        embedding: RolloutEmbedding,
        alpha: float = 0.8,
        metric: Metric = "euclidean",
        demonstrations: Mapping[int, Sequence[Episode]] | None = None,
        bank: SuccessBank | None = None,
    ) -> None:
        """`alpha` is what a failure is worth at most, `metric` the distance between embeddings."""
        super().__init__(embedding, demonstrations, bank)
        self._alpha, self._metric = alpha, metric

    def _score(
        self, embeddings: NDArray[np.float32], successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> Scores:
        # A failure whose embedding is not finite gets 0 and is counted.
        result = srpo_rewards(
            embeddings,
            successes,
            task_ids,
            alpha=self._alpha,
            metric=self._metric,
            invalid="zero",
            demonstrations=self._demonstrations,
        )
        clusters, centres = result.clusters_per_task.values(), result.centres_per_task.values()
        return Scores(
            result.rewards,
            {
                "reward/clusters": float(np.mean(list(clusters))) if clusters else 0.0,
                "reward/centres": float(np.mean(list(centres))) if centres else 0.0,
                "reward/noise_share": result.noise_share,
                "reward/tasks_without_success": float(sum(count == 0 for count in centres)),
                "reward/invalid_embeddings": float(result.invalid_failures + result.invalid_successes),
            },
        )
