"""Other rewards for failures than SRPO's, from the same embeddings; for comparison, and where an absolute scale helps.

Both keep SRPO's promises: 1 for a success, less for any failure, each rollout judged by its own frames, nothing that
depends on the order of the rollouts, a failure whose embedding is not finite gets 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.rewards.srpo import (
    LARGEST_FAILURE_REWARD,
    RewardError,
    check_batch,
    cluster_successes,
    connected_components,
    pairwise_distances,
)

SIIRL_RADIUS = 0.5
SIIRL_CAP = 0.6
SIIRL_STEEPNESS = 10.0
SIIRL_RANGE = 1e-6


def siirl_rewards(embeddings: ArrayLike, successes: ArrayLike, task_ids: ArrayLike) -> NDArray[np.float32]:
    """What siiRL's public code computes from embeddings [N, D], except that each rollout has its own frames: [N].

    For each task: successes standardised in each dimension, DBSCAN (radius 0.5, 2 points to a core), cluster means as
    centres, the mean of all successes where nothing clusters (in practice always); the distances d of the task's
    failures to the nearest centre scaled to [0, 1] over these failures, 0.5 where they differ by less than 1e-6; reward
    0.6 * sigmoid(10 * (0.5 - d)). A task without a success gives its failures 0.

    Source: `siirl/utils/reward_score/embodied.py`. For comparison, not for use: the nearest failure gets about 0.6 and
    the farthest about 0, however good or bad they are and however little they differ. Its 0 for a success whose
    embedding is all zeros is left out.

    Raises:
        RewardError: shapes disagree.
    """
    vectors, succeeded, tasks = check_batch(embeddings, successes, task_ids)
    rewards = succeeded.astype(np.float32)
    for wins, losses in _by_task(vectors, succeeded, tasks):
        if len(wins) == 0 or len(losses) == 0:
            continue
        distances = pairwise_distances(vectors[losses], _siirl_centres(vectors[wins])).min(axis=1)
        spread = float(np.ptp(distances))
        scaled = (distances - distances.min()) / spread if spread >= SIIRL_RANGE else np.full(len(losses), 0.5)
        rewards[losses] = SIIRL_CAP / (1.0 + np.exp(-SIIRL_STEEPNESS * (0.5 - scaled)))
    return rewards


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
    for wins, losses in _by_task(usable, succeeded, tasks):
        if len(losses) == 0:
            continue
        task = int(tasks[losses[0]])
        references = vectors[wins]
        centres = references[cluster_successes(references).centres]
        if len(wins) == 0 and demonstrations is not None and task in demonstrations:
            references = centres = np.asarray(demonstrations[task], dtype=np.float64)
        if len(centres) == 0:
            continue
        near = pairwise_distances(vectors[losses], centres).min(axis=1)
        far = pairwise_distances(starts[losses], centres).min(axis=1)
        way = far - _typical_distance(references)
        share = np.divide(far - near, way, out=np.zeros(len(losses)), where=way > 0)
        rewards[losses] = np.minimum(alpha * np.clip(share, 0.0, 1.0), LARGEST_FAILURE_REWARD)
    return rewards


def paid_without_success(rewards: ArrayLike, successes: ArrayLike, groups: ArrayLike) -> NDArray[np.float32]:
    """Rewards [N] with 0 for the failures of every group in which a rollout succeeded.

    There success and failure differ already, and what tells failures apart is less certain than that. A group without
    a success has nothing else to learn from.

    Args:
        rewards: [N].
        successes: [N] bool.
        groups: [N] int, which group each rollout belongs to.
    """
    paid, succeeded, ids = np.array(rewards, dtype=np.float32), np.asarray(successes, dtype=bool), np.asarray(groups)
    paid[~succeeded & np.isin(ids, ids[succeeded])] = 0.0
    return paid


def _by_task(
    vectors: NDArray[np.float64], succeeded: NDArray[np.bool_], tasks: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of each task's successes and failures, those with a finite embedding."""
    finite = np.isfinite(vectors).all(axis=1)
    for task in np.unique(tasks).tolist():
        members = (tasks == task) & finite
        yield np.flatnonzero(members & succeeded), np.flatnonzero(members & ~succeeded)


def _siirl_centres(successes: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = successes.std(axis=0)
    standard = (successes - successes.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    labels = connected_components(pairwise_distances(standard, standard) <= SIIRL_RADIUS)
    if (labels < 0).all():
        return np.asarray(successes.mean(axis=0, keepdims=True))
    return np.stack([successes[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])


def _typical_distance(references: NDArray[np.float64]) -> float:
    """Median distance of a row to its nearest other row; 0 for fewer than two."""
    if len(references) < 2:
        return 0.0
    distances = pairwise_distances(references, references)
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(axis=1)))
