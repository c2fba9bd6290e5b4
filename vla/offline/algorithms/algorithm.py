"""What offline algorithms have in common: a batch, a state made of mappings, and the arithmetic of optimisers.

An algorithm is a frozen dataclass of its settings with two methods. `initial_state` makes networks and the moments of
their optimisers; `update` changes them in place by one batch. An update is arithmetic on tensors and nothing else, so
that it can be compiled, captured as a CUDA graph, stored and tested as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from vla.policies.gaussian.perceptron import Parameters, new_perceptron, perceptron
from vla.policies.gaussian.policy import gaussian_mean, log_density, log_deviations
from vla.run.settings import Checks

State = dict[str, Parameters]
"""Networks by name, with "NAME.mean" and "NAME.square" for the moments of Adam."""

Metrics = dict[str, Tensor]
"""Scalars."""


class Batch(NamedTuple):
    """B transitions, normalised: what an update learns from."""

    observations: Tensor
    """[B, O] of mean 0 and deviation 1 over the data."""
    actions: Tensor
    """[B, K] in [-1, 1]."""
    rewards: Tensor
    """[B]"""
    discounts: Tensor
    """[B] what the value after the transition counts: 0 after a terminal."""
    next_observations: Tensor
    """[B, O]"""
    noise: Tensor
    """[B, `noise_size`] standard normal numbers."""
    step: Tensor
    """[] number of this update, from 1."""
    progress: Tensor
    """[] share of all updates that are done, from 0."""


@dataclass(frozen=True)
class Sizes:
    """Of the networks."""

    observation: int
    """O"""
    action: int
    """K: numbers of an action, or of a chunk of them."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""

    def policy(self) -> list[int]:
        """Layers of a network from observations to actions."""
        return [self.observation, *self.hidden, self.action]

    def value(self) -> list[int]:
        """Layers of a network from observations to a value."""
        return [self.observation, *self.hidden, 1]

    def critic(self) -> list[int]:
        """Layers of a network from observations and actions to a value."""
        return [self.observation + self.action, *self.hidden, 1]


@dataclass(frozen=True)
class Algorithm(ABC):
    """One way to learn from transitions. A file each in `vla/offline/algorithms`, or package.module:Class."""

    Settings: ClassVar[type[Any]]
    """What can be set of it: the class itself (`vla.run.plugins.settings_of`)."""

    discount: float = 0.99
    """Of rewards, a control step."""
    learning_rate: float = 3e-4
    """Of every network."""

    def __init_subclass__(cls) -> None:
        cls.Settings = cls

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self)
        check.literals()
        check.within(0, 1, "discount")
        check.positive("learning_rate")

    def noise_size(self, sizes: Sizes) -> int:
        """Standard normal numbers that an update needs for each transition."""
        return 0

    @abstractmethod
    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """Networks and moments before the first update; "policy" among them is the `policy` given.

        Random weights are drawn from torch's global generator.
        """

    @abstractmethod
    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """Change the state by one batch, in place; returns scalars to show.

        `bfloat16` is as of `vla.policies.gaussian.perceptron.hidden_layers`.
        """

    def advantages(self, state: State, observations: Tensor, actions: Tensor) -> Tensor | None:
        """[B] how much better actions [B, K] are than what is usual after the observations; None without critics."""
        return None


def twin_critics(sizes: Sizes) -> Parameters:
    """Two networks that judge actions, each with its own random weights."""
    return new_perceptron(sizes.critic(), members=2)


def critic_values(critics: Parameters, observations: Tensor, actions: Tensor, bfloat16: bool = False) -> Tensor:
    """[2, B] what both critics make of actions [B, K]."""
    return perceptron(critics, torch.cat([observations, actions], dim=-1), bfloat16)[..., 0]


def copied(parameters: Parameters) -> Parameters:
    """A copy that starts a target network."""
    return {key: value.clone() for key, value in parameters.items()}


def with_moments(networks: State, learning: tuple[str, ...]) -> State:
    """The networks, and moments of 0 for those that are learnt."""
    state = dict(networks)
    for name in learning:
        for moment in ("mean", "square"):
            state[f"{name}.{moment}"] = {key: torch.zeros_like(value) for key, value in networks[name].items()}
    return state


def adam(
    state: State,
    name: str,
    gradients: Parameters,
    step: Tensor,
    rate: Tensor | float,
    due: Tensor | float = 1.0,
) -> None:
    """One step of Adam (arXiv 1412.6980, betas 0.9 and 0.999, epsilon 1e-8) on a network, in place.

    `step` [] counts the network's own steps, from 1. Where `due` [] is 0 and not 1, nothing changes: an update that
    some networks sit out stays one function without branches.
    """
    first_correction, second_correction = 1.0 - 0.9**step, 1.0 - 0.999**step
    for key, gradient in gradients.items():
        mean, square = state[f"{name}.mean"][key], state[f"{name}.square"][key]
        mean.lerp_(gradient, 0.1 * due)
        square.lerp_(gradient * gradient, 0.001 * due)
        change = mean / first_correction / ((square / second_correction).sqrt() + 1e-8)
        state[name][key].sub_(due * rate * change)


def temporal_difference_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Mean of (Q_i - target)^2 over critics and transitions: values [2, B], targets [B]."""
    return ((values - targets) ** 2).mean()


def fit_critics(state: State, batch: Batch, targets: Tensor, rate: float, bfloat16: bool) -> Tensor:
    """A step of the critics towards targets [B] of the batch's actions, in place; returns their loss before it."""

    def loss(critics: Parameters) -> Tensor:
        return temporal_difference_loss(critic_values(critics, batch.observations, batch.actions, bfloat16), targets)

    gradients, value = grad_and_value(loss)(state["critics"])
    error: Tensor = value
    adam(state, "critics", gradients, batch.step, rate)
    return error


def imitate(state: State, batch: Batch, rate: Tensor | float, bfloat16: bool, weights: Tensor | float = 1.0) -> Tensor:
    """A step of the policy towards the batch's actions, in place, each counting its weight [B].

    Returns the weighted negative log-likelihood before it.
    """

    def loss(policy: Parameters) -> Tensor:
        mean = gaussian_mean(policy, batch.observations, bfloat16)
        return -(weights * log_density(batch.actions, mean, log_deviations(policy))).mean()

    gradients, value = grad_and_value(loss)(state["policy"])
    error: Tensor = value
    adam(state, "policy", gradients, batch.step, rate)
    return error


def follow(state: State, target: str, source: str, share: Tensor | float) -> None:
    """Move a target network by `share` of the way to its source, in place (Polyak averaging)."""
    for key, value in state[target].items():
        value.lerp_(state[source][key], share)


def cosine(rate: float, progress: Tensor) -> Tensor:
    """A learning rate that falls from `rate` to 0 along half a cosine."""
    return rate * 0.5 * (1.0 + torch.cos(torch.pi * progress))
