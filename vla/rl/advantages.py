"""Mathematics that the advantage estimators share: `vla.rl.group_mean`, `vla.rl.critic` and those in `variants/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

LengthNormalisation = Literal["token", "episode"]

MINIMUM_SPREAD = 1e-4
"""Rewards of a group that differ by less count as equal: such a group teaches nothing."""


def group_spread(rewards: ArrayLike, groups: ArrayLike) -> dict[int, float]:
    """Largest minus smallest reward of each group; 0 means the group teaches nothing."""
    values, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    return {group: float(np.ptp(values[ids == group])) for group in np.unique(ids).tolist()}


def by_group(
    rewards: ArrayLike, groups: ArrayLike, formula: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Advantages [N]: `formula` maps the rewards [n] of each group to theirs.

    A group whose rewards differ by less than `MINIMUM_SPREAD` gets 0: equal rewards must stay equal.

    Args:
        rewards: [N].
        groups: [N] which group (initial state) each rollout belongs to.
        formula: of one group.
    """
    values, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    advantages = np.zeros(len(values))
    for group, spread in group_spread(values, ids).items():
        if spread >= MINIMUM_SPREAD:
            advantages[ids == group] = formula(values[ids == group])
    return advantages


def leave_one_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each of n >= 2 values less the mean of the others: n / (n - 1) times its difference to the mean of all."""
    count = len(values)
    centred: NDArray[np.float64] = values - values.mean()
    return centred * count / (count - 1)


def with_weights(
    advantages: NDArray[np.float64], negative_weight: float, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Advantages [N], negative ones times `negative_weight`, times the rollouts' `weights` [N].

    A negative weight of 1 is as published. Below 1 pushes down less than it pulls up, which a small policy needs:
    pushing probability away from a failure spreads it over everything else.
    """
    signed = np.where(advantages < 0, negative_weight * advantages, advantages).astype(np.float32)
    return (weights * signed).astype(np.float32)


def length_weights(lengths: ArrayLike, normalisation: LengthNormalisation) -> NDArray[np.float32]:
    """What each unit of an episode's decisions counts, given the episodes' unit counts [N]; the mean over all is 1.

    "token": every unit counts 1, so long episodes (mostly failures) outweigh short ones (mostly successes).
    "episode": every episode counts the same in total, as in GRPO's 1/|o_i|; its units share it.
    """
    counts = np.asarray(lengths, dtype=np.float64)
    if normalisation == "token":
        return np.ones(len(counts), dtype=np.float32)
    return np.where(counts > 0, counts.mean() / np.maximum(counts, 1.0), 0.0).astype(np.float32)


def advantages_with_steps(
    advantages: ArrayLike,
    steps: Sequence[NDArray[np.floating]],
    groups: ArrayLike,
    weight: float,
    epsilon: float = 1e-6,
) -> list[NDArray[np.float32]]:
    """Advantages [D] of decisions: the rollout's, plus `weight` times what the decision itself was worth.

    Steps are standardised over all decisions of a group, as the rollouts' rewards are, so that both parts are of one
    size (A = A_episode + alpha A_step, arXiv 2509.19199). In a group whose advantages are all 0 they stay 0.

    Args:
        advantages: [N] of the rollouts.
        steps: [D] of each: the increments of `task_progress`, or implicit rewards.
        groups: [N].
        weight: of the step part; 0 leaves the rollout's advantage.
        epsilon: keeps the division defined.
    """
    own, ids = np.asarray(advantages, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    worth = [values.astype(np.float64) for values in steps]
    credited: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(own)
    for group in np.unique(ids).tolist():
        members = np.flatnonzero(ids == group).tolist()
        pooled = np.concatenate([worth[member] for member in members])
        scale = weight / (float(pooled.std()) + epsilon) if np.any(own[members]) else 0.0
        for member in members:
            part = scale * (worth[member] - pooled.mean())
            credited[member] = (own[member] + part).astype(np.float32)
    return credited
