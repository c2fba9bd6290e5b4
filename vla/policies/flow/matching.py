"""Flow matching: the loss, the ODE that samples, and two stochastic samplers whose log-probabilities are known.

Convention of pi0 (arXiv 2410.24164, section IV): time runs from 0, noise, to 1, data, on the straight path
x_t = (1 - t) noise + t data, whose velocity is data - noise. A network learns the velocity v(x, t), the mean of that
difference given x_t; noise and data that it implies at x_t are x - t v and x + (1 - t) v.

Both samplers are of pi_RL (arXiv 2510.25889). "sde", Flow-SDE, turns the ODE into a stochastic differential equation
with the same distribution at every time, by the score -(x - t v) / (1 - t) of the straight path:

    dx = (v - sigma^2 / (2 (1 - t)) (x - t v)) dt + sigma dw,   sigma^2 = a^2 (1 - t) / t,

where a is the noise level (Flow-GRPO, arXiv 2505.05470, whose time runs the other way). "learned", Flow-Noise, keeps
the ODE's mean step and adds noise whose deviation a second network gives. In both, a step given its start is a
Gaussian, so a whole chain of steps has a density: the product over its steps, and the initial noise's, which no
parameter changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """The Gaussian that one step is drawn from, independent in every entry."""

    mean: Tensor
    """[..., H, A]"""
    deviation: Tensor
    """Broadcasts against `mean`; 0 where the step is certain."""

    def draw(self, standard_normals: Tensor) -> Tensor:
        """[..., H, A] what the step comes to, by standard normal numbers [..., H, A]."""
        return self.mean + self.deviation * standard_normals

    def log_density(self, values: Tensor) -> Tensor:
        """[..., H] log-densities of values [..., H, A], summed over the action's A entries. Deviations are above 0."""
        deviation = self.deviation.expand_as(self.mean)
        scores = (values - self.mean) / deviation
        return (-0.5 * scores**2 - torch.log(deviation) - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """[..., H] in nats, summed over the action's A entries: log(deviation) + log(2 pi e) / 2 each."""
        return (torch.log(self.deviation.expand_as(self.mean)) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def interpolate(noise: Tensor, data: Tensor, times: Tensor) -> Tensor:
    """The path's point (1 - t) noise + t data; `times` broadcasts against the others."""
    return (1.0 - times) * noise + times * data


def squared_errors(velocity: Tensor, noise: Tensor, data: Tensor) -> Tensor:
    """[...] the conditional flow-matching loss of each chunk: mean over [H, A] of (velocity - (data - noise))^2.

    Its minimum over functions of (x_t, t) is the velocity that carries noise to data's distribution (Lipman et al.,
    arXiv 2210.02747, theorem 2).
    """
    return ((velocity - (data - noise)) ** 2).mean(dim=(-2, -1))


def training_times(uniforms: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) -> times in (0, 0.999], more of them near noise.

    t = 0.999 (1 - b), b ~ Beta(1.5, 1) = uniform^(2/3): pi0, appendix B. Near noise is where an observation decides
    which action it will be; near the end there is little left to learn.
    """
    return 0.999 * (1.0 - uniforms ** (2.0 / 3.0))


def euler_step(x: Tensor, velocity: Tensor, steps: int) -> Tensor:
    """x after one of K equal steps of the ODE dx = v dt."""
    return x + velocity / steps


def sde_step(x: Tensor, velocity: Tensor, times: Tensor, steps: int, noise_level: float) -> Transition:
    """Flow-SDE's step of length 1 / K (Euler-Maruyama) from x at `times`, which broadcasts against x.

    The t under sigma^2's fraction is at least 1 / K: at t = 0 sigma would be infinite, and any other sigma keeps the
    distributions too. With it, the first step's deviation is a, the last one's a / sqrt(K (K - 1)).
    """
    bounded = times.clamp(min=1.0 / steps)
    implied_noise = x - times * velocity
    drift = velocity - noise_level**2 / (2.0 * bounded) * implied_noise
    deviation = noise_level * torch.sqrt((1.0 - times) / (bounded * steps))
    return Transition(x + drift / steps, deviation)


def learned_step(x: Tensor, velocity: Tensor, steps: int, deviation: Tensor) -> Transition:
    """Flow-Noise's step of length 1 / K: the ODE's, with noise of a deviation that a network gives."""
    return Transition(euler_step(x, velocity, steps), deviation)


def correlate_steps(normals: Tensor, correlation: float) -> Tensor:
    """Standard normal numbers [..., H + 1, A], independent -> [..., H, A], standard normal and correlated along H.

    Each is sqrt(c) times the first row plus sqrt(1 - c) times its own, so that a chunk as a whole goes further or to a
    side, as `vla.policies.decoding.correlated_uniforms` has it for tokens. Each action's own density stays what
    `Transition.log_density` says; their sum is the chain's log-density only without correlation.
    """
    shared, own = normals[..., :1, :], normals[..., 1:, :]
    correlated: Tensor = correlation**0.5 * shared + (1.0 - correlation) ** 0.5 * own
    return correlated
