"""Failures on an absolute scale, which does not depend on who else failed.

Measured with `vla audit` (docs/results/reward_audit.md): among the modes that rank failures alike it is the truest in
size. Training gained nothing from it on the tabletop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from vla.data.episode import Episode
from vla.rewards.reward import Floats, Reward, RewardParts, Scores, failure_mean
from vla.rewards.srpo import (
    ALPHA_REASON,
    LARGEST_FAILURE_REWARD,
    RewardError,
    check_batch,
    cluster_successes,
    embedded_demonstrations,
    rows_by_task,
)
from vla.run.settings import Checks


class CalibratedReward(Reward):
    """How much of the way a failure came.

    A row of its embeddings holds two: the rollout's, and that of one that stays where it began.
    """

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.reward=calibrated`."""

        alpha: float = 0.8
        """What a failure is worth at most, in [0, 1]."""

        def __post_init__(self) -> None:
            Checks(self).within(0.0, 1.0, "alpha", reason=ALPHA_REASON)

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        super().__init__(settings, parts)
        self._demonstrations = embedded_demonstrations(self.embedding, parts.demonstrations)

    def embed(self, episodes: Sequence[Episode]) -> Floats:
        """[n, 2 D]. Raises `world_models.errors.WorldModelError` when the encoder cannot embed a rollout."""
        return np.concatenate([self.embedding.embed(episodes), self.embedding.embed_starts(episodes)], axis=1)

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """See `calibrated_rewards`."""
        moving, still = np.split(embeddings, 2, axis=1)
        rewards = calibrated_rewards(
            moving, still, successes, task_ids, alpha=self.settings.alpha, demonstrations=self._demonstrations
        )
        return Scores(rewards, failure_mean(rewards, successes))


def calibrated_rewards(
    embeddings: ArrayLike,
    start_embeddings: ArrayLike,
    successes: ArrayLike,
    task_ids: ArrayLike,
    *,
    alpha: float = 0.8,
    demonstrations: Mapping[int, NDArray[np.floating]] | None = None,
) -> NDArray[np.float32]:
    """Failures on an absolute scale: how much of the way from not moving to succeeding a rollout came, times `alpha`.

        reward = alpha * clip((d_start - d) / (d_start - s), 0, 1)

    with d the distance of a failure's embedding to the nearest centre of its task's successes (those of
    `vla.rewards.srpo`), d_start the distance of a rollout that stays where this one began, and s how far successes
    are from one another: the median distance of one to its nearest neighbour, 0 where there are fewer than two. A
    hopeless failure gets about 0 whoever else failed, a failure as near as successes are to one another gets alpha,
    and equal failures get equal rewards. Where not moving is as near as succeeding, embeddings say nothing, and the
    reward is 0.

    Args:
        embeddings: [N, D], one row for each rollout.
        start_embeddings: [N, D], of a clip of each rollout's first frame alone.
        successes: [N] bool.
        task_ids: [N] int.
        alpha: in [0, 1]; what a failure is worth at most.
        demonstrations: embeddings [n, D] by task, which stand in for the successes of a task that has none.

    Raises:
        RewardError: shapes disagree or alpha is outside [0, 1].
    """
    vectors, succeeded, tasks = check_batch(embeddings, successes, task_ids, alpha)
    starts = np.asarray(start_embeddings, dtype=np.float64)
    if starts.shape != vectors.shape:
        raise RewardError(f"start embeddings have shape {starts.shape}, not that of the embeddings, {vectors.shape}")
    usable = np.where(np.isfinite(starts).all(axis=1, keepdims=True), vectors, np.nan)
    rewards = succeeded.astype(np.float32)
    for wins, losses in rows_by_task(usable, succeeded, tasks):
        if len(losses) == 0:
            continue
        task = int(tasks[losses[0]])
        references = vectors[wins]
        centres = references[cluster_successes(references).centres]
        if len(wins) == 0 and demonstrations is not None and task in demonstrations:
            references = centres = np.asarray(demonstrations[task], dtype=np.float64)
        if len(centres) == 0:
            continue
        near = cdist(vectors[losses], centres).min(axis=1)
        far = cdist(starts[losses], centres).min(axis=1)
        way = far - _typical_distance(references)
        share = np.divide(far - near, way, out=np.zeros(len(losses)), where=way > 0)
        rewards[losses] = np.minimum(alpha * np.clip(share, 0.0, 1.0), LARGEST_FAILURE_REWARD)
    return rewards


def _typical_distance(references: NDArray[np.float64]) -> float:
    """Median distance of a row to its nearest other row; 0 for fewer than two."""
    if len(references) < 2:
        return 0.0
    distances = cdist(references, references)
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(axis=1)))
