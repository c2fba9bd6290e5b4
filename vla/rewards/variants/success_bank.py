"""Successes of earlier iterations, kept as references for tasks that succeed too rarely to have one in every batch.

Only embeddings are kept. They stay comparable because the reward's encoder does not change during a run. Measured from
a weak start (docs/results/rewards.md): no gain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla.errors import restoring
from vla.rewards.reward import Floats, RewardParts, Scores, WrappedReward, failure_mean
from vla.run.settings import Checks

FILE = "success_bank.pt"


class SuccessBankReward(WrappedReward):
    """The reward inside, with successes of earlier iterations as references beside those of the batch."""

    @dataclass(frozen=True)
    class Settings(WrappedReward.Settings):
        """Of `algo.reward=success_bank`."""

        capacity: int = 16
        """Successes of each task that are kept, at most."""
        age: int = 20
        """Iterations for which they are kept."""

        def __post_init__(self) -> None:
            Checks(self).at_least(1, "capacity", "age")

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        super().__init__(settings, parts)
        self._bank = SuccessBank(settings.capacity, settings.age)

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """What the bank holds takes part as rollouts that succeeded, whose reward nobody asks for."""
        kept = self._bank.references(task_ids.tolist())
        rows, tasks = kept or (embeddings[:0], task_ids[:0])
        scores = self.inner.score(
            np.concatenate([embeddings, rows]),
            np.concatenate([successes, np.ones(len(rows), dtype=bool)]),
            np.concatenate([task_ids, tasks]),
            # A group of its own, that no rollout of the batch is in.
            np.concatenate([groups, np.full(len(rows), -1, dtype=np.int64)]),
        )
        rewards = scores.rewards[: len(embeddings)]
        telling = None if scores.telling is None else scores.telling[: len(embeddings)]
        rescued = set(tasks.tolist()) - set(task_ids[successes].tolist())
        metrics = scores.metrics | failure_mean(rewards, successes)
        metrics |= {
            "bank/successes": float(len(self._bank)),
            "bank/rescued_rollouts": float(np.isin(task_ids, list(rescued)).sum()),
        }
        return replace(scores, rewards=rewards, telling=telling, metrics=metrics)

    def learn(
        self, iteration: int, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> None:
        """Take in the successes of an iteration."""
        super().learn(iteration, embeddings, successes, task_ids)
        self._bank.add(iteration, embeddings, successes, task_ids)

    def save(self, folder: Path) -> None:
        """Write `success_bank.pt`."""
        super().save(folder)
        self._bank.save(folder)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when the file is damaged or missing."""
        super().load(folder)
        self._bank.load(folder)


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
