"""Embeddings that see no picture, to compare with. A reward on pictures that is no better needs no pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode

CONTROLS = ("proprioception", "time")
"""Their names."""
CEILING = "true_progress"
"""The embedding that is the truth itself: what the best encoder would get, and none to choose."""


class TimeEmbedding:
    """The number of control steps. It tells successes from failures, since those run to the end, and nothing else."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 1]"""
        return np.array([[episode.length] for episode in episodes], dtype=np.float32)

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """The same: time passes where nothing moves."""
        return self.embed(episodes)
