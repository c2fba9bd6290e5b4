"""The likelihood of preferences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.offline.reward_model.bradley_terry import agreement, negative_log_likelihood, targets_of

DIFFERENCES = st.floats(-50, 50)
RATES = st.floats(0, 0.49)


def likelihood(difference: float, target: float, error_rate: float = 0.0) -> float:
    tensors = torch.tensor([difference], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)
    return float(negative_log_likelihood(*tensors, error_rate)[0])


def test_by_hand() -> None:
    # p = 1 / (1 + exp(-log 3)) = 3 / 4; with a tenth of the answers wrong p' = 0.8 * 0.75 + 0.1 = 0.7.
    assert likelihood(math.log(3), 1) == pytest.approx(-math.log(0.75))
    assert likelihood(math.log(3), 0) == pytest.approx(-math.log(0.25))
    assert likelihood(math.log(3), 1, 0.1) == pytest.approx(-math.log(0.7))
    assert likelihood(math.log(3), 0, 0.1) == pytest.approx(-math.log(0.3))
    assert likelihood(math.log(3), 0.5) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


@given(DIFFERENCES, RATES)
def test_both_answers_together_are_certain(difference: float, rate: float) -> None:
    both = math.exp(-likelihood(difference, 1, rate)) + math.exp(-likelihood(difference, 0, rate))
    assert both == pytest.approx(1)


@given(DIFFERENCES, st.sampled_from([0, 0.5, 1]), RATES)
def test_exchanging_the_moments_and_the_answer_changes_nothing(difference: float, target: float, rate: float) -> None:
    assert likelihood(difference, target, rate) == pytest.approx(likelihood(-difference, 1 - target, rate))


@given(DIFFERENCES, st.floats(0.01, 0.49))
def test_one_wrong_label_costs_no_more_than_the_error_rate_says(difference: float, rate: float) -> None:
    assert likelihood(difference, 1, rate) <= -math.log(rate) + 1e-9


def test_a_tie_is_least_where_the_rewards_are_equal() -> None:
    assert likelihood(0, 0.5) < min(likelihood(0.1, 0.5), likelihood(-0.1, 0.5))


def test_gradients_stay_finite_for_large_differences() -> None:
    difference = torch.tensor([-500.0, 500.0], requires_grad=True)
    for rate in (0.0, 0.2):
        loss = negative_log_likelihood(difference, torch.tensor([1.0, 0.5]), rate).sum()
        (gradient,) = torch.autograd.grad(loss, difference)
        assert gradient.isfinite().all()


def test_agreement_leaves_ties_out_and_halves_equal_rewards() -> None:
    difference = torch.tensor([1.0, -1.0, 0.0, 5.0])
    assert float(agreement(difference, torch.tensor([1.0, 1.0, 0.0, 0.5]))) == pytest.approx(1.5 / 3)
    assert agreement(difference, torch.full((4,), 0.5)).isnan()


def test_answers_and_rates_that_mean_nothing_are_refused() -> None:
    assert targets_of(np.array([0, 1, 2])).tolist() == [0.0, 1.0, 0.5]
    with pytest.raises(ValueError, match="answer -1"):
        targets_of(np.array([0, -1]))
    with pytest.raises(ValueError, match="error rate"):
        negative_log_likelihood(torch.zeros(1), torch.zeros(1), 0.5)
