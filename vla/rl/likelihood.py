"""Rewards and advantages from how likely a rollout's actions are under another policy than the one that sampled it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vla.rl.batch import Rollout, TrainablePolicy

BATCH = 256
"""Decisions judged together."""


def token_log_probs(
    policy: TrainablePolicy, rollouts: Sequence[Rollout], temperature: float, token_noise: float
) -> list[NDArray[np.float32] | None]:
    """[D, K] log-probabilities of each rollout's tokens under `policy`; None where the inputs are dropped."""
    found: list[NDArray[np.float32] | None] = [None] * len(rollouts)
    known = [index for index, rollout in enumerate(rollouts) if rollout.inputs is not None]
    if not known:
        return found
    inputs = type(rollouts[known[0]].inputs).concatenate([rollouts[index].inputs for index in known])
    tokens = torch.from_numpy(np.concatenate([rollouts[index].tokens for index in known]))
    parts = []
    for rows in torch.split(torch.arange(len(tokens)), BATCH):
        with torch.inference_mode():
            log_probs, _ = policy.log_prob_from_inputs(inputs[rows], tokens[rows], temperature, token_noise)
        parts.append(log_probs.float().cpu().numpy())
    ends = np.cumsum([len(rollouts[index].tokens) for index in known])
    for index, judged in zip(known, np.split(np.concatenate(parts), ends[:-1]), strict=True):
        found[index] = judged
    return found


def mean_log_probs(
    policy: TrainablePolicy, rollouts: Sequence[Rollout], temperature: float, token_noise: float
) -> NDArray[np.float64]:
    """[N] mean log-probability of each rollout's executed tokens under `policy`; NaN where the inputs are dropped."""
    judged = token_log_probs(policy, rollouts, temperature, token_noise)
    return np.array(
        [
            np.nan if rows is None else float(rows[rollout.executed].mean())
            for rollout, rows in zip(rollouts, judged, strict=True)
        ],
        dtype=np.float64,
    )


def sampled_log_probs(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """[N] the same under the policy that sampled each, as recorded."""
    return np.array([rollout.log_probs[rollout.executed].mean() for rollout in rollouts], dtype=np.float64)


def likely_success_bonus(
    successes: ArrayLike, groups: ArrayLike, log_probs: ArrayLike, coefficient: float, margin: float
) -> NDArray[np.float32]:
    """What to add to the rewards [N]: `coefficient` for successes that a slower policy finds at least as likely as its
    group's successes are on average, less `margin` (in probability); 0 for all others.

    It ranks successes only, and prefers the ways of succeeding that the policy already had. GRPO-CARE (arXiv
    2506.16141), with the likelihood of the actions in the place of an answer's. A rollout whose likelihood is not known
    (NaN) gets nothing.

    Args:
        successes: [N] bool.
        groups: [N].
        log_probs: [N] mean log-probability of each rollout's tokens under the slower policy.
        coefficient: the bonus.
        margin: in probability of a token.
    """
    won, ids = np.asarray(successes, dtype=bool), np.asarray(groups, dtype=np.int64)
    likelihoods = np.exp(np.asarray(log_probs, dtype=np.float64))
    usable = won & np.isfinite(likelihoods)
    bonus = np.zeros(len(won), dtype=np.float32)
    for group in np.unique(ids).tolist():
        members = np.flatnonzero((ids == group) & usable)
        if len(members):
            bonus[members] = coefficient * (likelihoods[members] >= likelihoods[members].mean() - margin)
    return bonus


def pacs_advantages(
    rewards: ArrayLike, groups: ArrayLike, log_ratios: ArrayLike, beta: float, minimum_spread: float = 1e-4
) -> NDArray[np.float32]:
    """Advantages [N] whose policy gradient is that of PACS' supervised loss (arXiv 2509.02522).

    PACS reads a rollout's implicit reward r = beta * log-ratio to a reference policy, less the mean of its group's
    others, as the logit of success, psi, and fits it by cross-entropy to the outcome y. Differentiated by the rollouts'
    log-ratios that is, up to the factor beta,

        A_i = (y_i - sigmoid(psi_i)) - mean over j != i of (y_j - sigmoid(psi_j))

    With psi = 0 (at the reference) it is RLOO's. A success that already is much likelier than its group's others
    teaches little, and so does a failure that is much less likely. Log-ratios are means over tokens, so that long
    rollouts do not have larger ones. Rewards between 0 and 1 are soft outcomes. A group whose rewards differ by less
    than `minimum_spread` gets 0.

    Args:
        rewards: [N] in [0, 1].
        groups: [N].
        log_ratios: [N] mean over a rollout's tokens of log pi - log pi_reference.
        beta: of the implicit reward.
    """
    outcomes, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    implicit = beta * np.asarray(log_ratios, dtype=np.float64)
    advantages = np.zeros(len(outcomes))
    for group in np.unique(ids).tolist():
        members = np.flatnonzero(ids == group)
        if len(members) < 2 or np.ptp(outcomes[members]) < minimum_spread:
            continue
        logits = _less_the_others(implicit[members])
        residuals = outcomes[members] - 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))
        advantages[members] = _less_the_others(residuals)
    return advantages.astype(np.float32)


def _less_the_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each of n >= 2 values less the mean of the others: n / (n - 1) times its difference to the mean of all."""
    differences: NDArray[np.float64] = values - values.mean()
    return differences * (len(values) / (len(values) - 1))
