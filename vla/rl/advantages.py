"""Advantages: how much better a rollout did than the others that started from the same state.

Source: GRPO (arXiv 2402.03300, equation 4) with one scalar for each rollout, as SimpleVLA-RL (arXiv 2509.09674) and
SRPO (arXiv 2511.15605, equation 9) use it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

LengthNormalisation = Literal["token", "episode"]


def group_spread(rewards: ArrayLike, groups: ArrayLike) -> dict[int, float]:
    """Largest minus smallest reward of each group; 0 means the group teaches nothing."""
    values, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    return {group: float(np.ptp(values[ids == group])) for group in np.unique(ids).tolist()}


def group_advantages(
    rewards: ArrayLike,
    groups: ArrayLike,
    *,
    negative_weight: float = 1.0,
    minimum_spread: float = 1e-4,
    minimum_deviation: float = 0.0,
    epsilon: float = 1e-6,
) -> NDArray[np.float32]:
    """(r - mean) / (max(std, minimum_deviation) + epsilon) within each group; negatives times `negative_weight`.

    Args:
        rewards: [N].
        groups: [N] which group (initial state) each rollout belongs to.
        negative_weight: multiplies negative advantages. 1 is GRPO. Below 1 pushes down less than it pulls up, which a
            small policy needs: pushing probability away from a failure spreads it over everything else.
        minimum_spread: a group whose rewards differ by less gets advantage 0: equal rewards must stay equal.
        minimum_deviation: a group whose rewards deviate by less is divided by this instead. 0 is GRPO. Above 0, the
            small differences among the failures of a group without a success count for less than a success does.
        epsilon: keeps the division defined. `std` is the population deviation.
    """
    values, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    advantages = np.zeros(len(values))
    for group, spread in group_spread(values, ids).items():
        if spread < minimum_spread:
            continue
        members = ids == group
        deviation = max(float(values[members].std()), minimum_deviation)
        advantages[members] = (values[members] - values[members].mean()) / (deviation + epsilon)
    return np.where(advantages < 0, negative_weight * advantages, advantages).astype(np.float32)


def length_weights(lengths: ArrayLike, normalisation: LengthNormalisation) -> NDArray[np.float32]:
    """What each token of an episode counts, given the episodes' token counts [N]; the mean over all tokens is 1.

    "token": every token counts 1, so long episodes (mostly failures) outweigh short ones (mostly successes).
    "episode": every episode counts the same in total, as in GRPO's 1/|o_i|; its tokens share it.
    """
    counts = np.asarray(lengths, dtype=np.float64)
    if normalisation == "token":
        return np.ones(len(counts), dtype=np.float32)
    return np.where(counts > 0, counts.mean() / np.maximum(counts, 1.0), 0.0).astype(np.float32)
