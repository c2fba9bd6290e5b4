"""A2PR: adaptive advantage-guided policy regularisation (Liu et al., arXiv 2405.19909).

As TD3+BC, but what the policy is kept near to is the better of two actions: the data's, and one that a conditional
variational autoencoder proposes, which learns from actions that a value network finds better than usual.

One thing differs from the authors' code: the proposed action is a constant in the policy's loss, where theirs lets the
policy's gradient run through the autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value

from vla.offline.algorithms.algorithm import (
    Batch,
    Metrics,
    Sizes,
    State,
    adam,
    copied,
    critic_values,
    fit_critics,
    twin_critics,
    with_moments,
)
from vla.offline.algorithms.td3_bc import TD3BC, value_weight
from vla.policies.gaussian.perceptron import Parameters, new_perceptron, perceptron
from vla.policies.gaussian.policy import gaussian_mean
from vla.run.settings import Checks

LOG_DEVIATIONS = (-4.0, 15.0)
"""Limits of the logarithm of the encoder's deviations."""


@dataclass(frozen=True)
class Encoding:
    """What the autoencoder makes of actions [B, K], given observations."""

    actions: Tensor
    """[B, K] reconstructed, in [-1, 1]."""
    mean: Tensor
    """[B, 2 K] of the latent."""
    log_deviation: Tensor
    """[B, 2 K]"""

    def divergence(self) -> Tensor:
        """[B] Kullback-Leibler divergence of the latent from a standard normal one, a mean over its numbers."""
        variance = torch.exp(2 * self.log_deviation)
        return -0.5 * (1 + 2 * self.log_deviation - self.mean**2 - variance).mean(-1)


def autoencode(autoencoder: Parameters, observations: Tensor, actions: Tensor, noise: Tensor) -> Encoding:
    """Encode actions and decode a draw from the latent, by standard normal numbers [B, 2 K]."""
    encoder, decoder = (
        {name.removeprefix(part): value for name, value in autoencoder.items() if name.startswith(part)}
        for part in ("encoder.", "decoder.")
    )
    mean, log_deviation = perceptron(encoder, torch.cat([observations, actions], dim=-1)).chunk(2, dim=-1)
    log_deviation = log_deviation.clamp(*LOG_DEVIATIONS)
    latent = mean + log_deviation.exp() * noise
    return Encoding(torch.tanh(perceptron(decoder, torch.cat([observations, latent], dim=-1))), mean, log_deviation)


def better_actions(data: Tensor, proposed: Tensor, data_advantages: Tensor, proposed_advantages: Tensor) -> Tensor:
    """[B, K] the proposed action where its advantage [B] is at least the data's, else the data's."""
    return torch.where((proposed_advantages >= data_advantages)[:, None], proposed, data)


@dataclass(frozen=True)
class A2PR(TD3BC):
    """A2PR; what it has in common with TD3+BC has that one's settings."""

    autoencoder_width: int = 750
    """Of its hidden layers, two in the encoder and two in the decoder."""
    divergence_weight: float = 0.5
    """Of the latent's divergence in the autoencoder's loss."""
    advantage_weight: float = 1.0
    """Of an action in the autoencoder's loss where the critics find it better than usual; others count nothing."""
    regularisation: float = 1.0
    """How much staying near the better action counts in the policy's loss, from 0.4 to 1 in the paper."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        super().__post_init__()
        check = Checks(self)
        check.at_least(1, "autoencoder_width")
        check.at_least(0, "divergence_weight", "advantage_weight", "regularisation")

    def noise_size(self, sizes: Sizes) -> int:
        """An action after each transition, and two latents."""
        return 5 * sizes.action

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        critics, value = twin_critics(sizes), new_perceptron(sizes.value())
        width, latent = self.autoencoder_width, 2 * sizes.action
        inputs = sizes.observation + sizes.action
        encoder = new_perceptron((inputs, width, width, 2 * latent))
        decoder = new_perceptron((sizes.observation + latent, width, width, sizes.action))
        autoencoder = {f"encoder.{name}": part for name, part in encoder.items()}
        autoencoder |= {f"decoder.{name}": part for name, part in decoder.items()}
        networks = {"policy": policy, "critics": critics, "value": value, "autoencoder": autoencoder}
        targets = {"target": copied(critics), "target_policy": copied(policy)}
        return with_moments(networks | targets, ("policy", "critics", "value", "autoencoder"))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """The value, the critics and the autoencoder; when it is their turn the policy, then the targets."""
        observations, actions = batch.observations, batch.actions
        size = actions.shape[1]
        after, first_latent, second_latent = torch.split(batch.noise, [size, 2 * size, 2 * size], dim=1)
        next_actions = self.next_actions(state, batch, after, bfloat16)
        following = critic_values(state["target"], batch.next_observations, next_actions, bfloat16).amin(0)
        live = critic_values(state["critics"], batch.next_observations, next_actions, bfloat16).amin(0)
        targets = batch.rewards + batch.discounts * following
        value_targets = batch.rewards + batch.discounts * torch.minimum(following, live)

        def value_loss(value: Parameters) -> Tensor:
            return ((perceptron(value, observations, bfloat16)[:, 0] - value_targets) ** 2).mean()

        gradients, value_error = grad_and_value(value_loss)(state["value"])
        adam(state, "value", gradients, batch.step, self.learning_rate)
        critic_error = fit_critics(state, batch, targets, self.learning_rate, bfloat16)

        usual = perceptron(state["value"], observations, bfloat16)[:, 0]
        data_advantages = critic_values(state["critics"], observations, actions, bfloat16)[0] - usual
        better = self.advantage_weight * (data_advantages > 0).float()

        def autoencoder_loss(autoencoder: Parameters) -> Tensor:
            made = autoencode(autoencoder, observations, actions, first_latent)
            errors = ((made.actions - actions) ** 2).mean(-1)
            return (better * errors + self.divergence_weight * made.divergence()).mean()

        gradients, autoencoder_error = grad_and_value(autoencoder_loss)(state["autoencoder"])
        adam(state, "autoencoder", gradients, batch.step, self.learning_rate)

        own = gaussian_mean(state["policy"], observations, bfloat16)
        proposed = autoencode(state["autoencoder"], observations, own, second_latent).actions
        advantages = critic_values(state["critics"], observations, proposed, bfloat16)[0] - usual
        near = better_actions(actions, proposed, data_advantages, advantages)
        counts = (advantages >= 0).float() + (data_advantages > 0).float()

        def policy_loss(policy: Parameters) -> Tensor:
            chosen = gaussian_mean(policy, observations, bfloat16)
            values = critic_values(state["critics"], observations, chosen, bfloat16)[0]
            distances = ((chosen - near) ** 2 * counts[:, None]).mean()
            return self.regularisation * distances - value_weight(values, self.alpha) * values.mean()

        policy_error = self.take_turn(state, batch, policy_loss)
        return {
            "loss/policy": policy_error,
            "loss/critic": critic_error,
            "loss/value": value_error,
            "loss/autoencoder": autoencoder_error,
            "value": following.mean(),
            "advantage": data_advantages.mean(),
        }
