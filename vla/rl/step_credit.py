"""Credit for single decisions without a critic: what rollouts of a group share, and how far each decision came.

Both work on what the policy made of what it saw before each decision (`Rollout.features`), and on advantages that
every decision of a rollout shares (`vla.rl.advantages`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from vla.rewards.srpo import connected_components

ALONE = -1
"""A place where no other rollout of the group was."""

SMALLEST_DEVIATION = 1e-3


def meeting_places(
    features: Sequence[NDArray[np.floating]], groups: ArrayLike, tolerance: float
) -> list[NDArray[np.int64]]:
    """Where rollouts of a group were in the same state before the same decision: a number for each of them, [D].

    Args:
        features: [D, F] of each of N rollouts, which may differ in length.
        groups: [N] which group each rollout belongs to; rollouts of different groups never meet.
        tolerance: two are in the same place when the root mean square of their features' differences, in deviations
            over the batch, is at most this; and so is whoever is in the same place as one of them. 0 merges none
            but equal ones, below 0 none at all.
    """
    ids = np.asarray(groups, dtype=np.int64)
    places = [np.full(len(rows), ALONE, dtype=np.int64) for rows in features]
    if not features:
        return places
    everything = np.concatenate(features).astype(np.float64)
    scale = np.maximum(everything.std(axis=0), SMALLEST_DEVIATION) * np.sqrt(everything.shape[1])
    fresh = 0
    for group in np.unique(ids).tolist():
        members = np.flatnonzero(ids == group).tolist()
        for step in range(max(len(features[member]) for member in members)):
            present = [member for member in members if len(features[member]) > step]
            rows = np.stack([features[member][step] for member in present]) / scale
            labels = connected_components(cdist(rows, rows) <= tolerance)
            for member, label in zip(present, labels.tolist(), strict=True):
                places[member][step] = ALONE if label < 0 else fresh + label
            fresh += int(labels.max(initial=-1)) + 1
    return places


def shared_step_advantages(advantages: ArrayLike, places: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Advantages [D] of the decisions of N rollouts: those that several made alike get the mean of theirs.

    A decision is a step from one place to the next. Steps between the same two places are one step of the graph that
    the rollouts span, and it cannot be why one of them won and another lost. Steps that only one rollout made, and
    the last of each, keep its advantage; where nothing is merged, all do.

    SALT (arXiv 2510.20022) with states of a tolerance in the place of texts; averaged over rollouts, each once.

    Args:
        advantages: [N] of the rollouts.
        places: [D] of each, from `meeting_places`.
    """
    own = np.asarray(advantages, dtype=np.float64)
    makers: dict[tuple[int, int], set[int]] = {}
    for rollout, visited in enumerate(places):
        for step in pairwise(visited.tolist()):
            makers.setdefault(step, set()).add(rollout)
    shared = {step: float(own[sorted(made)].mean()) for step, made in makers.items() if ALONE not in step}
    credited = []
    for rollout, visited in enumerate(places):
        steps = [shared.get(step, own[rollout]) for step in pairwise(visited.tolist())]
        credited.append(np.array([*steps, own[rollout]], dtype=np.float32))
    return credited


def task_progress(
    features: Sequence[NDArray[np.floating]], successes: ArrayLike, task_ids: ArrayLike
) -> list[NDArray[np.float32]]:
    """How far each of N rollouts was before each decision and at its end: [D + 1] in [0, 1].

    Before decision t of D, a success was t / D of the way. Any rollout is as far as the moment that looks most alike of
    the other successes of its task. A success ends at 1, a failure where its last decision was made. Without another
    success a success is as far as it was, and failures got nowhere (0).

    Args:
        features: [D, F] of each rollout.
        successes: [N] bool.
        task_ids: [N].
    """
    won, tasks = np.asarray(successes, dtype=bool), np.asarray(task_ids, dtype=np.int64)
    progress = []
    for index, rows in enumerate(features):
        others = [other for other in np.flatnonzero(won & (tasks == tasks[index])).tolist() if other != index]
        if others:
            nearest = cdist(rows, np.concatenate([features[other] for other in others])).argmin(axis=1)
            known = np.concatenate([np.arange(len(features[other])) / len(features[other]) for other in others])[
                nearest
            ]
        else:
            known = np.arange(len(rows)) / len(rows) if won[index] else np.zeros(len(rows))
        progress.append(np.append(known, 1.0 if won[index] else known[-1]).astype(np.float32))
    return progress


def advantages_with_steps(
    advantages: ArrayLike,
    steps: Sequence[NDArray[np.floating]],
    groups: ArrayLike,
    weight: float,
    epsilon: float = 1e-6,
) -> list[NDArray[np.float32]]:
    """Advantages [D] of decisions: the rollout's, plus `weight` times what the decision itself was worth.

    Steps are standardised over all decisions of a group, as the rollouts' rewards are, so that both parts are of one
    size (A = A_episode + alpha A_step, arXiv 2509.19199). In a group whose advantages are all 0 they stay 0.

    Args:
        advantages: [N] of the rollouts.
        steps: [D] of each: the increments of `task_progress`, or implicit rewards.
        groups: [N].
        weight: of the step part; 0 leaves the rollout's advantage.
        epsilon: keeps the division defined.
    """
    own, ids = np.asarray(advantages, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    worth = [values.astype(np.float64) for values in steps]
    credited: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(own)
    for group in np.unique(ids).tolist():
        members = np.flatnonzero(ids == group).tolist()
        pooled = np.concatenate([worth[member] for member in members])
        scale = weight / (float(pooled.std()) + epsilon) if np.any(own[members]) else 0.0
        for member in members:
            part = scale * (worth[member] - pooled.mean())
            credited[member] = (own[member] + part).astype(np.float32)
    return credited
