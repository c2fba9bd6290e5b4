"""Embeddings that see no picture, to compare with. A reward on pictures that is no better needs no pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from world_models.encoders.base import sample_frames

CONTROLS = ("proprioception", "time")
"""Their names."""


class ProprioceptionEmbedding:
    """The robot's own state at evenly spaced moments, side by side: where the arm went, and nothing of the scene."""

    def __init__(self, moments: int) -> None:
        self._moments = moments

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 8 * moments]"""
        return np.stack([self._states(episode).ravel() for episode in episodes])

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """The first state, held."""
        return np.stack([np.tile(episode.states[0], self._moments) for episode in episodes])

    def _states(self, episode: Episode) -> NDArray[np.float32]:
        states: NDArray[np.float32] = episode.states[sample_frames(len(episode.states), self._moments)]
        return states


class TimeEmbedding:
    """The number of control steps. It tells successes from failures, since those run to the end, and nothing else."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 1]"""
        return np.array([[episode.length] for episode in episodes], dtype=np.float32)

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """The same: time passes where nothing moves."""
        return self.embed(episodes)
