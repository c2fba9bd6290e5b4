"""What to train beside any reward that is claimed to help: rewards that know nothing, the true one, and imitation.

Offline RL can look good with a wrong reward: data that mostly succeeds teaches a policy to succeed, whatever the reward
says (survival instinct, arXiv 2306.03286). A result counts by how far it lies above these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla.offline.algorithms.bc import BC
from vla.offline.training import OfflineSettings
from vla.offline.transitions import Transitions

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


WITHOUT_KNOWLEDGE: dict[str, Callable[[Rewards, np.random.Generator], Rewards]] = {
    "zero": zero,
    "constant": constant,
    "shuffled": shuffled,
}
"""By name: rewards [N] and a generator -> rewards [N]."""

TRUE = "true"
REPLAY = "replay"
"""Of a run with imagined rollouts: the same run on the logs alone, for as many updates."""
IMITATION = ("bc", "bc_10")
CONTROLS = (*WITHOUT_KNOWLEDGE, TRUE, *IMITATION)
"""Rewards without knowledge; "true", the reward that is known to be right; "bc", imitation of everything; "bc_10", of
the tenth of the episodes with the greatest returns."""


def as_control(
    name: str, data: Transitions, settings: OfflineSettings, seed: int, truth: Rewards | None = None
) -> tuple[Transitions, OfflineSettings]:
    """What a control is trained on and how, from the run it stands beside.

    Args:
        name: one of `CONTROLS`, or `REPLAY`.
        data: the run's transitions, whose rewards "bc_10" goes by.
        settings: the run's, of which only what makes the control is changed.
        seed: of the shuffling.
        truth: [N] the true reward, of "true".

    Raises:
        ValueError: an unknown name, or "true" without a true reward.
    """
    if name in WITHOUT_KNOWLEDGE:
        changed = data.with_rewards(WITHOUT_KNOWLEDGE[name](data.rewards, np.random.default_rng(seed)))
        # All returns are the same without rewards, and then there is no range of them to divide by.
        without_range = name == "zero" and settings.reward_scale == "returns"
        return changed, replace(settings, reward_scale="none") if without_range else settings
    if name == REPLAY:
        return data, settings
    if name == TRUE and truth is not None:
        return data.with_rewards(truth), settings
    if name not in IMITATION:
        raise ValueError(f"no control {name!r}; there are {', '.join(CONTROLS)}, and true needs the true reward")
    # The scale stays: the best episodes are another tenth by rewards above 0, which grow with an episode's length.
    imitating = replace(settings, algorithm=BC(), ends="success")
    return data, replace(imitating, weighting="best" if name == "bc_10" else "uniform", best_share=0.1)
