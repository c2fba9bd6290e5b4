"""From a batch's rewards to what each decision is credited with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.rl.advantages import difficulty_weights, group_advantages
from vla.rl.batch import Batch, TrainablePolicy
from vla.rl.config import AlgoConfig
from vla.rl.critic import Critic, explained_variance, generalised_advantages
from vla.rl.implicit_reward import ImplicitReward
from vla.rl.likelihood import likely_success_bonus, mean_log_probs, pacs_advantages, sampled_log_probs
from vla.rl.step_credit import advantages_with_steps, meeting_places, shared_step_advantages, task_progress


@dataclass(frozen=True)
class Judges:
    """What judges rollouts beside their reward."""

    critic: Critic | None = None
    """Under `algo.advantage=critic`."""
    implicit: ImplicitReward | None = None
    """Under `algo.step_credit=implicit`."""
    reference: TrainablePolicy | None = None
    """The policy that training started from, under "pacs"."""
    averaged: Callable[[], AbstractContextManager[None]] = nullcontext
    """The policy in training has its averaged weights meanwhile, for `algo.likely_success_bonus`."""


def set_advantages(
    batch: Batch, policy: TrainablePolicy, algo: AlgoConfig, judges: Judges, minimum_spread: float
) -> dict[str, float]:
    """Set the batch's advantages; returns what there is to say of them.

    A critic that has learnt nothing yet leaves the first iteration to the groups' means.
    """
    values = None if judges.critic is None else judges.critic.values(batch.rollouts)
    weights = difficulty_weights(batch.successes, batch.groups) if algo.difficulty_weight else np.float32(1.0)
    if values is not None:
        batch.decision_advantages = critic_advantages(values, batch.rewards, weights * np.ones(len(values)), algo)
        batch.advantages = np.array([advantages.mean() for advantages in batch.decision_advantages], dtype=np.float32)
        return {"critic/explained_variance": explained_variance(values, batch.rewards)}
    rewards, metrics = batch.rewards, {}
    if algo.likely_success_bonus:
        bonus = _likely_success_bonus(batch, policy, algo, judges)
        rewards, metrics = rewards + bonus, {"advantage/likely_successes": float((bonus > 0).sum())}
    if algo.advantage == "pacs":
        advantages = _pacs(batch, rewards, algo, judges, minimum_spread)
        advantages = np.where(advantages < 0, algo.negative_weight * advantages, advantages)
    else:
        advantages = group_advantages(
            rewards,
            batch.groups,
            name="grpo" if algo.advantage == "critic" else algo.advantage,
            negative_weight=algo.negative_weight,
            minimum_spread=minimum_spread,
            minimum_deviation=algo.minimum_deviation,
        )
    batch.advantages = (weights * advantages).astype(np.float32)
    batch.decision_advantages = list(batch.advantages)
    return metrics | _credit_steps(batch, algo, judges)


def critic_advantages(
    values: Sequence[NDArray[np.float32]],
    rewards: NDArray[np.float32],
    weights: NDArray[np.floating],
    algo: AlgoConfig,
) -> list[NDArray[np.float32]]:
    """Advantages [D] of the decisions of each of N rollouts, of deviation 1 over those with a weight.

    Multiplied by the rollouts' `weights` [N], negative ones by `algo.negative_weight` too. All are 0 without a weight.
    """
    raw = [
        generalised_advantages(judged, float(reward), algo.critic_decay)
        for judged, reward in zip(values, rewards, strict=True)
    ]
    used = [advantages for advantages, weight in zip(raw, weights, strict=True) if weight > 0]
    scale = 1.0 / (float(np.concatenate(used).std()) + 1e-6) if used else 0.0
    return [
        (np.where(advantages < 0, algo.negative_weight, 1.0) * advantages * scale * weight).astype(np.float32)
        for advantages, weight in zip(raw, weights, strict=True)
    ]


def _credit_steps(batch: Batch, algo: AlgoConfig, judges: Judges) -> dict[str, float]:
    """Tell decisions apart, as `algo.step_credit` says."""
    if algo.step_credit == "none" or not batch.rollouts:
        return {}
    if algo.step_credit == "implicit":
        if judges.implicit is None:
            raise ReflexError("algo.step_credit=implicit needs a judge")
        steps = judges.implicit.judge(batch.rollouts)
        batch.decision_advantages = advantages_with_steps(batch.advantages, steps, batch.groups, algo.step_weight)
        return {}
    features = [rollout.features_for("algo.step_credit") for rollout in batch.rollouts]
    if algo.step_credit == "shared":
        places = meeting_places(features, batch.groups, algo.step_tolerance)
        batch.decision_advantages = shared_step_advantages(batch.advantages, places)
        moved = [
            np.count_nonzero(~np.isclose(steps, own))
            for steps, own in zip(batch.decision_advantages, batch.advantages, strict=True)
        ]
        return {"advantage/shared_steps": sum(moved) / sum(len(rows) for rows in features)}
    progress = task_progress(features, batch.successes, batch.task_ids)
    increments = [np.diff(values) for values in progress]
    batch.decision_advantages = advantages_with_steps(batch.advantages, increments, batch.groups, algo.step_weight)
    ends = [float(values[-1]) for values, won in zip(progress, batch.successes, strict=True) if not won]
    return {"advantage/failures_progress": float(np.mean(ends)) if ends else 0.0}


def _likely_success_bonus(
    batch: Batch, policy: TrainablePolicy, algo: AlgoConfig, judges: Judges
) -> NDArray[np.float32]:
    with judges.averaged():
        log_probs = mean_log_probs(policy, batch.rollouts, algo.temperature, algo.token_noise)
    return likely_success_bonus(
        batch.successes, batch.groups, log_probs, algo.likely_success_bonus, algo.likely_success_margin
    )


def _pacs(
    batch: Batch, rewards: NDArray[np.float32], algo: AlgoConfig, judges: Judges, minimum_spread: float
) -> NDArray[np.float32]:
    if judges.reference is None:
        raise ReflexError("algo.advantage=pacs needs the policy that training started from")
    known = mean_log_probs(judges.reference, batch.rollouts, algo.temperature, algo.token_noise)
    # Rollouts without inputs are of groups without spread, which get 0 whatever stands here.
    ratios = np.where(np.isnan(known), 0.0, sampled_log_probs(batch.rollouts) - known)
    return pacs_advantages(rewards, batch.groups, ratios, algo.pacs_beta, minimum_spread)
