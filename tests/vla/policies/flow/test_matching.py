"""Flow matching where the exact answer is known: one-dimensional Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vla.policies.flow import matching

MEAN, DEVIATION = 0.7, 0.4


def exact_velocity(x: Tensor, time: Tensor) -> Tensor:
    """E[data - noise | x_t = x] for data of N(MEAN, DEVIATION^2): the regression of one Gaussian on another."""
    variance = time**2 * DEVIATION**2 + (1 - time) ** 2
    return MEAN + (time * DEVIATION**2 - (1 - time)) / variance * (x - time * MEAN)


def time_grid(steps: int, like: Tensor) -> Tensor:
    """The times 0, 1 / K, ..., 1."""
    return torch.arange(steps + 1, dtype=like.dtype) / steps


def solve_ode(start: Tensor, steps: int) -> Tensor:
    """Where Euler steps along the exact velocity lead from noise."""
    x = start
    for time in time_grid(steps, start)[:-1]:
        x = matching.euler_step(x, exact_velocity(x, time), steps)
    return x


def gaussian_log_density(value: float, mean: float, deviation: float) -> float:
    return -0.5 * ((value - mean) / deviation) ** 2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)


def standard_normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_path_goes_from_noise_to_data() -> None:
    noise, data = torch.tensor([[2.0]]), torch.tensor([[10.0]])
    assert matching.interpolate(noise, data, torch.tensor(0.0)).item() == 2.0
    assert matching.interpolate(noise, data, torch.tensor(0.25)).item() == 4.0
    assert matching.interpolate(noise, data, torch.tensor(1.0)).item() == 10.0


def test_loss_is_the_mean_square_over_a_chunk() -> None:
    velocity, noise = torch.zeros(2, 1, 2), torch.zeros(2, 1, 2)
    data = torch.tensor([[[1.0, 3.0]], [[0.0, 2.0]]])
    assert matching.squared_errors(velocity, noise, data).tolist() == [5.0, 2.0]


def test_loss_is_minimised_by_the_true_velocity() -> None:
    noise, data = standard_normals(200_000, 1, 1), MEAN + DEVIATION * standard_normals(200_000, 1, 1, seed=1)
    for time in (0.0, 0.3, 0.8):
        t = torch.tensor(time, dtype=torch.float64)
        x = matching.interpolate(noise, data, t)
        velocity = exact_velocity(x, t)

        def loss(candidate: Tensor) -> float:
            return float(matching.squared_errors(candidate, noise, data).mean())

        best = loss(velocity)
        # what nothing can explain: Var(data - noise | x_t)
        remainder = DEVIATION**2 / (time**2 * DEVIATION**2 + (1 - time) ** 2)
        assert best == pytest.approx(remainder, rel=0.01)
        for other in (velocity + 0.05, velocity - 0.05, 0.95 * velocity, velocity + 0.05 * x):
            assert loss(other) > best


def test_training_times_have_the_density_of_pi0() -> None:
    uniforms = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = matching.training_times(uniforms)
    assert float(times.min()) >= 0 and float(times.max()) <= 0.999
    # Beta(1.5, 1) has mean 0.6
    assert float(times.mean()) == pytest.approx(0.999 * 0.4, abs=0.003)
    # P(t < s / 2) = P(b > 1 / 2) = 1 - 0.5^1.5
    assert float((times < 0.4995).double().mean()) == pytest.approx(1 - 0.5**1.5, abs=0.005)


def test_the_ode_carries_noise_to_data() -> None:
    noise = standard_normals(2000, 1, 1)
    data = solve_ode(noise, 500)
    # the flow of a Gaussian is linear: x_1 = MEAN + DEVIATION x_0
    assert torch.allclose(data, MEAN + DEVIATION * noise, atol=0.01)


def test_one_euler_step_by_hand() -> None:
    x, velocity = torch.tensor([[1.0]]), torch.tensor([[4.0]])
    assert matching.euler_step(x, velocity, 8).item() == 1.5


@pytest.mark.parametrize("noise_level", [0.3, 1.0])
def test_the_sde_keeps_the_distributions_of_the_ode(noise_level: float) -> None:
    steps, count = 200, 20_000
    x = standard_normals(count, 1, 1)
    generator = torch.Generator().manual_seed(1)
    grid = time_grid(steps, x)
    seen: dict[int, Tensor] = {}
    for step, time in enumerate(grid[:-1]):
        transition = matching.sde_step(x, exact_velocity(x, time), time, steps, noise_level)
        x = transition.draw(torch.randn(x.shape, generator=generator, dtype=x.dtype))
        seen[step + 1] = x
    for step in (50, 100, 150, 200):
        time = float(grid[step])
        mean, deviation = time * MEAN, math.sqrt(time**2 * DEVIATION**2 + (1 - time) ** 2)
        # four standard errors, and what steps of finite length add
        assert float(seen[step].mean()) == pytest.approx(mean, abs=4 * deviation / math.sqrt(count) + 0.002)
        assert float(seen[step].std()) == pytest.approx(deviation, rel=4 / math.sqrt(2 * count) + 0.01)


def test_the_sde_moves_what_the_ode_leaves_in_place() -> None:
    """From one and the same noise the ODE has one end; the SDE has many."""
    steps, start = 50, torch.full((4000, 1, 1), 0.5, dtype=torch.float64)
    x, generator = start, torch.Generator().manual_seed(0)
    for time in time_grid(steps, start)[:-1]:
        transition = matching.sde_step(x, exact_velocity(x, time), time, steps, 0.7)
        x = transition.draw(torch.randn(x.shape, generator=generator, dtype=x.dtype))
    assert float(solve_ode(start, steps).std()) < 1e-12
    assert float(x.std()) > 0.1


def test_sde_steps_by_hand() -> None:
    x, velocity = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64)
    # K = 4, a = 0.6, t = 0.5: implied noise 2 - 1.5 = 0.5; drift 3 - 0.36 / (2 * 0.5) * 0.5 = 2.82
    middle = matching.sde_step(x, velocity, torch.tensor(0.5, dtype=torch.float64), 4, 0.6)
    assert middle.mean.item() == pytest.approx(2.0 + 2.82 / 4)
    assert middle.deviation.item() == pytest.approx(0.6 * math.sqrt(0.25))
    # the first step: t = 0 counts as 1/4 under the fraction; implied noise 2; drift 3 - 0.36 / (2 * 0.25) * 2 = 1.56
    first = matching.sde_step(x, velocity, torch.tensor(0.0, dtype=torch.float64), 4, 0.6)
    assert first.mean.item() == pytest.approx(2.0 + 1.56 / 4)
    assert first.deviation.item() == pytest.approx(0.6)
    last = matching.sde_step(x, velocity, torch.tensor(0.75, dtype=torch.float64), 4, 0.6)
    assert last.deviation.item() == pytest.approx(0.6 / math.sqrt(4 * 3))


def test_without_noise_both_samplers_are_the_ode() -> None:
    x, velocity = standard_normals(3, 2, 2), standard_normals(3, 2, 2, seed=1)
    by_euler = matching.euler_step(x, velocity, 5)
    certain = matching.sde_step(x, velocity, torch.tensor(0.4, dtype=torch.float64), 5, 0.0)
    assert torch.equal(certain.mean, by_euler) and float(certain.deviation) == 0.0
    learned = matching.learned_step(x, velocity, 5, torch.full((2,), 0.3, dtype=torch.float64))
    assert torch.equal(learned.mean, by_euler)
    assert torch.allclose(learned.draw(torch.ones_like(x)), by_euler + 0.3)


def test_a_chain_has_the_product_of_its_steps_densities() -> None:
    """Two steps of two actions of two entries, each density written out."""
    start = torch.tensor([[0.3, -1.2], [0.8, 0.1]], dtype=torch.float64)
    middle = torch.tensor([[0.5, -0.2], [0.9, 0.4]], dtype=torch.float64)
    end = torch.tensor([[0.6, 0.3], [0.7, 0.2]], dtype=torch.float64)
    level, total, by_hand = 0.5, 0.0, 0.0
    for step, (x, after) in enumerate(((start, middle), (middle, end))):
        t = step / 2
        velocity = exact_velocity(x, torch.tensor(t, dtype=torch.float64))
        transition = matching.sde_step(x, velocity, torch.tensor(t, dtype=torch.float64), 2, level)
        total += float(transition.log_density(after).sum())
        for row in range(2):
            for column in range(2):
                v = float(velocity[row, column])
                noise = float(x[row, column]) - t * v
                mean = float(x[row, column]) + 0.5 * (v - level**2 / (2 * 0.5) * noise)
                deviation = level * math.sqrt((1 - t) / 0.5 * 0.5)
                by_hand += gaussian_log_density(float(after[row, column]), mean, deviation)
    assert total == pytest.approx(by_hand, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 3))
def test_density_and_entropy_are_those_of_torch(value: float, mean: float, deviation: float) -> None:
    shape = (1, 3)
    ours = matching.Transition(torch.full(shape, mean), torch.tensor(deviation))
    theirs = torch.distributions.Normal(torch.full(shape, mean), torch.full(shape, deviation))
    values = torch.full(shape, value)
    assert torch.allclose(ours.log_density(values), theirs.log_prob(values).sum(-1), rtol=1e-4, atol=1e-4)
    assert torch.allclose(ours.entropy(), theirs.entropy().sum(-1), rtol=1e-4, atol=1e-4)


def test_unchanged_parameters_have_ratio_one_and_gradients_are_right() -> None:
    """The derivative of a chain's log-density by a parameter of the velocity and one of the deviation."""
    x, after = standard_normals(1, 2, 3), standard_normals(1, 2, 3, seed=1)

    def chain_log_density(parameters: Tensor) -> Tensor:
        velocity = parameters[0] * x + parameters[1]
        sde = matching.sde_step(x, velocity, torch.tensor(0.5, dtype=torch.float64), 4, 0.6)
        learned = matching.learned_step(x, velocity, 4, torch.exp(parameters[2]))
        return (sde.log_density(after) + learned.log_density(after)).sum()

    parameters = torch.tensor([0.3, -0.2, -0.5], dtype=torch.float64, requires_grad=True)
    assert chain_log_density(parameters).item() == chain_log_density(parameters.clone()).item()
    assert torch.autograd.gradcheck(chain_log_density, (parameters,))


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.99))
def test_correlated_noise_is_standard_normal_and_correlated(correlation: float) -> None:
    mixed = matching.correlate_steps(standard_normals(40_000, 3, 1), correlation)[..., 0]
    assert torch.allclose(mixed.std(0), torch.ones(2, dtype=torch.float64), atol=0.03)
    assert float(torch.corrcoef(mixed.T)[0, 1]) == pytest.approx(correlation, abs=0.03)
