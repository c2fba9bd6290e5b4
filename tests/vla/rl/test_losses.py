"""The clipped loss, worked by hand, and its telemetry."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vla.rl.losses import clipped_objective, k3_divergence, policy_loss


def objective(ratio: float, advantage: float, dual_clip: float | None = None) -> tuple[float, bool, float]:
    """(objective, cut, gradient with respect to the log-probability) of one token."""
    log_prob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value, cut = clipped_objective(
        log_prob, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[advantage]]).double(), dual_clip=dual_clip
    )
    value.sum().backward()
    assert log_prob.grad is not None
    return float(value.detach()), bool(cut), float(log_prob.grad)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "cut"),
    [
        (1.0, 2.0, 2.0, False),
        (1.27, 1.0, 1.27, False),  # inside the higher upper bound, outside the symmetric one
        (1.5, 1.0, 1.28, True),
        (0.5, 1.0, 0.5, False),  # a good token that became unlikely still learns
        (0.5, -1.0, -0.8, True),
        (1.5, -1.0, -1.5, False),
        (0.81, -1.0, -0.81, False),
    ],
)
def test_asymmetric_clip(ratio, advantage, value, cut):
    got, was_cut, gradient = objective(ratio, advantage)
    assert got == pytest.approx(value)
    assert was_cut is cut
    assert gradient == pytest.approx(0 if cut else ratio * advantage)


def test_dual_clip_bounds_a_negative_advantage():
    assert objective(8.0, -1.0)[0] == pytest.approx(-8)
    assert objective(8.0, -1.0, dual_clip=3.0) == (pytest.approx(-3), True, 0.0)
    assert objective(8.0, 1.0, dual_clip=3.0)[0] == pytest.approx(1.28)


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
@example(0.0, 4.436103276400535e-06)
@example(1.5, 1.5)
def test_k3_is_never_negative_and_zero_only_for_equal(p, q):
    """By Taylor's theorem e^x - 1 - x = x^2 / 2 * e^y for a y between 0 and x: positive unless x is 0."""
    value = float(k3_divergence(torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)))
    x = q - p
    assert value >= -1e-12
    assert x**2 / 2 * math.exp(min(x, 0.0)) - 1e-13 <= value <= x**2 / 2 * math.exp(max(x, 0.0)) + 1e-13


def test_k3_is_unbiased():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    expected = float((p * (p / q).log()).sum())
    assert float((p * k3_divergence(p.log(), q.log())).sum()) == pytest.approx(expected, abs=1e-6)


def batch() -> dict[str, torch.Tensor]:
    return {
        "log_probs": torch.log(torch.tensor([[0.5, 0.2], [0.1, 0.9]])).requires_grad_(),
        "old_log_probs": torch.log(torch.tensor([[0.5, 0.1], [0.2, 0.9]])),
        "entropies": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "advantages": torch.tensor([1.0, -2.0]),
        "mask": torch.tensor([[True, True], [True, False]]),
        "weights": torch.tensor([1.0, 0.5]),
    }


def test_loss_worked_by_hand():
    # Ratios 1, 2 | 0.5 (masked token left out): -(1 + 1.28) * 1 - (-2 * 0.8) * 0.5.
    terms = policy_loss(**batch())
    assert float(terms.loss.detach()) == pytest.approx(-2.28 + 0.8)
    assert (terms.units, terms.clipped, terms.entropy) == (3, 2.0, 6.0)
    assert isinstance(terms.units, int)
    # k3 of KL(old || new): ratio - 1 - log ratio = 0, 1 - log 2, -0.5 + log 2.
    assert terms.approximate_kl == pytest.approx(0.5)
    assert terms.reference_kl == 0


def test_the_distance_that_stops_an_update_is_from_the_sampling_policy_to_the_present_one():
    """KL(old || new) of a ratio is ratio - 1 - log ratio, which is another number than that of KL(new || old)."""
    new, old = torch.log(torch.tensor([[0.4, 0.1]])), torch.log(torch.tensor([[0.2, 0.4]]))
    terms = policy_loss(
        new.requires_grad_(), old, torch.zeros(1, 2), torch.ones(1), torch.ones(1, 2, dtype=torch.bool), torch.ones(1)
    )
    expected = (2 - 1 - math.log(2)) + (0.25 - 1 - math.log(0.25))
    assert terms.approximate_kl == pytest.approx(expected, abs=1e-6)


RATIOS, ADVANTAGES = st.floats(0.05, 20.0), st.integers(-300, 300).map(lambda hundredths: hundredths / 100)


@settings(max_examples=60, deadline=None)
@given(RATIOS, ADVANTAGES, st.floats(0.0, 0.9), st.floats(0.0, 2.0))
def test_a_clip_never_promises_more_than_the_ratio_and_cuts_only_where_it_differs(ratio, advantage, low, high):
    log_prob = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
    zero, given_advantage = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[advantage]], dtype=torch.float64)
    value, cut = clipped_objective(log_prob, zero, given_advantage, low, high)
    held = min(max(ratio, 1 - low), 1 + high)
    assert float(value) == pytest.approx(min(ratio * advantage, held * advantage), abs=1e-9)
    assert float(value) <= ratio * advantage + 1e-9
    if ratio * advantage - held * advantage > 1e-9:
        assert bool(cut)
    elif abs(ratio - held) < 1e-12 or held * advantage > ratio * advantage:
        assert not bool(cut)
    # A wider clip is a looser bound.
    wider, _ = clipped_objective(log_prob, zero, given_advantage, min(low + 0.05, 1.0), high + 0.05)
    assert float(wider) >= float(value) - 1e-9


@settings(max_examples=60, deadline=None)
@given(RATIOS, ADVANTAGES, st.floats(1.3, 5.0))
def test_a_dual_clip_bounds_what_a_bad_token_costs_and_touches_no_other(ratio, advantage, bound):
    assume(abs(ratio - bound) > 1e-6)
    plain, dual = objective(ratio, advantage), objective(ratio, advantage, dual_clip=bound)
    if advantage >= 0 or ratio <= bound:
        assert dual == plain
    else:
        assert dual[0] == pytest.approx(bound * advantage) and dual[1:] == (True, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000))
def test_sums_over_parts_are_the_sum_over_the_whole(seed):
    generator = torch.Generator().manual_seed(seed)
    arguments = {
        "log_probs": -torch.rand(6, 3, generator=generator), "old_log_probs": -torch.rand(6, 3, generator=generator),
        "entropies": torch.rand(6, 3, generator=generator), "advantages": torch.randn(6, generator=generator),
        "mask": torch.rand(6, 3, generator=generator) < 0.7, "weights": torch.rand(6, generator=generator),
        "reference_log_probs": -torch.rand(6, 3, generator=generator),
    }  # fmt: skip
    coefficients = {"kl_coefficient": 0.2, "entropy_coefficient": 0.1}
    whole = policy_loss(**arguments, **coefficients)
    parts = [
        policy_loss(**{name: value[rows] for name, value in arguments.items()}, **coefficients)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    for name in vars(whole):
        assert float(getattr(whole, name)) == pytest.approx(sum(float(getattr(part, name)) for part in parts), abs=1e-4)


def test_masked_tokens_get_no_gradient():
    arguments = batch()
    policy_loss(**arguments).loss.backward()
    assert arguments["log_probs"].grad[1, 1] == 0
    assert arguments["log_probs"].grad[0, 0] != 0


def test_the_reference_penalty_pulls_back():
    arguments = batch() | {"advantages": torch.zeros(2)}
    reference = torch.log(torch.tensor([[0.5, 0.4], [0.1, 0.9]]))
    terms = policy_loss(**arguments, reference_log_probs=reference, kl_coefficient=0.1)
    terms.loss.backward()
    gradient = arguments["log_probs"].grad
    assert terms.reference_kl == pytest.approx(2 - 1 - math.log(2))
    assert float(terms.loss.detach()) == pytest.approx(0.1 * (1 - math.log(2)))
    assert gradient[0, 1] < 0 and gradient[0, 0] == 0  # descending raises the probability the reference has more of


def test_the_entropy_bonus_lowers_the_loss():
    base, bonus = policy_loss(**batch()), policy_loss(**batch(), entropy_coefficient=0.1)
    assert float((base.loss - bonus.loss).detach()) == pytest.approx(0.1 * (1 + 2) + 0.1 * 3 * 0.5)


def test_coefficients_are_zero_where_none_are_given():
    """A reference alone is only measured."""
    reference = torch.log(torch.tensor([[0.5, 0.4], [0.1, 0.9]]))
    plain, measured = policy_loss(**batch()), policy_loss(**batch(), reference_log_probs=reference)
    assert float(measured.loss.detach()) == float(plain.loss.detach()) and measured.reference_kl > 0
