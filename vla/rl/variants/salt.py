"""What several rollouts of a group did alike gets the mean of their advantages. SALT (arXiv 2510.20022).

Measured from a weak start on ten tabletop tasks, two seeds (docs/results/advantages.md): +21 and -3 points on GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from vla.rewards.srpo import linked_components
from vla.rl.batch import Batch
from vla.rl.config import AlgoConfig
from vla.rl.method import Variant, refuse_critic
from vla.run.settings import Checks

ALONE = -1
"""A place where no other rollout of the group was."""

SMALLEST_DEVIATION = 1e-3


class Salt(Variant):
    """Credit for single decisions from the graph that a group's rollouts span."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[salt]`."""

        tolerance: float = 0.3
        """How far apart two states may be that count as one, in deviations of the policy's features."""

        def __post_init__(self) -> None:
            Checks(self).at_least(0, "tolerance")

    @classmethod
    def check_algorithm(cls, algo: AlgoConfig) -> None:
        """Not beside a critic."""
        refuse_critic(algo, "salt")

    def credit(self, batch: Batch) -> dict[str, float]:
        """See `shared_step_advantages`."""
        features = [rollout.features_for("algo.variants=[salt]") for rollout in batch.rollouts]
        places = meeting_places(features, batch.groups, self.settings.tolerance)
        batch.decision_advantages = shared_step_advantages(batch.advantages, places)
        moved = [
            np.count_nonzero(~np.isclose(steps, own))
            for steps, own in zip(batch.decision_advantages, batch.advantages, strict=True)
        ]
        return {"advantage/shared_steps": sum(moved) / sum(len(rows) for rows in features)}


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
            labels = linked_components(cdist(rows, rows) <= tolerance)
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
