"""How the logs act: a mixture of Gaussians about perceptrons of the observation, for rollouts of a model.

Logs have several ways to go on from one state, and the mean of two ways is neither. MBRCSL (arXiv 2310.19308) takes a
diffusion model for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad_and_value

from vla.offline.algorithms.algorithm import adam, with_moments
from vla.policies.gaussian.perceptron import Parameters, new_perceptron, perceptron
from vla.policies.gaussian.policy import log_density

COMPONENTS = 8
"""Gaussians of the mixture."""
BATCH_SIZE = 256
LEARNING_RATE = 3e-3
LEAST_LOG_DEVIATION = -4.0
"""Of actions at a deviation of 1 over the data: a narrower Gaussian is memory, not behaviour."""


@dataclass(frozen=True)
class Behaviour:
    """A mixture that was fitted; observations and actions are in their own units."""

    parameters: Parameters
    observation_mean: Tensor
    """[O]"""
    observation_scale: Tensor
    """[O]"""
    action_mean: Tensor
    """[K]"""
    action_scale: Tensor
    """[K]"""
    action_range: Tensor
    """[2, K] the least and greatest of the data."""

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """[B, K] actions drawn for observations [B, O]."""
        seen = (observations - self.observation_mean) / self.observation_scale
        chances, means, log_deviations = mixture(self.parameters, seen)
        chosen = torch.multinomial(chances.exp().cpu(), 1, generator=generator)[:, 0].to(seen.device)
        rows = torch.arange(len(seen), device=seen.device)
        noise = torch.randn(means[:, 0].shape, generator=generator).to(seen.device)
        drawn = means[rows, chosen] + log_deviations[chosen].exp() * noise
        actions = drawn * self.action_scale + self.action_mean
        return actions.clamp(self.action_range[0], self.action_range[1])


def mixture(parameters: Mapping[str, Tensor], observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised observations [B, O] -> logarithms of chances [B, C], means [B, C, K], log-deviations [C, K]."""
    log_deviations = parameters["log_deviation"].clamp(LEAST_LOG_DEVIATION, 2.0)
    count, size = log_deviations.shape
    values = perceptron(parameters, observations)
    means = values[:, count:].reshape(-1, count, size)
    return torch.log_softmax(values[:, :count], dim=1), means, log_deviations


def mixture_loss(parameters: Mapping[str, Tensor], observations: Tensor, actions: Tensor) -> Tensor:
    """[] the mean negative log-likelihood of normalised actions [B, K]: -log sum_c chance_c N(a; mean_c, s_c)."""
    chances, means, log_deviations = mixture(parameters, observations)
    return -torch.logsumexp(chances + log_density(actions[:, None], means, log_deviations), dim=1).mean()


def fit_behaviour(
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    hidden: tuple[int, ...],
    updates: int,
    seed: int,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
) -> Behaviour:
    """Fit a mixture to actions [N, K] after observations [N, O]; torch's global generator is left alone."""
    seen, acted = torch.from_numpy(observations).to(device), torch.from_numpy(actions).to(device)
    scales = [_scale(seen), _scale(acted)]
    seen, acted = ((values - mean) / scale for values, (mean, scale) in zip((seen, acted), scales, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (observations.shape[1], *hidden, COMPONENTS * (1 + actions.shape[1]))
        parameters = new_perceptron(sizes) | {"log_deviation": torch.full((COMPONENTS, actions.shape[1]), -1.0)}
    state = with_moments({"behaviour": {key: value.to(device) for key, value in parameters.items()}}, ("behaviour",))
    generator = torch.Generator().manual_seed(seed)
    for number in range(updates):
        rows = torch.randint(len(seen), (BATCH_SIZE,), generator=generator).to(device)
        gradients, _ = grad_and_value(mixture_loss)(state["behaviour"], seen[rows], acted[rows])
        adam(state, "behaviour", gradients, torch.tensor(number + 1.0, device=device), LEARNING_RATE)
        if on_progress is not None and number % 100 == 0:
            on_progress(number)
    reach = torch.from_numpy(np.stack([actions.min(axis=0), actions.max(axis=0)])).to(device)
    return Behaviour(state["behaviour"], *scales[0], *scales[1], reach)


def _scale(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [D] of values [N, D]; 1 for a number that never changes."""
    deviation = values.std(0, correction=0)
    return values.mean(0), torch.where(deviation < 1e-6, 1.0, deviation)
