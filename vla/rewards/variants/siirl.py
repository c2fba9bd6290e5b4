"""siiRL's reward, as its public code has it: to compare with.

Source: `siirl/utils/reward_score/embodied.py`. Measured with `vla audit` beside SRPO's
(docs/results/reward_audit.md): it ranks failures alike and is further from their true progress.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from vla.rewards.reward import Floats, Reward, Scores, failure_mean
from vla.rewards.srpo import check_batch, linked_components, rows_by_task

SIIRL_RADIUS = 0.5
SIIRL_CAP = 0.6
SIIRL_STEEPNESS = 10.0
SIIRL_RANGE = 1e-6


class SiirlReward(Reward):
    """siiRL's formula on the embeddings that SRPO's uses."""

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """See `siirl_rewards`."""
        rewards = siirl_rewards(embeddings, successes, task_ids)
        return Scores(rewards, failure_mean(rewards, successes))


def siirl_rewards(embeddings: ArrayLike, successes: ArrayLike, task_ids: ArrayLike) -> NDArray[np.float32]:
    """What siiRL's public code computes from embeddings [N, D], except that each rollout has its own frames: [N].

    For each task: successes standardised in each dimension, DBSCAN (radius 0.5, 2 points to a core), cluster means as
    centres, the mean of all successes where nothing clusters (in practice always); the distances d of the task's
    failures to the nearest centre scaled to [0, 1] over these failures, 0.5 where they differ by less than 1e-6; reward
    0.6 * sigmoid(10 * (0.5 - d)). A task without a success gives its failures 0.

    For comparison, not for use: the nearest failure gets about 0.6 and the farthest about 0, however good or bad they
    are and however little they differ. Its 0 for a success whose embedding is all zeros is left out.

    Raises:
        RewardError: shapes disagree.
    """
    vectors, succeeded, tasks = check_batch(embeddings, successes, task_ids)
    rewards = succeeded.astype(np.float32)
    for wins, losses in rows_by_task(vectors, succeeded, tasks):
        if len(wins) == 0 or len(losses) == 0:
            continue
        distances = cdist(vectors[losses], _siirl_centres(vectors[wins])).min(axis=1)
        spread = float(np.ptp(distances))
        scaled = (distances - distances.min()) / spread if spread >= SIIRL_RANGE else np.full(len(losses), 0.5)
        rewards[losses] = SIIRL_CAP / (1.0 + np.exp(-SIIRL_STEEPNESS * (0.5 - scaled)))
    return rewards


def _siirl_centres(successes: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = successes.std(axis=0)
    standard = (successes - successes.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    labels = linked_components(cdist(standard, standard) <= SIIRL_RADIUS)
    if (labels < 0).all():
        return np.asarray(successes.mean(axis=0, keepdims=True))
    return np.stack([successes[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
