"""Continuing the actions under way: weights and guidance by hand, and what a policy's chunks make of a prefix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.errors import ReflexError
from vla.policies.flow.prefix import Prefix, guidance_scale, guided_velocity, prefix_weights


def test_weights_are_full_for_the_delay_then_fall_then_are_zero() -> None:
    weights = prefix_weights(length=5, delay=2, horizon=8)
    expected = [c * (math.exp(c) - 1) / (math.e - 1) for c in (3 / 4, 2 / 4, 1 / 4)]
    assert weights.tolist() == pytest.approx([1.0, 1.0, *expected, 0.0, 0.0, 0.0])


@given(st.integers(1, 20), st.data())
def test_weights_never_rise_and_lie_in_0_to_1(length: int, data: st.DataObject) -> None:
    weights = prefix_weights(length, data.draw(st.integers(0, length)), data.draw(st.integers(length, 30)))
    assert (np.diff(weights) <= 1e-7).all() and weights.min() >= 0.0 and weights.max() <= 1.0


def test_guidance_is_bounded_where_it_would_be_infinite() -> None:
    assert guidance_scale(0.0, 5.0) == 5.0
    # (1 - t) / (t r^2) at t = 1/2: r^2 = (1/4) / (1/2), so 1 / (1/2) = 2
    assert guidance_scale(0.5, 5.0) == pytest.approx(2.0)
    assert guidance_scale(0.999, 5.0) == 5.0


def test_the_pull_of_a_known_field_is_the_gradient_by_hand() -> None:
    """v(x) = 2 x at t = 1/2: x1 = x + x = 2 x, J = 2, so v' = 2 x + 2 * 2 * w * (y - 2 x)."""
    x = torch.tensor([[[1.0], [3.0]]])
    targets, weights = torch.tensor([[[5.0], [5.0]]]), torch.tensor([1.0, 0.5])
    guided = guided_velocity(lambda at: 2.0 * at, x, 0.5, targets, weights, most=5.0)
    assert guided.flatten().tolist() == pytest.approx([2.0 + 4.0 * 3.0, 6.0 + 4.0 * 0.5 * -1.0])


@pytest.mark.parametrize("most", [0.5, 2.0])
def test_denoising_a_gaussian_ends_near_the_prefix_where_it_has_weight(most: float) -> None:
    """Data N(0, 1): the exact velocity is (2 t - 1) x / ((1 - t)^2 + t^2)."""
    steps, targets = 40, torch.tensor([[[0.8], [0.8], [0.8]]])

    def denoise(weights: torch.Tensor) -> torch.Tensor:
        x = torch.tensor([[[-0.5], [-0.5], [-0.5]]])
        for step in range(steps):
            t = step / steps
            field = (2 * t - 1) / ((1 - t) ** 2 + t**2)
            x = x + guided_velocity(lambda at, f=field: f * at, x, t, targets, weights, most) / steps  # type: ignore[misc]
        return x

    free, pulled = denoise(torch.zeros(3)), denoise(torch.tensor([1.0, 0.3, 0.0]))
    errors = (pulled - targets).abs().flatten()
    assert errors[0] < errors[1] < errors[2]
    assert pulled[0, 2] == pytest.approx(float(free[0, 2]), abs=1e-6), "without weight nothing changes"


def test_a_prefix_that_cannot_be_is_refused() -> None:
    actions = np.zeros((3, 2), np.float32)
    with pytest.raises(ReflexError, match="delay of 0 to R"):
        Prefix(actions, 4)
    with pytest.raises(ReflexError, match="not finite"):
        Prefix(np.full((3, 2), np.nan, np.float32), 1)
    with pytest.raises(ReflexError, match="does not fit a chunk of 2"):
        Prefix(actions, 1).padded(2)
    assert Prefix(np.arange(6, dtype=np.float32).reshape(3, 2), 1).padded(5)[:, 0].tolist() == [0, 2, 4, 4, 4]
