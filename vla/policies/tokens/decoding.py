"""Token distributions: log-probabilities, entropies and sampling at a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from vla.policies.base import one_generator_each
from vla.policies.sampling import Sampling


def temperature_and_noise(sampling: Sampling) -> tuple[float, float]:
    """Of the distribution that log-probabilities are taken of; those of a greedy decision are at temperature 1."""
    return (1.0, 0.0) if sampling.greedy else (sampling.temperature, sampling.token_noise)


@lru_cache(maxsize=8)
def gaussian_rows(num_bins: int, deviation: float) -> torch.Tensor:
    """Distributions [bins, bins]: row t is a Gaussian of `deviation` bins about bin t, cut off at the ends.

    Deviation 0 gives the identity.
    """
    if deviation == 0:
        return torch.eye(num_bins)
    bins = torch.arange(num_bins, dtype=torch.float64)
    return torch.softmax(-0.5 * ((bins[None] - bins[:, None]) / deviation) ** 2, dim=-1).float()


def log_probs_and_entropies(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, token_noise: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of tokens [B, K] sampled from logits [B, K, bins], and entropies [B, K].

    The tokens are those of `sample_tokens`, moved by `add_token_noise` where there is noise; the entropies are those of
    softmax(logits / temperature), without noise.
    """
    log_distribution = torch.log_softmax(logits.float() / temperature, dim=-1)
    distribution = log_distribution.exp()
    entropies = -(distribution * log_distribution).sum(-1)
    if token_noise == 0:
        return log_distribution.gather(-1, tokens[..., None]).squeeze(-1), entropies
    # P(token) = sum over bins of P(bin) P(token | bin)
    from_bins = gaussian_rows(logits.shape[-1], token_noise).T.to(logits.device)[tokens]
    probabilities = (distribution * from_bins).sum(-1)
    return torch.log(probabilities.clamp_min(torch.finfo(torch.float32).tiny)), entropies


def sample_tokens(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling: logits [B, K, bins], uniforms [B, K] in [0, 1) -> tokens [B, K].

    In float64, so that which bin a uniform falls in depends on the logits alone.
    """
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    thresholds = uniforms.to(cumulative) * cumulative[..., -1]
    tokens = torch.searchsorted(cumulative, thresholds[..., None], right=True).squeeze(-1)
    return tokens.clamp_(max=logits.shape[-1] - 1)


def sample_chunks(
    logits: torch.Tensor,
    sampling: Sampling,
    generators: Sequence[np.random.Generator] | None,
    chunk_shape: tuple[int, int],
) -> torch.Tensor:
    """Tokens [B, K] of chunks of `chunk_shape` (H, A) from logits [B, K, bins], by the functions below.

    Raises `ReflexError` unless there is one generator for each of the B.
    """
    each = one_generator_each(generators, len(logits))
    noise = sampling.token_noise
    uniforms = draw_uniforms(each, 2 if noise else 1, chunk_shape, sampling.chunk_correlation).to(logits.device)
    tokens = sample_tokens(logits, sampling.temperature, uniforms[0])
    return add_token_noise(tokens, logits.shape[-1], noise, uniforms[1]) if noise else tokens


def likeliest_tokens(logits: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The mode of each token's distribution [B, K] after smoothing by a Gaussian of `smoothing` bins.

    Neighbouring bins are nearly the same action, so where probability is spread over many, the likeliest single bin is
    an accident; the likeliest neighbourhood is not.
    """
    if smoothing == 0:
        return logits.argmax(-1)
    smooth = torch.softmax(logits.float(), dim=-1) @ gaussian_rows(logits.shape[-1], smoothing).to(logits.device)
    return smooth.argmax(-1)


def add_token_noise(tokens: torch.Tensor, num_bins: int, token_noise: float, uniforms: torch.Tensor) -> torch.Tensor:
    """Move tokens [B, K] by Gaussian noise of `token_noise` bins; uniforms [B, K] in [0, 1) decide.

    Why a policy that learns from its own samples should: a sharp distribution samples within a bin or two, which
    changes nothing that happens and yet fills the gradient, since the score of a bin has the same size however near the
    next bin is. With the noise in the sample and in its probability (`log_probs_and_entropies`) the policy gradient
    stays exact, and credit goes to a neighbourhood of bins instead of one.
    """
    rows = gaussian_rows(num_bins, token_noise).to(tokens.device)[tokens]
    return sample_tokens(torch.log(rows), 1.0, uniforms)


def draw_uniforms(
    generators: Sequence[np.random.Generator], count: int, chunk_shape: tuple[int, int], correlation: float
) -> torch.Tensor:
    """Uniform numbers in [0, 1) for sampling, [count, B, H * A], each environment's from its own generator.

    `chunk_shape` is (H, A); `correlation` is that of `correlated_uniforms`.
    """
    horizon, action_size = chunk_shape
    rows = horizon + 1 if correlation else horizon
    draws = [generator.random((count, rows, action_size)) for generator in generators]
    uniforms = torch.from_numpy(np.stack(draws, axis=1))
    return (correlated_uniforms(uniforms, correlation) if correlation else uniforms).flatten(2)


def correlated_uniforms(uniforms: torch.Tensor, correlation: float) -> torch.Tensor:
    """Draws [..., H + 1, A], independent and uniform in [0, 1) -> [..., H, A], uniform and correlated along H.

    A Gaussian copula: the normal score of each is sqrt(c) times the first row's plus sqrt(1 - c) times its own.

    Why a policy that explores should: a chunk's H steps sampled independently jitter about the same path, which ends
    where it would have ended anyway. Correlated, a chunk as a whole goes further, less far, or to a side, and the
    outcome says which was better. Each token's own distribution, which is what the update takes the gradient of, is
    unchanged; for Gaussian tokens the update then follows the true gradient multiplied by the (positive definite)
    correlation matrix of the steps: towards changes of whole chunks.
    """
    edge = torch.finfo(torch.float64).eps
    scores = torch.special.ndtri(uniforms.double().clamp(edge, 1.0 - edge))
    shared, own = scores[..., :1, :], scores[..., 1:, :]
    mixed: torch.Tensor = torch.special.ndtr(correlation**0.5 * shared + (1.0 - correlation) ** 0.5 * own)
    return mixed.clamp(max=1.0 - edge)


def token_losses(logits: torch.Tensor, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean divergence KL(target || policy) of each sample, [B], from logits [B, K, bins] and tokens [B, K].

    `targets` are from `gaussian_rows`. Their entropy is subtracted, so that a perfect fit gives 0 whatever the
    smoothing.
    """
    entropy = -torch.special.xlogy(targets, targets).sum(-1)
    cross_entropy = -(targets[tokens] * torch.log_softmax(logits.float(), dim=-1)).sum(-1)
    divergence: torch.Tensor = cross_entropy - entropy[tokens]
    return divergence.mean(dim=1)
