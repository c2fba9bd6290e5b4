"""An ensemble of reward networks: what `vla reward` fits and everything else asks."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vla.errors import ReflexError
from vla.rewards.models.networks import CnnEnsemble, GoalEnsemble, MlpEnsemble, NearestCentre, NetworkKind

SCORING_BATCH, PICTURES_AT_ONCE = 4096, 64
"""Rows in one forward pass, of features and of pictures."""


@dataclass(frozen=True)
class EnsembleShape:
    """What a network is made of."""

    network: NetworkKind | Literal["goals", "centres"]
    """"mlp" and "goals" on features, "cnn" on pictures; "centres" are none, but distances to some."""
    members: int
    """Networks in the ensemble."""
    inputs: tuple[int, ...]
    """Shape of one input: (F,), or (H, W, 3)."""
    hidden: int = 256
    """Width of the hidden layers of an mlp."""
    bounded: bool = False
    """Whether tanh keeps rewards in [-1, 1], as in the paper."""
    references: int = 0
    """Goals or centres that are kept."""

    def build(self) -> nn.Module:
        """The network, drawn from torch's global generator. Raises `ReflexError` for inputs that it cannot take."""
        if self.network == "cnn":
            if len(self.inputs) != 3 or self.inputs[2] != 3:
                raise ReflexError(f"network=cnn needs pictures [N, H, W, 3], not rows of shape {list(self.inputs)}")
            return CnnEnsemble(self.members, self.inputs[0], self.inputs[1])
        if len(self.inputs) != 1:
            raise ReflexError(f"network={self.network} needs features [N, F], not rows of shape {list(self.inputs)}")
        if self.network == "goals":
            return GoalEnsemble(self.members, self.inputs[0], self.references, self.hidden)
        if self.network == "centres":
            return NearestCentre(self.inputs[0], self.references)
        return MlpEnsemble(self.members, self.inputs[0], self.hidden)


class RewardEnsemble:
    """Several networks that were fitted to the same preferences and differ in how they began."""

    def __init__(self, shape: EnsembleShape, network: nn.Module, record: dict[str, Any] | None = None) -> None:
        self.shape, self.network = shape, network
        self.record = record or {}
        """What the fit came to, JSON-ready: held-out likelihood and accuracy, epochs, settings."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(itertools.chain(self.network.parameters(), self.network.buffers())).device

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [M, B, ...] of each member -> rewards [M, B], with gradients."""
        values: torch.Tensor = self.network(inputs)
        return torch.tanh(values) if self.shape.bounded else values

    def inputs_of(self, features: NDArray[Any]) -> torch.Tensor:
        """Rows [N, ...] as the network takes them, where it computes: pictures as bytes, features as float32."""
        rows = torch.from_numpy(np.ascontiguousarray(features)).to(self.device)
        return rows if self.shape.network == "cnn" else rows.float()

    @torch.no_grad()
    def score_features(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Rewards [members, N] of features float [N, F], or of pictures uint8 [N, H, W, 3] where the network is a cnn.

        Raises `ReflexError` when they have another shape than those it was fitted to.
        """
        if features.shape[1:] != self.shape.inputs:
            raise ReflexError(
                f"this reward model was fitted to rows of shape {list(self.shape.inputs)} and is given "
                f"{list(features.shape[1:])}; use the encoder or the picture size that it was fitted with"
            )
        batch = PICTURES_AT_ONCE if self.shape.network == "cnn" else SCORING_BATCH
        parts = []
        for first in range(0, len(features), batch):
            rows = self.inputs_of(features[first : first + batch])
            parts.append(self.forward(rows.expand(self.shape.members, *rows.shape)).cpu().numpy())
        empty = np.zeros((self.shape.members, 0), dtype=np.float32)
        return np.concatenate([empty, *parts], axis=1)

    def mean_score(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """The reward [N]: the members' mean."""
        return np.asarray(self.score_features(features).mean(axis=0), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: shape and record."""
        return {"shape": asdict(self.shape), "record": self.record}
