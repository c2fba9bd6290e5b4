"""How far rollouts were before each of their decisions, by what successes of the same task looked like there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist


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
