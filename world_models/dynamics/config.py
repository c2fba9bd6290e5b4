"""The configuration of an ensemble of dynamics models, and its checks."""

from __future__ import annotations

from dataclasses import dataclass

from world_models.errors import WorldModelError


@dataclass(frozen=True)
class DynamicsConfig:
    """Networks that predict the next observation and the reward, and how they are fitted."""

    members: int = 7
    """Networks that are fitted, each from random weights and batches of its own."""
    elites: int = 5
    """Those with the least error on held-out episodes, which are kept."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers."""
    updates: int = 10_000
    """Gradient updates at most."""
    batch_size: int = 256
    """Steps in a batch, of each member."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    heldout_share: float = 0.1
    """Share of the episodes (at least one) that nothing is learnt from, and errors are measured on."""
    measure_every: int = 250
    """Updates between measurements of that error."""
    patience: int = 5
    """Measurements without a gain of 1 % before fitting stops."""
    seed: int = 0
    """Of weights, held-out episodes and batches."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        """Raises `WorldModelError` for the first field that is out of range."""
        for name in ("elites", "updates", "batch_size", "measure_every", "patience"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("members", self.members >= max(2, self.elites), "at least 2 and at least elites")
        self._require("elites", self.elites >= 2, "at least 2 (a penalty compares members)")
        self._require("hidden", bool(self.hidden) and min(self.hidden) >= 1, "the width of one layer or more")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("weight_decay", self.weight_decay >= 0, "at least 0")
        self._require("heldout_share", 0 < self.heldout_share < 1, "in (0, 1)")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise WorldModelError(f"{name} of the dynamics must be {rule}, got {getattr(self, name)!r}")
