"""Token distributions: log-probabilities, entropies and sampling at a temperature."""

from __future__ import annotations

import math

import torch

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
