"""Actions to discrete tokens and back: quantile normalisation and 256 bins per dimension, as in OpenVLA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError

BinLayout = Literal["uniform", "openvla"]

_EPSILON = 1e-8  # OpenVLA's guard for a dimension whose quantiles coincide

Array = NDArray[Any]


@dataclass(frozen=True)
class Normalisation:
    """1 % and 99 % quantiles that map actions and states to [-1, 1]."""

    action_q01: NDArray[np.float32]
    """[A]"""
    action_q99: NDArray[np.float32]
    """[A]"""
    state_q01: NDArray[np.float32]
    """[S]"""
    state_q99: NDArray[np.float32]
    """[S]"""

    def __post_init__(self) -> None:
        for low_name, high_name in (("action_q01", "action_q99"), ("state_q01", "state_q99")):
            low, high = getattr(self, low_name), getattr(self, high_name)
            if low.shape != high.shape or low.ndim != 1:
                raise ReflexError(
                    f"normalisation: {low_name} {low.shape} and {high_name} {high.shape} must be equal vectors"
                )
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise ReflexError(f"normalisation: {low_name} or {high_name} holds NaN or infinity")
            if (high < low).any():
                wrong = np.flatnonzero(high < low).tolist()
                raise ReflexError(f"normalisation: {high_name} is below {low_name} in dimensions {wrong}")

    @classmethod
    def create(cls, action_q01: Any, action_q99: Any, state_q01: Any, state_q99: Any) -> Normalisation:
        """Build from anything array-like. Raises `ReflexError` on shapes, order or values that cannot be right."""
        return cls(*(np.array(value, dtype=np.float32) for value in (action_q01, action_q99, state_q01, state_q99)))

    @classmethod
    def identity(cls, action_size: int, state_size: int) -> Normalisation:
        """Leaves actions and states as they are."""
        ones_action, ones_state = np.ones(action_size, np.float32), np.ones(state_size, np.float32)
        return cls(-ones_action, ones_action, -ones_state, ones_state)


def normalise(values: Array, low: Array, high: Array) -> Array:
    """Map [low, high] to [-1, 1] linearly: 2 (x - q01) / (q99 - q01 + 1e-8) - 1. Not clipped."""
    return 2.0 * (values - low) / (high - low + _EPSILON) - 1.0


def unnormalise(values: Array, low: Array, high: Array) -> Array:
    """Inverse of `normalise`: 0.5 (x + 1) (q99 - q01 + 1e-8) + q01."""
    return 0.5 * (values + 1.0) * (high - low + _EPSILON) + low


class ActionTokenizer:
    """Uniform bins over [-1, 1], one token per action dimension.

    `uniform` has `num_bins` bins of width 2 / num_bins and decodes to their centres. `openvla` is the layout of the
    published checkpoints: `num_bins` edges from -1 to 1, hence num_bins - 1 intervals, and a last token that decodes
    to the last interval's centre (openvla `prismatic/vla/action_tokenizer.py`).
    """

    def __init__(self, num_bins: int = 256, layout: BinLayout = "uniform") -> None:
        if num_bins < 2:
            raise ReflexError(f"num_bins is {num_bins}; at least 2 bins are needed")
        self.num_bins = num_bins
        self.layout = layout
        if layout == "uniform":
            self._edges = np.linspace(-1.0, 1.0, num_bins + 1)[1:-1]
            self.centres = (np.arange(num_bins) + 0.5) * (2.0 / num_bins) - 1.0
        else:
            edges = np.linspace(-1.0, 1.0, num_bins)
            self._edges = edges[1:]
            centres = 0.5 * (edges[1:] + edges[:-1])
            self.centres = np.concatenate([centres, centres[-1:]])

    def encode(self, values: Array) -> NDArray[np.int64]:
        """Normalised values of any shape to tokens 0 .. num_bins - 1; values outside [-1, 1] fall in the end bins."""
        if not np.isfinite(values).all():
            raise ReflexError("cannot tokenise actions that hold NaN or infinity")
        tokens: NDArray[np.int64] = np.digitize(np.clip(values, -1.0, 1.0), self._edges).astype(np.int64)
        return tokens

    def decode(self, tokens: Array) -> NDArray[np.float32]:
        """Tokens of any shape to bin centres."""
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.num_bins):
            found = f"{tokens.min()} .. {tokens.max()}"
            raise ReflexError(f"action tokens must lie in 0 .. {self.num_bins - 1}, got {found}")
        values: NDArray[np.float32] = self.centres[tokens].astype(np.float32)
        return values
