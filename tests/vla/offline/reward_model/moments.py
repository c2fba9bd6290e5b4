"""Moments whose true progress is known, and preferences between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Features of every moment of some episodes, and labelled pairs."""

    features: NDArray[np.float32]
    pairs: NDArray[np.int64]
    answers: NDArray[np.int64]
    episodes: NDArray[np.int64]
    progress: NDArray[np.float64]


def make_moments(seed: int, error_rate: float = 0.0, episodes: int = 30, length: int = 20, pairs: int = 600) -> Moments:
    """Progress is hidden in features that also say which episode it is; labels err at a known rate."""
    generator = np.random.default_rng(seed)
    number = np.repeat(np.arange(episodes), length)
    strides = generator.gamma(0.5, size=(episodes, length))  # now fast, now hardly at all
    progress = (np.cumsum(strides, axis=1) / strides.sum(axis=1).max()).ravel()
    hidden = np.stack([3 * progress, *(generator.normal(size=episodes)[number] for _ in range(4))], axis=1)
    features = np.tanh(hidden @ generator.normal(size=(5, 16)) / 4).astype(np.float32)
    chosen = generator.integers(0, len(progress), (pairs, 2))
    difference = progress[chosen[:, 1]] - progress[chosen[:, 0]]
    answers = np.where(np.abs(difference) < 0.02, 2, (difference > 0).astype(np.int64))
    wrong = (generator.random(pairs) < error_rate) & (answers < 2)
    return Moments(features, chosen, np.where(wrong, 1 - answers, answers), number, progress)
