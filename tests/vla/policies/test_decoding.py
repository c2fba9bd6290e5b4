"""Noisy tokens: their distribution by hand, by sampling, and as a gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.policies.tokens.decoding import (
    add_token_noise,
    correlated_uniforms,
    gaussian_rows,
    likeliest_tokens,
    log_probs_and_entropies,
    sample_tokens,
    token_losses,
)


def test_rows_by_hand() -> None:
    rows = gaussian_rows(3, 1.0)
    near, far = math.exp(-0.5), math.exp(-2.0)
    torch.testing.assert_close(rows[1], torch.tensor([near, 1.0, near]) / (1 + 2 * near))
    torch.testing.assert_close(rows[0], torch.tensor([1.0, near, far]) / (1 + near + far))
    assert torch.equal(gaussian_rows(3, 0.0), torch.eye(3))


def test_a_noisy_token_s_probability_by_hand() -> None:
    # Bins 0 and 2 with probabilities 3/4 and 1/4: token 1 is reached from both.
    logits = torch.log(torch.tensor([[[0.75, 1e-12, 0.25]]]))
    rows = gaussian_rows(3, 1.0)
    expected = 0.75 * rows[0, 1] + 0.25 * rows[2, 1]
    log_probs, entropies = log_probs_and_entropies(logits, torch.tensor([[1]]), 1.0, token_noise=1.0)
    assert log_probs.item() == pytest.approx(math.log(expected))
    assert entropies.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.floats(0.3, 20.0), st.floats(0.3, 3.0), st.integers(0, 2**31 - 1))
def test_probabilities_of_all_tokens_sum_to_one(bins: int, noise: float, temperature: float, seed: int) -> None:
    logits = torch.randn(1, 1, bins, generator=torch.Generator().manual_seed(seed)) * 4
    every = torch.arange(bins)[None]
    log_probs, _ = log_probs_and_entropies(logits.expand(1, bins, bins), every, temperature, noise)
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_samples_follow_the_probabilities() -> None:
    count, bins, noise = 40_000, 8, 1.5
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([4.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    first, second = torch.rand(2, 1, count, generator=generator, dtype=torch.float64)
    tokens = sample_tokens(logits.expand(1, count, bins), 1.0, first)
    noisy = add_token_noise(tokens, bins, noise, second)
    shares = torch.bincount(noisy[0], minlength=bins) / count
    every = torch.arange(bins)[None]
    log_probs, _ = log_probs_and_entropies(logits.expand(1, bins, bins), every, 1.0, noise)
    torch.testing.assert_close(shares, log_probs[0].exp(), atol=0.01, rtol=0)


def test_noise_shrinks_the_score_of_a_sharp_token_and_keeps_its_direction() -> None:
    """Sampling one bin instead of its neighbour says next to nothing, and with noise the gradient says so."""
    norms = []
    for noise in (0.0, 8.0):
        logits = torch.full((1, 1, 64), -20.0)
        logits[..., 31:33] = 0.0
        logits.requires_grad_()
        log_probs, _ = log_probs_and_entropies(logits, torch.tensor([[32]]), 1.0, noise)
        (gradient,) = torch.autograd.grad(log_probs.sum(), logits)
        assert gradient[0, 0, 32] > 0 > gradient[0, 0, 31]
        norms.append(float(gradient.norm()))
    assert norms[1] < 0.1 * norms[0]


def test_the_likeliest_neighbourhood_beats_a_lone_peak() -> None:
    logits = torch.full((1, 1, 64), -9.0)
    logits[..., 5] = 1.0  # the likeliest bin
    logits[..., 40:47] = 0.5  # far likelier together
    assert likeliest_tokens(logits, 0.0).item() == 5
    assert likeliest_tokens(logits, 2.0).item() == 43


def test_correlated_draws_stay_uniform_and_agree_along_a_chunk() -> None:
    draws = torch.from_numpy(np.random.default_rng(0).random((20_000, 9, 2)))
    mixed = correlated_uniforms(draws, 0.5)
    assert mixed.shape == (20_000, 8, 2) and mixed.min() >= 0.0 and mixed.max() < 1.0
    quantiles = torch.quantile(mixed[:, 3, 0], torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), atol=0.015, rtol=0)
    scores = torch.special.ndtri(mixed)
    together = torch.corrcoef(torch.stack([scores[:, 0, 0], scores[:, 7, 0], scores[:, 0, 1]]))
    assert abs(float(together[0, 1]) - 0.5) < 0.02, "two steps of one dimension"
    assert abs(float(together[0, 2])) < 0.03, "two dimensions"


def test_without_correlation_each_step_keeps_its_own_draw() -> None:
    draws = torch.tensor([[[0.9], [0.1], [0.5], [0.0]]], dtype=torch.float64)
    torch.testing.assert_close(correlated_uniforms(draws, 0.0), draws[:, 1:], atol=1e-12, rtol=0)


def test_loss_is_zero_exactly_at_the_targets_and_cross_entropy_without_smoothing() -> None:
    targets = gaussian_rows(6, 0.7)
    tokens = torch.tensor([[0, 3, 5]])
    assert token_losses(torch.log(targets[tokens]), tokens, targets).item() == pytest.approx(0.0, abs=1e-6)
    logits = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits[0], tokens[0])
    assert token_losses(logits, tokens, torch.eye(6)).item() == pytest.approx(expected.item(), abs=1e-6)
    two = token_losses(logits.expand(2, 3, 6), torch.tensor([[0, 3, 5], [1, 1, 1]]), torch.eye(6))
    assert two.shape == (2,) and two[0] == pytest.approx(expected.item(), abs=1e-6) and two[1] != two[0]
