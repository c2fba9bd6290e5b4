"""Successes of earlier iterations, kept as references for tasks that succeed too rarely to have one in every batch.

Only embeddings are kept. They stay comparable because the reward's encoder does not change during a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla.errors import restoring

FILE = "success_bank.pt"


class SuccessBank:
    """The newest successes of each task, bounded in number and age."""

    def __init__(self, capacity: int, max_age: int) -> None:
        """At most `capacity` successes of a task are kept, each for `max_age` iterations after its own."""
        self._capacity, self._max_age = capacity, max_age
        self._rows: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
        """Task -> (iteration, embedding [D]), oldest first."""

    def add(
        self,
        iteration: int,
        embeddings: NDArray[np.float32],
        successes: NDArray[np.bool_],
        task_ids: NDArray[np.int64],
    ) -> None:
        """Take in the successes of an iteration from embeddings [N, D], and let those go that are too old or too many.

        Those with an embedding that is not finite are no reference and are left out.
        """
        usable = successes & np.isfinite(embeddings).all(axis=1)
        for index in np.flatnonzero(usable).tolist():
            self._rows.setdefault(int(task_ids[index]), []).append((iteration, embeddings[index].copy()))
        for task, rows in self._rows.items():
            young = [row for row in rows if iteration - row[0] < self._max_age]
            self._rows[task] = young[-self._capacity :]

    def references(self, tasks: Iterable[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """Embeddings [n, D] kept of the tasks, and the task [n] of each; None when there are none."""
        found = [(row, task) for task in sorted(set(tasks)) for _, row in self._rows.get(task, [])]
        if not found:
            return None
        return np.stack([row for row, _ in found]), np.array([task for _, task in found], dtype=np.int64)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def save(self, folder: Path) -> None:
        """Write `success_bank.pt`."""
        state = {
            task: {
                "iterations": torch.tensor([iteration for iteration, _ in rows]),
                "embeddings": torch.from_numpy(np.stack([row for _, row in rows])),
            }
            for task, rows in self._rows.items()
            if rows
        }
        torch.save(state, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when the file is damaged or missing."""
        with restoring(folder / FILE):
            state = torch.load(folder / FILE, map_location="cpu", weights_only=True)
            self._rows = {
                task: list(zip(kept["iterations"].tolist(), kept["embeddings"].numpy(), strict=True))
                for task, kept in state.items()
            }
