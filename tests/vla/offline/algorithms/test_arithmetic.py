"""Losses and optimisers of offline RL, by hand and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.offline.algorithms.algorithm import (
    Sizes,
    adam,
    copied,
    cosine,
    critic_values,
    follow,
    temporal_difference_loss,
    twin_critics,
)
from vla.offline.algorithms.iql import advantage_weights, expectile_loss
from vla.offline.algorithms.td3_bc import policy_turn, smoothed_actions, value_weight
from vla.policies.gaussian.perceptron import Parameters, new_perceptron, perceptron
from vla.policies.gaussian.policy import log_density


def test_the_expectile_loss_by_hand() -> None:
    # Q - V = 2 counts 0.7 * 4, Q - V = -1 counts 0.3 * 1: their mean is 1.55
    assert float(expectile_loss(torch.tensor([2.0, -1.0]), 0.7)) == pytest.approx(1.55)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=8), st.floats(0.55, 0.95))
def test_an_expectile_above_a_half_lies_between_mean_and_maximum(values: list[float], expectile: float) -> None:
    targets = torch.tensor(
        values, dtype=torch.float64
    )  # in float32 the squares of 1e-38 are 0, and all losses the same
    grid = torch.linspace(float(targets.min()), float(targets.max()), 2001, dtype=torch.float64)
    losses = torch.stack([expectile_loss(targets - candidate, expectile) for candidate in grid[::20]])
    best = float(grid[::20][losses.argmin()])
    step = float(grid[20] - grid[0])
    assert float(targets.mean()) - step <= best <= float(targets.max())


def test_weights_of_advantages_by_hand() -> None:
    weights = advantage_weights(torch.tensor([0.0, 1.0, -1.0, 9.0]), 3.0, 100.0)
    assert weights.tolist() == pytest.approx([1.0, math.exp(3), math.exp(-3), 100.0])


def test_the_temporal_difference_loss_is_the_mean_over_both_critics() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    # errors 0, 1 of the first critic, 2, 1 of the second
    assert float(temporal_difference_loss(values, torch.tensor([1.0, 1.0]))) == pytest.approx((0 + 1 + 4 + 1) / 4)


def test_a_log_density_is_that_of_torch() -> None:
    mean, log_deviation = torch.randn(5, 3), torch.tensor([-1.0, 0.0, 0.5])
    values = torch.randn(5, 3)
    expected = torch.distributions.Normal(mean, log_deviation.exp()).log_prob(values).sum(-1)
    assert torch.allclose(log_density(values, mean, log_deviation), expected, atol=1e-5)


def test_smoothed_actions_by_hand() -> None:
    smoothed = smoothed_actions(torch.tensor([0.0, 0.0, 0.9]), torch.tensor([1.0, -9.0, 2.0]), 0.2, 0.5)
    assert smoothed.tolist() == pytest.approx([0.2, -0.5, 1.0])


def test_the_policys_turns_by_hand() -> None:
    turns = [tuple(map(float, policy_turn(torch.tensor(float(step)), 2))) for step in (1, 2, 3, 4)]
    assert turns == [(0, 1), (1, 1), (0, 1), (1, 2)]


def test_the_weight_of_values_by_hand() -> None:
    assert float(value_weight(torch.tensor([4.0, -6.0]), 2.5)) == pytest.approx(0.5)


def test_adam_is_that_of_torch() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 3), torch.randn(6, 4, 3)
    parameter = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([parameter], lr=0.01)
    zeros = torch.zeros(4, 3)
    state: dict[str, Parameters] = {"net": {"w": start.clone()}, "net.mean": {"w": zeros.clone()}}
    state["net.square"] = {"w": zeros.clone()}
    for number, gradient in enumerate(gradients, start=1):
        parameter.grad = gradient.clone()
        optimiser.step()
        adam(state, "net", {"w": gradient}, torch.tensor(float(number)), 0.01)
        assert torch.allclose(state["net"]["w"], parameter, atol=1e-6)


def test_a_network_that_sits_an_update_out_stays_as_it_is() -> None:
    state: dict[str, Parameters] = {name: {"w": torch.ones(2)} for name in ("net", "net.mean", "net.square")}
    adam(state, "net", {"w": torch.full((2,), 5.0)}, torch.tensor(1.0), 0.1, due=torch.tensor(0.0))
    assert all(part["w"].tolist() == [1.0, 1.0] for part in state.values())


def test_a_target_follows_by_its_share() -> None:
    state = {"target": {"w": torch.tensor([0.0, 4.0])}, "critics": {"w": torch.tensor([1.0, 0.0])}}
    follow(state, "target", "critics", 0.25)
    assert state["target"]["w"].tolist() == [0.25, 3.0]
    assert state["critics"]["w"].tolist() == [1.0, 0.0]


def test_the_cosine_falls_from_the_rate_to_nothing() -> None:
    rates = [float(cosine(2.0, torch.tensor(progress))) for progress in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([2.0, 1.0, 0.0], abs=1e-6)


def test_two_critics_at_once_are_each_on_its_own() -> None:
    torch.manual_seed(0)
    critics = twin_critics(Sizes(3, 2, (8, 8)))
    observations, actions = torch.randn(5, 3), torch.randn(5, 2)
    together = critic_values(critics, observations, actions)
    assert together.shape == (2, 5)
    for member in range(2):
        alone = {name: value[member] for name, value in critics.items()}
        expected = perceptron(alone, torch.cat([observations, actions], dim=1))[:, 0]
        assert torch.allclose(together[member], expected, atol=1e-6)
    assert not torch.allclose(together[0], together[1])


def test_a_perceptron_is_torchs_linear_layers() -> None:
    parameters = new_perceptron((3, 6, 2))
    layers = [torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.copy_(parameters[f"weight_{number}"].T)
            layer.bias.copy_(parameters[f"bias_{number}"][0])
    inputs = torch.randn(4, 3)
    assert torch.allclose(perceptron(parameters, inputs), layers[1](torch.relu(layers[0](inputs))), atol=1e-6)
    assert float(parameters["weight_0"].abs().max()) <= 1 / math.sqrt(3)


def test_a_copy_is_of_its_own() -> None:
    first = {"w": torch.ones(2)}
    second = copied(first)
    second["w"].zero_()
    assert first["w"].tolist() == [1.0, 1.0]
