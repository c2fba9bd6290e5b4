"""A stand-in for the package `wandb`, which needs an account."""

from __future__ import annotations

import types
from typing import Any


class FakeWandb(types.ModuleType):
    """As much of Weights & Biases as a run uses, with what it was told."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.settings: list[tuple[dict[str, Any], bool]] = []
        self.finished, self.problem = 0, ""
        self.config = self  # a run has `config.update`, `log` and `finish`

    def init(self, **options: Any) -> FakeWandb:
        if self.problem:
            raise self.Error(self.problem)
        self.runs.append(options)
        return self

    def update(self, settings: dict[str, Any], allow_val_change: bool = False) -> None:
        self.settings.append((settings, allow_val_change))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics))

    def finish(self) -> None:
        self.finished += 1
