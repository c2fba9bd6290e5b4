"""Scoring reward modes and embeddings on audited rollouts.

Of each task's expert successes, half are references: what training would have seen succeed. All other rollouts, the
other half among them, are scored as failures are, so that it shows whether the reward finds the successes again.
Controls are scored apart, with the same references, so that they do not shift what the others get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.rewards.audit import measures
from vla.rewards.audit.embeddings import CEILING
from vla.rewards.audit.embeddings import CONTROLS as CONTROL_EMBEDDINGS
from vla.rewards.audit.measures import Estimate, Vector
from vla.rewards.audit.rollouts import CONTROLS, AuditRollout
from vla.rewards.embedding_queue import EMBEDDING_BATCH
from vla.rewards.embeddings import RolloutEmbedding
from vla.rewards.reward import Floats, Reward, RewardParts, make_reward
from vla.rewards.srpo import RewardError

MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "srpo": ("srpo", {}),
    "srpo_cosine": ("srpo", {"metric": "cosine"}),
    "siirl": ("siirl", {}),
    "calibrated": ("calibrated", {}),
}
"""Reward mode -> reward and settings. Any other reward's name, or package.module:Class, is a mode as well."""

MEASURES: dict[str, str] = {
    "rank": "Spearman's correlation of reward and true progress among failures; 0 is chance",
    "pairs": "Kendall's tau of reward and true progress among all; 0 is chance",
    "own": "chance that of two failures of the policy from one state the further one gets more; 0.5 is chance",
    "success": "chance that a success is rewarded above a failure; 0.5 is chance",
    "wrong": "chance that a success is rewarded above the same arm doing another task; 0.5 is chance",
    "reversed": "chance that a success is rewarded above one shown backwards; 0.5 where order is not seen",
    "shuffled": "chance that a success is rewarded above one with its frames shuffled; 0.5 where order is not seen",
    "error": "mean distance of a failure's reward from its true progress; less is better",
    "idle": "mean reward of arms that stand still or move at random; less is better",
}


@dataclass(frozen=True)
class Row:
    """One embedding under one reward mode."""

    embedding: str
    mode: str
    per_task: Mapping[str, Vector]
    """Measure -> its value for each task, in order of task number; NaN where a task has nothing to measure."""

    def estimates(self) -> dict[str, Estimate]:
        """Means over tasks with intervals."""
        return {name: measures.estimate(values) for name, values in self.per_task.items()}

    @property
    def is_control(self) -> bool:
        """Whether the embedding sees no picture."""
        return self.embedding in CONTROL_EMBEDDINGS


def choose_references(rollouts: Sequence[AuditRollout]) -> NDArray[np.bool_]:
    """[N] the first half, rounded up, of each task's expert successes."""
    chosen = np.zeros(len(rollouts), dtype=bool)
    tasks = np.array([rollout.episode.task_id for rollout in rollouts])
    successes = np.array([rollout.kind == "success" for rollout in rollouts])
    for task in np.unique(tasks):
        members = np.flatnonzero(successes & (tasks == task))
        chosen[members[: (len(members) + 1) // 2]] = True
    return chosen


def score(rollouts: Sequence[AuditRollout], name: str, embedding: RolloutEmbedding, modes: Sequence[str]) -> list[Row]:
    """Every mode on one embedding, which the rows call `name`.

    Raises:
        ReflexError: there is no such mode.
        RewardError: an embedding is not finite.
    """
    episodes = [rollout.episode for rollout in rollouts]
    parts = [episodes[first : first + EMBEDDING_BATCH] for first in range(0, len(episodes), EMBEDDING_BATCH)]
    moving, still = (
        np.concatenate([embed(part) for part in parts]) for embed in (embedding.embed, embedding.embed_starts)
    )
    if not np.isfinite(moving).all():
        raise RewardError(f"encoder {name} gives embeddings with NaN or infinity; check it and its frames")
    known = _Known(moving, still)
    rewards = {mode: reward_of(mode, known) for mode in modes}
    return [Row(name, mode, _measure(rollouts, reward.embed(episodes), reward)) for mode, reward in rewards.items()]


@dataclass(frozen=True)
class _Known:
    """Embeddings of all rollouts, computed once for every mode."""

    moving: Floats
    still: Floats

    def embed(self, episodes: Sequence[Episode]) -> Floats:
        """[N, D]"""
        return self.moving

    def embed_starts(self, episodes: Sequence[Episode]) -> Floats:
        """[N, D]"""
        return self.still


def reward_of(mode: str, embedding: RolloutEmbedding) -> Reward:
    """The reward of a mode. Raises `ReflexError` when there is none."""
    name, settings = MODES.get(mode, (mode, {}))
    return make_reward(name, RewardParts(embedding, settings={name: settings}), "modes")


def _measure(rollouts: Sequence[AuditRollout], embeddings: Floats, reward: Reward) -> dict[str, Vector]:
    kinds = np.array([rollout.kind for rollout in rollouts])
    tasks = np.array([rollout.episode.task_id for rollout in rollouts], dtype=np.int64)
    progress = np.array([rollout.progress for rollout in rollouts])
    succeeded = np.array([rollout.episode.success for rollout in rollouts])
    states = np.array([rollout.episode.init_state_id for rollout in rollouts])
    references, controls = choose_references(rollouts), np.isin(kinds, CONTROLS)
    held_out = (kinds == "success") & ~references

    def rewards(chosen: NDArray[np.bool_]) -> Vector:
        """[N] of the chosen, judged by the references; NaN elsewhere."""
        members = np.flatnonzero(references | chosen)
        given = np.full(len(rollouts), np.nan)
        scored = reward.score(embeddings[members], references[members], tasks[members], states[members])
        given[members] = scored.rewards
        return given

    main, beside = rewards(~controls), rewards(held_out | controls)
    candidates = ~references & ~controls
    failures = candidates & ~succeeded

    def each(measure: measures.Measure, chosen: NDArray[np.bool_], truth: NDArray[Any], given: Vector = main) -> Vector:
        return measures.by_task(measure, given, truth, tasks, chosen)

    def against(kind: str, given: Vector = main) -> Vector:
        return each(measures.separation, held_out | (kinds == kind), held_out, given)

    return {
        "rank": each(measures.rank_correlation, failures, progress),
        "pairs": each(measures.pair_agreement, candidates, progress),
        "own": each(measures.comparison, failures & (kinds == "policy"), np.stack([progress, states], axis=1)),
        "success": each(measures.separation, candidates, succeeded),
        "wrong": against("wrong"),
        "reversed": against("reversed", beside),
        "shuffled": against("shuffled", beside),
        "error": each(measures.calibration_error, failures, progress),
        "idle": each(measures.mean_reward, np.isin(kinds, ("hopeless", "frozen")), progress),
    }


def recommend(rows: Sequence[Row]) -> str:
    """Which embedding and mode to use, and why, in a sentence or two."""
    pictures = [row for row in rows if not row.is_control and row.embedding != CEILING]
    controls = [row for row in rows if row.is_control]
    if not pictures:
        return "No encoder was audited, only controls: there is nothing to recommend."
    best = _mode_to_use(max(pictures, key=_merit), pictures)
    found = best.estimates()
    sentence = (
        f"Use encoder={best.embedding} with {best.mode}: among failures its reward follows true progress with "
        f"{_in_words(found['rank'])}, it is off by {_in_words(found['error'])}, and a success is rewarded above a "
        f"failure with probability {_in_words(found['success'])}."
    )
    if not controls:
        return sentence
    rival = max(controls, key=_merit)
    ahead = measures.difference(best.per_task["rank"], rival.per_task["rank"])
    if ahead.tasks and ahead.low > 0:
        return f"{sentence} That is {_in_words(ahead)} more than without pictures ({rival.embedding}, {rival.mode})."
    return (
        f"{sentence} But {rival.embedding} with {rival.mode}, which sees no picture, is not behind (difference "
        f"{_in_words(ahead)}): on these rollouts pictures are not shown to help."
    )


def _mode_to_use(best: Row, rows: Sequence[Row]) -> Row:
    """Of the modes on the best row's encoder that rank failures as well, as far as can be told, the truest in size."""

    def error(row: Row) -> float:
        value = row.estimates()["error"].value
        return np.inf if np.isnan(value) else value

    def is_behind(row: Row) -> bool:
        return measures.difference(best.per_task["rank"], row.per_task["rank"]).low > 0

    return min((row for row in rows if row.embedding == best.embedding and not is_behind(row)), key=error)


def _merit(row: Row) -> float:
    """What decides: the ranking of failures, then of all."""
    rank, pairs = (measures.estimate(row.per_task[name]).value for name in ("rank", "pairs"))
    return -np.inf if np.isnan(rank) else rank + 1e-3 * (0.0 if np.isnan(pairs) else pairs)


def _in_words(value: Estimate) -> str:
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
