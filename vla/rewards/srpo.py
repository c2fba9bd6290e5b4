"""The SRPO reward: failures are scored by how near they come to this batch's own successes.

Source: "SRPO: Self-Referential Policy Optimization for Vision-Language-Action Models" (arXiv 2511.15605). One vector
h_i embeds a whole rollout. With C the cluster centres of the successes of the same task in the same batch:

    d_i = min over c in C of || h_i - c ||                       (unsquared Euclidean norm)
    g_i = 1                                                      for a success
    g_i = alpha * sigmoid(-(d_i - mean d) / std d)               for a failure; mean and std over the task's failures

alpha = 0 is the binary reward. Every case the formula leaves open is decided here:

| case | reward |
|---|---|
| the task has no success in the batch | its demonstrations, where given, are the centres; else 0 for all failures |
| one success, or none that cluster | each success is its own centre (nearest success) |
| one failure | its z-score is 0: alpha / 2 |
| failures equally far up to numerical noise | a tie stays a tie: alpha / 2 each |
| failure with a NaN or infinite embedding | an error naming it, or 0 and counted; never part of mean and std |
| success with an odd (zero, NaN, far) embedding | 1; a non-finite one is no reference and is counted |
| alpha = 1 and a saturated sigmoid | still below 1: no failure ever reaches a success |

The result does not depend on the order of the rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rewards.embeddings import RolloutEmbedding
from vla.rewards.reward import Floats, Reward, RewardParts, Scores, failure_mean
from vla.run.settings import Checks

Metric = Literal["euclidean", "cosine"]

LARGEST_FAILURE_REWARD = float(np.nextafter(np.float32(1.0), np.float32(0.0)))
"""The greatest float32 below 1, which a failure's reward never exceeds."""


ALPHA_REASON = "so that no failure is worth more than a success"


class RewardError(ReflexError):
    """A reward cannot be computed from what was given."""


class SrpoReward(Reward):
    """Failures by the rank of their nearness to the batch's successes (`srpo_rewards`)."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.reward=srpo`."""

        alpha: float = 0.8
        """What a failure is worth at most, in [0, 1]; 0 is the binary reward."""
        metric: Metric = "euclidean"
        """Distance between embeddings: "euclidean" (the paper) or "cosine"."""

        def __post_init__(self) -> None:
            Checks(self).within(0.0, 1.0, "alpha", reason=ALPHA_REASON)

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        super().__init__(settings, parts)
        self._demonstrations = embedded_demonstrations(self.embedding, parts.demonstrations)

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """A failure whose embedding is not finite gets 0 and is counted."""
        result = srpo_rewards(
            embeddings,
            successes,
            task_ids,
            alpha=self.settings.alpha,
            metric=self.settings.metric,
            invalid="zero",
            demonstrations=self._demonstrations,
        )
        clusters, centres = result.clusters_per_task.values(), result.centres_per_task.values()
        metrics = {
            "reward/clusters": float(np.mean(list(clusters))) if clusters else 0.0,
            "reward/centres": float(np.mean(list(centres))) if centres else 0.0,
            "reward/noise_share": result.noise_share,
            "reward/tasks_without_success": float(sum(count == 0 for count in centres)),
            "reward/invalid_embeddings": float(result.invalid_failures + result.invalid_successes),
        }
        return Scores(result.rewards, metrics | failure_mean(result.rewards, successes))


def embedded_demonstrations(
    embedding: RolloutEmbedding, demonstrations: Mapping[int, Sequence[Episode]]
) -> dict[int, Floats]:
    """Embeddings [n, D] of each task's demonstrations, for tasks that have some."""
    return {task: embedding.embed(episodes) for task, episodes in demonstrations.items() if episodes}


@dataclass(frozen=True)
class Clusters:
    """Groups of successes that look alike."""

    centres: NDArray[np.int64]
    """Indices of the rows that stand for a way to succeed: medoids, or every row when nothing clusters."""
    labels: NDArray[np.int64]
    """[n] cluster of each row, -1 for noise."""
    radius: float
    """Neighbourhood radius used; 0 when there were too few rows to cluster."""

    @property
    def count(self) -> int:
        """Number of clusters found (0 when every row is its own centre by fallback)."""
        return int(self.labels.max(initial=-1)) + 1


@dataclass(frozen=True)
class SrpoRewards:
    """Rewards of a batch of N rollouts, and what is needed to judge them."""

    rewards: NDArray[np.float32]
    """[N]"""
    distances: NDArray[np.float64]
    """[N] distance of each failure to its task's nearest centre; NaN where there is none, and for successes."""
    clusters_per_task: dict[int, int]
    """Clusters among each task's successes; 0 means the nearest success was used, or there was no success."""
    centres_per_task: dict[int, int]
    """Reference embeddings each task had."""
    noise_share: float
    """Share of the successes with a finite embedding that belong to no cluster (all of them when none clusters)."""
    invalid_failures: int
    """Failures with a non-finite embedding, which got reward 0."""
    invalid_successes: int
    """Successes with a non-finite embedding, which kept reward 1 but are no reference."""


def srpo_rewards(
    embeddings: ArrayLike,
    successes: ArrayLike,
    task_ids: ArrayLike,
    *,
    alpha: float = 0.8,
    metric: Metric = "euclidean",
    noise_tolerance: float = 1e-5,
    invalid: Literal["error", "zero"] = "error",
    names: Sequence[str] | None = None,
    demonstrations: Mapping[int, NDArray[np.floating]] | None = None,
) -> SrpoRewards:
    """SRPO rewards of one batch (formula and edge cases in the module's docstring).

    Args:
        embeddings: [N, D], one row for each rollout.
        successes: [N] bool.
        task_ids: [N] int; references, mean and standard deviation never cross tasks.
        alpha: in [0, 1]; what a failure is worth at most.
        metric: "euclidean" (the paper), or "cosine": the same after scaling every embedding to length 1.
        noise_tolerance: a standard deviation of the distances below this multiple of the largest embedding norm is
            numerical noise and is not ranked.
        invalid: what a non-finite embedding does: raise, or give 0 to a failure and count it.
        names: what to call each rollout in an error message.
        demonstrations: embeddings [n, D] of demonstrations by task: the centres of a task without success in the
            batch, which would otherwise teach nothing. The paper leaves that case open.

    Raises:
        RewardError: shapes disagree, alpha is outside [0, 1], or an embedding is not finite and `invalid` is "error".
    """
    vectors, succeeded, tasks = check_batch(embeddings, successes, task_ids, alpha)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    if invalid == "error":
        _require_finite(finite, names)
    if metric == "cosine":
        vectors = _unit_length(vectors)

    rewards = succeeded.astype(np.float32)
    distances = np.full(len(vectors), np.nan)
    clusters_per_task: dict[int, int] = {}
    centres_per_task: dict[int, int] = {}
    noise = references = 0
    for task in np.unique(tasks).tolist():
        wins = np.flatnonzero((tasks == task) & succeeded & finite)
        losses = np.flatnonzero((tasks == task) & ~succeeded & finite)
        clusters = cluster_successes(vectors[wins])
        clusters_per_task[task], centres_per_task[task] = clusters.count, len(clusters.centres)
        noise, references = noise + int((clusters.labels < 0).sum()), references + len(wins)
        centres = vectors[wins[clusters.centres]]
        if len(wins) == 0 and demonstrations is not None and task in demonstrations:
            centres = np.asarray(demonstrations[task], dtype=np.float64)
            centres = _unit_length(centres) if metric == "cosine" else centres
            centres_per_task[task] = len(centres)
        if len(centres) == 0 or len(losses) == 0:
            continue
        distances[losses] = cdist(vectors[losses], centres).min(axis=1)
        scale = float(np.linalg.norm(np.concatenate([centres, vectors[wins], vectors[losses]]), axis=1).max())
        rewards[losses] = failure_rewards(distances[losses], alpha, noise_tolerance * scale)
    return SrpoRewards(
        rewards=rewards,
        distances=distances,
        clusters_per_task=clusters_per_task,
        centres_per_task=centres_per_task,
        noise_share=noise / references if references else 0.0,
        invalid_failures=int((~finite & ~succeeded).sum()),
        invalid_successes=int((~finite & succeeded).sum()),
    )


def _require_finite(finite: NDArray[np.bool_], names: Sequence[str] | None) -> None:
    if finite.all():
        return
    first = int(np.flatnonzero(~finite)[0])
    label = names[first] if names is not None else f"rollout {first}"
    raise RewardError(
        f"the embedding of {label} holds NaN or infinity ({int((~finite).sum())} of {len(finite)} rollouts do); "
        "check the encoder and the frames of that rollout"
    )


def failure_rewards(distances: NDArray[np.float64], alpha: float, resolution: float = 0.0) -> NDArray[np.float32]:
    """alpha * sigmoid(-(d - mean d) / std d) of a task's failures; alpha / 2 for all when std <= `resolution`.

    `std` is the population deviation (one failure has z = 0). The paper prints the sigmoid increasing in d while its
    text rewards nearness; the text is followed.
    """
    spread = float(distances.std())
    if spread <= resolution or spread == 0.0:
        return np.full(len(distances), alpha / 2, dtype=np.float32)
    scores = (distances - distances.mean()) / spread
    rewards = alpha / (1.0 + np.exp(np.clip(scores, -500.0, 500.0)))
    return np.asarray(np.minimum(rewards, LARGEST_FAILURE_REWARD), dtype=np.float32)


def cluster_successes(
    vectors: NDArray[np.float64], *, minimum_size: int = 4, quantile: float = 0.9, radius_factor: float = 1.5
) -> Clusters:
    """Density clusters (DBSCAN with 2 points to a core) whose radius comes from the data; medoids as centres.

    The radius is `radius_factor` times the given quantile of the nearest-neighbour distances, so the scale and the
    dimension of the embedding do not matter: rows are joined when they are about as close as neighbours are to one
    another, and up to 10 % of outliers cannot widen it. With two points to a core, DBSCAN's clusters are the connected
    components of the graph of pairs within the radius; a component of one row is noise and is no centre.

    Fewer than `minimum_size` rows, or rows none of which has a neighbour, are each their own centre.
    """
    count = len(vectors)
    if count < minimum_size:
        return Clusters(np.arange(count), np.full(count, -1, dtype=np.int64), 0.0)
    distances = cdist(vectors, vectors)
    nearest = (distances + np.diag(np.full(count, np.inf))).min(axis=1)
    radius = radius_factor * float(np.quantile(nearest, quantile, method="lower"))
    # The slack keeps a pair at exactly the radius inside it whatever order the rows came in.
    linked = distances <= radius * (1 + 1e-9) + 1e-12 * float(np.abs(vectors).max(initial=0.0))
    labels = linked_components(linked)
    if (labels < 0).all():
        return Clusters(np.arange(count), labels, radius)
    members = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    centres = np.array([_medoid(rows, distances, vectors) for rows in members], dtype=np.int64)
    return Clusters(centres, labels, radius)


def linked_components(linked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[n] connected component of each node, numbered from 0; -1 for a node linked to no other."""
    _, labels = connected_components(linked, directed=False)
    alone = np.bincount(labels, minlength=len(linked))[labels] < 2
    labels = np.where(alone, -1, labels)
    _, numbers = np.unique(labels, return_inverse=True)
    return np.asarray(numbers - int(alone.any()), dtype=np.int64)


def _medoid(members: NDArray[np.int64], distances: NDArray[np.float64], vectors: NDArray[np.float64]) -> int:
    """The member with the least total distance to the others.

    Two members always tie. The tie goes to the row that comes first in lexicographic order of its values, so that the
    choice does not depend on the order of the rollouts.
    """
    totals = distances[np.ix_(members, members)].sum(axis=1)
    tied = members[totals <= totals.min() * (1 + 1e-9)]
    return int(tied[np.lexsort(vectors[tied].T[::-1])[0]])


def _unit_length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows scaled to length 1; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


def check_batch(
    embeddings: ArrayLike, successes: ArrayLike, task_ids: ArrayLike, alpha: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Embeddings [N, D], successes [N] and tasks [N] as arrays. Raises `RewardError` when they or alpha do not fit."""
    vectors = np.asarray(embeddings, dtype=np.float64)
    succeeded = np.asarray(successes, dtype=bool)
    tasks = np.asarray(task_ids, dtype=np.int64)
    if vectors.ndim != 2 or succeeded.shape != (len(vectors),) or tasks.shape != (len(vectors),):
        raise RewardError(
            "the SRPO reward needs one embedding, one success flag and one task for each rollout; got shapes "
            f"{vectors.shape}, {succeeded.shape} and {tasks.shape}"
        )
    if not 0.0 <= alpha <= 1.0:
        raise RewardError(f"alpha is {alpha}; it must lie in [0, 1], {ALPHA_REASON}")
    return vectors, succeeded, tasks


def rows_by_task(
    vectors: NDArray[np.float64], succeeded: NDArray[np.bool_], tasks: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of each task's successes and failures, those with a finite embedding."""
    finite = np.isfinite(vectors).all(axis=1)
    for task in np.unique(tasks).tolist():
        members = (tasks == task) & finite
        yield np.flatnonzero(members & succeeded), np.flatnonzero(members & ~succeeded)
