"""Implicit Q-Learning (Kostrikov et al., arXiv 2110.06169).

The value V of a state is an upper expectile of what the target critics say of the data's actions, so that no action
outside the data is ever asked about. The critics Q follow V, and the policy imitates the data's actions, each weighted
by its advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    cosine,
    critic_values,
    fit_critics,
    follow,
    imitate,
    twin_critics,
    with_moments,
)
from vla.policies.gaussian.perceptron import Parameters, new_perceptron, perceptron
from vla.run.settings import Checks


def expectile_loss(differences: Tensor, expectile: float) -> Tensor:
    """Mean of |expectile - 1(u < 0)| u^2 over differences u = Q - V [B]; at 1/2 it is half the mean square."""
    below = (differences < 0).to(differences.dtype)
    return ((expectile - below).abs() * differences**2).mean()


def advantage_weights(advantages: Tensor, temperature: float, greatest: float) -> Tensor:
    """[B] exp(temperature A), at most `greatest`."""
    return torch.exp(temperature * advantages).clamp(max=greatest)


@dataclass(frozen=True)
class IQL(Algorithm):
    """Implicit Q-Learning, with the settings of its authors on locomotion."""

    expectile: float = 0.7
    """Which expectile of the critics' values V is; 0.9 for long tasks with rare rewards."""
    temperature: float = 3.0
    """How much an advantage counts in the policy's weights exp(temperature A); 10 for long tasks with rare rewards,
    0.5 for narrow human demonstrations."""
    greatest_weight: float = 100.0
    """Limit of those weights."""
    target_share: float = 0.005
    """How far the target critics go towards the critics in an update."""
    policy_schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the policy's learning rate falls to 0, along half a cosine over all updates."""
    value_first: bool = True
    """The policy and the critics follow V after its update, as in the authors' code; false: before it, as in CORL."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        super().__post_init__()
        check = Checks(self)
        check.within(0, 1, "expectile", "target_share")
        check.at_least(0, "temperature")
        check.positive("greatest_weight")

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        critics, value = twin_critics(sizes), new_perceptron(sizes.value())
        networks = {"policy": policy, "critics": critics, "target": copied(critics), "value": value}
        return with_moments(networks, ("policy", "critics", "value"))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """V, then the policy and the critics by the new V, then the target: the order of the authors' code."""
        observations, actions = batch.observations, batch.actions
        judged = critic_values(state["target"], observations, actions, bfloat16).amin(0)

        def value_loss(value: Parameters) -> Tensor:
            return expectile_loss(judged - perceptron(value, observations, bfloat16)[:, 0], self.expectile)

        both = torch.cat([observations, batch.next_observations])
        seen = perceptron(state["value"], both, bfloat16)[:, 0] if not self.value_first else None
        gradients, value_error = grad_and_value(value_loss)(state["value"])
        adam(state, "value", gradients, batch.step, self.learning_rate)

        if seen is None:
            seen = perceptron(state["value"], both, bfloat16)[:, 0]
        values, next_values = seen.chunk(2)
        advantages = judged - values
        weights = advantage_weights(advantages, self.temperature, self.greatest_weight)
        rate = self.learning_rate if self.policy_schedule == "constant" else cosine(self.learning_rate, batch.progress)
        policy_error = imitate(state, batch, rate, bfloat16, weights)

        targets = batch.rewards + batch.discounts * next_values
        critic_error = fit_critics(state, batch, targets, self.learning_rate, bfloat16)
        follow(state, "target", "critics", self.target_share)
        return {
            "loss/value": value_error,
            "loss/policy": policy_error,
            "loss/critic": critic_error,
            "value": values.mean(),
            "advantage": advantages.mean(),
            "weight": weights.mean(),
        }

    def advantages(self, state: State, observations: Tensor, actions: Tensor) -> Tensor:
        """[B] Q - V."""
        judged = critic_values(state["target"], observations, actions).amin(0)
        return judged - perceptron(state["value"], observations)[:, 0]
