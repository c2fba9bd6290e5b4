"""Advantages: how much better a rollout did than the others that started from the same state.

By name:

- `grpo`: (r - mean of the group) / deviation of the group. GRPO (arXiv 2402.03300, equation 4) with one scalar for each
  rollout, as SimpleVLA-RL (arXiv 2509.09674) and SRPO (arXiv 2511.15605, equation 9) use it.
- `lite_ppo`: (r - mean of the group) / deviation of all rewards of the batch. Lite PPO (arXiv 2508.08221).
- `rloo`: r - mean of the others of the group. RLOO (arXiv 2402.14740).
- `raft`: 1 for the rollouts of the group with its highest reward, 0 for the others: imitation of the best. RAFT (arXiv
  2304.06767).

`pacs` is in `vla.rl.likelihood`; `critic`, which tells the decisions of a rollout apart, is in `vla.rl.critic`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

LengthNormalisation = Literal["token", "episode"]
AdvantageName = Literal["grpo", "lite_ppo", "rloo", "raft"]


def group_spread(rewards: ArrayLike, groups: ArrayLike) -> dict[int, float]:
    """Largest minus smallest reward of each group; 0 means the group teaches nothing."""
    values, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    return {group: float(np.ptp(values[ids == group])) for group in np.unique(ids).tolist()}


def group_advantages(
    rewards: ArrayLike,
    groups: ArrayLike,
    *,
    name: AdvantageName = "grpo",
    negative_weight: float = 1.0,
    minimum_spread: float = 1e-4,
    minimum_deviation: float = 0.0,
    epsilon: float = 1e-6,
) -> NDArray[np.float32]:
    """Advantages [N] of a batch, by one of the formulas in the module's docstring; negatives times `negative_weight`.

    Args:
        rewards: [N].
        groups: [N] which group (initial state) each rollout belongs to.
        name: the formula.
        negative_weight: multiplies negative advantages. 1 is as published. Below 1 pushes down less than it pulls up,
            which a small policy needs: pushing probability away from a failure spreads it over everything else.
        minimum_spread: a group whose rewards differ by less gets advantage 0: equal rewards must stay equal.
        minimum_deviation: what is divided by is this at least. 0 is as published. Above 0, under "grpo", the small
            differences among the failures of a group without a success count for less than a success does.
        epsilon: keeps the division defined. Deviations are population deviations.
    """
    values, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    advantages = np.zeros(len(values))
    batch_deviation = float(values.std()) if len(values) else 0.0
    for group, spread in group_spread(values, ids).items():
        if spread < minimum_spread:
            continue
        members = ids == group
        differences = values[members] - values[members].mean()
        if name == "raft":
            advantages[members] = values[members] >= values[members].max() - minimum_spread
        elif name == "rloo":
            count = len(differences)
            advantages[members] = differences * count / (count - 1)  # r - mean of the others
        else:
            deviation = batch_deviation if name == "lite_ppo" else float(values[members].std())
            advantages[members] = differences / (max(deviation, minimum_deviation) + epsilon)
    return np.where(advantages < 0, negative_weight * advantages, advantages).astype(np.float32)


def difficulty_weights(successes: ArrayLike, groups: ArrayLike) -> NDArray[np.float32]:
    """4 p (1 - p) for each rollout [N], p the share of its group that succeeded: 1 for groups half of which did.

    The variance of success bounds the expected improvement from below (arXiv 2504.03380). A group of
    failures only gets 0, and with it whatever a reward found between them.
    """
    succeeded, ids = np.asarray(successes, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    weights = np.zeros(len(ids))
    for group in np.unique(ids).tolist():
        share = succeeded[ids == group].mean()
        weights[ids == group] = 4.0 * share * (1.0 - share)
    return weights.astype(np.float32)


def length_weights(lengths: ArrayLike, normalisation: LengthNormalisation) -> NDArray[np.float32]:
    """What each token of an episode counts, given the episodes' token counts [N]; the mean over all tokens is 1.

    "token": every token counts 1, so long episodes (mostly failures) outweigh short ones (mostly successes).
    "episode": every episode counts the same in total, as in GRPO's 1/|o_i|; its tokens share it.
    """
    counts = np.asarray(lengths, dtype=np.float64)
    if normalisation == "token":
        return np.ones(len(counts), dtype=np.float32)
    return np.where(counts > 0, counts.mean() / np.maximum(counts, 1.0), 0.0).astype(np.float32)
