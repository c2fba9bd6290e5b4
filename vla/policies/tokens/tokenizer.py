"""Normalised actions to discrete tokens and back: 256 bins per dimension, as in OpenVLA."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError

BinLayout = Literal["uniform", "openvla"]

Array = NDArray[Any]


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
