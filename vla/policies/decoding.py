"""Token distributions: log-probabilities, entropies and sampling at a temperature."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from vla.errors import ReflexError


def check_temperature(temperature: float) -> None:
    """Raises `ReflexError` unless the temperature is a finite positive number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ReflexError(
            f"temperature is {temperature}; it must be a positive number (mode 'greedy' takes the argmax)"
        )


def log_probs_and_entropies(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of tokens [B, K] under softmax(logits [B, K, bins] / temperature); entropies; both [B, K]."""
    log_distribution = torch.log_softmax(logits.float() / temperature, dim=-1)
    log_probs = log_distribution.gather(-1, tokens[..., None]).squeeze(-1)
    entropies = -(log_distribution.exp() * log_distribution).sum(-1)
    return log_probs, entropies


def sample_tokens(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling: logits [B, K, bins], uniforms [B, K] in [0, 1) -> tokens [B, K].

    In float64, so that which bin a uniform falls in depends on the logits alone.
    """
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    thresholds = uniforms.to(cumulative) * cumulative[..., -1]
    tokens = torch.searchsorted(cumulative, thresholds[..., None], right=True).squeeze(-1)
    return tokens.clamp_(max=logits.shape[-1] - 1)


def chunk_uniforms(
    generator: np.random.Generator, horizon: int, action_size: int, correlation: float
) -> NDArray[np.float64]:
    """Uniforms [horizon * action_size] for `sample_tokens`, step-major; those of one action dimension are correlated.

    A Gaussian copula: u = Phi(sqrt(c) * shared[dimension] + sqrt(1 - c) * own[step, dimension]). Each token keeps its
    own distribution and log-probability; only what is drawn together changes. Independent draws of a chunk's steps
    average out along the chunk, so that a sharp policy explores next to nothing; correlated ones move the whole chunk.
    Summing per-token scores, as the policy gradient here does, then gives C times the gradient of independent sampling
    to first order, C the (positive definite) correlation matrix: an ascent direction, smoothed along the chunk. Kin to
    coloured noise in continuous control (Eberhard et al., "Pink noise is all you need", ICLR 2023).

    Raises `ReflexError` when `correlation` is outside [0, 1).
    """
    if not 0.0 <= correlation < 1.0:
        raise ReflexError(f"chunk_correlation is {correlation}; it must lie in [0, 1)")
    if correlation == 0.0:
        return generator.random(horizon * action_size)
    own = generator.standard_normal((horizon, action_size))
    shared = generator.standard_normal(action_size)
    return np.asarray(ndtr(np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own)).reshape(-1)
