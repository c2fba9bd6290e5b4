"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860): twin delayed policy gradients that stay near the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value

from vla.offline.algorithms.algorithm import (
    Algorithm,
    Batch,
    Metrics,
    Sizes,
    State,
    adam,
    copied,
    critic_values,
    fit_critics,
    follow,
    twin_critics,
    with_moments,
)
from vla.policies.gaussian.perceptron import Parameters
from vla.policies.gaussian.policy import gaussian_mean
from vla.run.settings import Checks


def smoothed_actions(mean: Tensor, noise: Tensor, deviation: float, reach: float) -> Tensor:
    """[B, K] actions near `mean`, by standard normal numbers [B, K]; no further off than `reach`, within [-1, 1]."""
    return (mean + (deviation * noise).clamp(-reach, reach)).clamp(-1.0, 1.0)


def value_weight(values: Tensor, alpha: float) -> Tensor:
    """[] alpha over the mean size of values [B]: what the values count against a squared error of actions."""
    return alpha / values.detach().abs().mean().clamp(min=1e-8)


def policy_turn(step: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Whether update `step` [], from 1, is one of the policy's (1 or 0), and how many it has had, at least 1."""
    due = (torch.remainder(step, every) == 0).float()
    return due, torch.floor(step / every).clamp(min=1.0)


@dataclass(frozen=True)
class TD3BC(Algorithm):
    """TD3+BC."""

    alpha: float = 2.5
    """How much the critics count against imitation."""
    policy_every: int = 2
    """Updates of the critics for one of the policy and the targets."""
    target_noise: float = 0.2
    """Standard deviation of noise on the target policy's actions."""
    target_noise_reach: float = 0.5
    """Limit of that noise."""
    target_share: float = 0.005
    """How far the targets go in an update of theirs."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        super().__post_init__()
        check = Checks(self)
        check.at_least(0, "alpha", "target_noise", "target_noise_reach")
        check.at_least(1, "policy_every")
        check.within(0, 1, "target_share")

    def noise_size(self, sizes: Sizes) -> int:
        """An action after each transition."""
        return sizes.action

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        critics = twin_critics(sizes)
        networks = {"policy": policy, "critics": critics}
        targets = {"target": copied(critics), "target_policy": copied(policy)}
        return with_moments(networks | targets, ("policy", "critics"))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """The critics; when it is their turn the policy, then the targets."""
        observations, actions = batch.observations, batch.actions
        next_actions = self.next_actions(state, batch, batch.noise, bfloat16)
        following = critic_values(state["target"], batch.next_observations, next_actions, bfloat16).amin(0)
        targets = batch.rewards + batch.discounts * following
        critic_error = fit_critics(state, batch, targets, self.learning_rate, bfloat16)

        def policy_loss(policy: Parameters) -> Tensor:
            own = gaussian_mean(policy, observations, bfloat16)
            values = critic_values(state["critics"], observations, own, bfloat16)[0]
            return ((own - actions) ** 2).mean() - value_weight(values, self.alpha) * values.mean()

        policy_error = self.take_turn(state, batch, policy_loss)
        return {"loss/policy": policy_error, "loss/critic": critic_error, "value": following.mean()}

    def next_actions(self, state: State, batch: Batch, noise: Tensor, bfloat16: bool) -> Tensor:
        """[B, K] the target policy's after each transition, smoothed by standard normal numbers [B, K]."""
        mean = gaussian_mean(state["target_policy"], batch.next_observations, bfloat16)
        return smoothed_actions(mean, noise, self.target_noise, self.target_noise_reach)

    def take_turn(self, state: State, batch: Batch, policy_loss: Callable[[Parameters], Tensor]) -> Tensor:
        """A step of the policy and then of the targets, in place, when it is their turn; returns the policy's loss."""
        due, turn = policy_turn(batch.step, self.policy_every)
        gradients, value = grad_and_value(policy_loss)(state["policy"])
        error: Tensor = value
        adam(state, "policy", gradients, turn, self.learning_rate, due)
        follow(state, "target", "critics", due * self.target_share)
        follow(state, "target_policy", "policy", due * self.target_share)
        return error
