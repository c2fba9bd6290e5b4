"""Rewards that know nothing, to be trained on beside any reward that is claimed to help.

Offline RL can look good with a wrong reward: data that mostly succeeds teaches a policy to succeed, whatever the reward
says (survival instinct, arXiv 2306.03286). A result counts by how far it lies above these.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float32]


def zero(rewards: Rewards, generator: np.random.Generator) -> Rewards:
    """[N] zeros."""
    return np.zeros_like(rewards)


def constant(rewards: Rewards, generator: np.random.Generator) -> Rewards:
    """[N] the mean of the rewards everywhere: their level without what they tell apart."""
    return np.full_like(rewards, rewards.mean(dtype=np.float64))


def shuffled(rewards: Rewards, generator: np.random.Generator) -> Rewards:
    """[N] the same values, each at a transition drawn at random: their distribution without their place."""
    return generator.permutation(rewards)


CONTROLS: dict[str, Callable[[Rewards, np.random.Generator], Rewards]] = {
    "zero": zero,
    "constant": constant,
    "shuffled": shuffled,
}
"""By name: rewards [N] and a generator -> rewards [N]."""
