"""Dynamics: a known system is learnt, ignorance shows, and imagined rollouts keep to what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from world_models.dynamics import (
    PENALTIES,
    DynamicsConfig,
    DynamicsEnsemble,
    PenaltyName,
    Steps,
    fit_dynamics,
    imagine,
    uncertainty_quantile,
)
from world_models.errors import WorldModelError

TRANSITION = np.array([[0.9, 0.1], [0.0, 0.8]], dtype=np.float32)
CONTROL = np.array([[0.0], [0.5]], dtype=np.float32)
QUICK = DynamicsConfig(members=4, elites=3, hidden=(32,), updates=600, batch_size=64, measure_every=100,
                       learning_rate=5e-3)  # fmt: skip


def linear_system(episodes: int = 30, length: int = 20, seed: int = 0) -> Steps:
    """x' = A x + B u, reward x_0, an episode that ends for good where x_0 falls below -1."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(episodes):
        place = generator.uniform(-1, 1, 2).astype(np.float32)
        for _ in range(length):
            action = generator.uniform(-1, 1, 1).astype(np.float32)
            following = TRANSITION @ place + CONTROL @ action
            ends = bool(place[0] < -0.5)
            rows.append((place, action, place[0], np.zeros(2) if ends else following, ends, number))
            if ends:
                break
            place = following
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    seen, acted, rewards, after = (column.astype(np.float32) for column in columns[:4])
    return Steps(seen, acted, rewards, after, columns[4], columns[5])


@pytest.fixture(scope="module")
def fitted() -> tuple[DynamicsEnsemble, float]:
    ensemble, telemetry = fit_dynamics(linear_system(), QUICK)
    return ensemble, telemetry.change_error


def test_a_linear_system_is_learnt(fitted: tuple[DynamicsEnsemble, float]) -> None:
    ensemble, error = fitted
    assert ensemble.members == 3 and error < 0.02
    unseen = linear_system(episodes=5, seed=1)
    observations, actions = torch.from_numpy(unseen.observations), torch.from_numpy(unseen.actions)
    with torch.no_grad():
        found = ensemble(observations, actions)
        following = ensemble.next_observations(observations, found.means.mean(0))
        rewards = ensemble.expected_rewards(found)
    expected = unseen.observations @ TRANSITION.T + unseen.actions @ CONTROL.T
    assert np.abs(following.numpy() - expected).mean() < 0.03  # a step changes a number by 0.15 on average
    assert np.abs(rewards.numpy() - unseen.rewards).mean() < 0.03
    ends = torch.sigmoid(found.terminals).mean(0).numpy()
    assert ((ends > 0.5) == unseen.terminals).mean() > 0.95


@pytest.mark.parametrize("penalty", ["ensemble_deviation", "max_pairwise_difference", "loo_kl"])
def test_the_ensemble_is_less_sure_where_there_is_no_data(
    fitted: tuple[DynamicsEnsemble, float], penalty: PenaltyName
) -> None:
    ensemble, _ = fitted
    data = linear_system()
    here, actions = torch.from_numpy(data.observations), torch.from_numpy(data.actions)
    generator = torch.Generator().manual_seed(0)
    on = uncertainty_quantile(ensemble, here, actions, 0.9, generator, penalty)
    off = uncertainty_quantile(ensemble, here + 6.0, actions, 0.1, generator, penalty)
    assert off > 2 * on


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    config = DynamicsConfig(members=2, elites=2, hidden=(4,), updates=5, batch_size=8)
    before = torch.random.get_rng_state()
    first, again = (fit_dynamics(linear_system(4, 5), config)[0].state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_the_members_that_are_kept_are_the_best() -> None:
    _, all_of_them = fit_dynamics(linear_system(8, 10), DynamicsConfig(members=4, elites=4, hidden=(8,), updates=50))
    _, best = fit_dynamics(linear_system(8, 10), DynamicsConfig(members=4, elites=2, hidden=(8,), updates=50))
    assert best.members == all_of_them.members[:2]
    assert list(all_of_them.members) == sorted(all_of_them.members)


def test_what_stands_after_a_terminal_is_never_learnt() -> None:
    data = linear_system(8, 10)
    wild = data.next_observations.copy()
    wild[data.terminals] = 1e6
    config = DynamicsConfig(members=2, elites=2, hidden=(4,), updates=20, batch_size=16)
    changed = Steps(**(vars(data) | {"next_observations": wild}))
    first, second = (fit_dynamics(steps, config)[0].state_dict() for steps in (data, changed))
    assert data.terminals.any() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_imagined_rollouts_follow_the_system(fitted: tuple[DynamicsEnsemble, float]) -> None:
    ensemble, _ = fitted
    starts = torch.tensor([[0.5, 0.5], [0.0, -0.2]])
    rollouts = imagine(ensemble, starts, lambda seen: torch.full((len(seen), 1), 0.5), 6, torch.Generator())
    place = starts.numpy()
    for step in range(6):
        assert rollouts.valid[step].all()
        np.testing.assert_allclose(rollouts.observations[step].numpy(), place, atol=0.15)
        place = place @ TRANSITION.T + 0.5 * CONTROL[:, 0]
    expected = sum(0.9**step * rollouts.rewards[step] for step in range(6))
    torch.testing.assert_close(rollouts.returns(0.9), expected)


def test_imagined_rollouts_end_where_they_should(fitted: tuple[DynamicsEnsemble, float]) -> None:
    ensemble, _ = fitted
    starts = torch.tensor([[0.5, 0.5], [-0.95, 0.0], [40.0, 40.0]])
    data = linear_system()
    seen, acted = torch.from_numpy(data.observations), torch.from_numpy(data.actions)
    limit = uncertainty_quantile(ensemble, seen, acted, 1.0, torch.Generator().manual_seed(1))

    def act(observations: Tensor) -> Tensor:
        return torch.zeros(len(observations), 1)

    rollouts = imagine(ensemble, starts, act, 4, torch.Generator().manual_seed(0), greatest_uncertainty=limit)
    assert rollouts.valid.shape == (4, 3)
    assert rollouts.valid[:, 0].all() and not rollouts.cut[0]
    assert rollouts.valid[:, 1].tolist() == [True, False, False, False]  # below -0.5 an episode ends for good
    assert rollouts.terminals[0, 1] and not rollouts.cut[1]
    assert not rollouts.valid[:, 2].any() and rollouts.cut[2]
    assert rollouts.returns(1.0)[2] == 0


def test_the_penalty_is_subtracted_from_the_reward(fitted: tuple[DynamicsEnsemble, float]) -> None:
    ensemble, _ = fitted
    starts = torch.zeros(4, 2)
    plain, less = (
        imagine(ensemble, starts, lambda seen: torch.zeros(len(seen), 1), 3, torch.Generator().manual_seed(0),
                penalty_weight=weight)
        for weight in (0.0, 2.0)
    )  # fmt: skip
    torch.testing.assert_close(less.rewards, plain.rewards - 2.0 * plain.uncertainties)
    assert (plain.uncertainties > 0).all()


def test_a_saved_ensemble_predicts_the_same(fitted: tuple[DynamicsEnsemble, float], tmp_path: Path) -> None:
    ensemble, _ = fitted
    ensemble.save(tmp_path / "dynamics", {"error": 0.5})
    loaded = DynamicsEnsemble.load(tmp_path / "dynamics")
    seen, acted = torch.randn(3, 2), torch.randn(3, 1)
    for found, expected in zip(loaded(seen, acted), ensemble(seen, acted), strict=True):
        assert torch.equal(found, expected)
    settings_file = tmp_path / "dynamics" / "config.json"
    settings_file.write_text(settings_file.read_text().replace('"members": 3', '"members": 4'))
    with pytest.raises(WorldModelError, match=r"model\.safetensors does not fit"):
        DynamicsEnsemble.load(tmp_path / "dynamics")


def test_penalties_by_hand() -> None:
    means = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
    deviations = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])
    found = {name: float(rule(means, deviations, torch.zeros(1, 2))) for name, rule in PENALTIES.items()}
    assert found["max_aleatoric"] == pytest.approx(8**0.5)
    assert found["max_pairwise_difference"] == pytest.approx(5.0)
    # variances: (1 + 4) / 2 + 1.5^2 and (1 + 4) / 2 + 2^2
    assert found["ensemble_deviation"] == pytest.approx((2.5 + 2.25 + 2.5 + 4.0) ** 0.5)
    # of one other: KL(N(0, 1) | N(m, 4)) and KL(N(m, 4) | N(0, 1)), summed over m = 3 and 4
    first = 2 * (np.log(2) - 0.5) + (1 + 9) / 8 + (1 + 16) / 8
    second = 2 * (-np.log(2) - 0.5) + (4 + 9) / 2 + (4 + 16) / 2
    assert found["loo_kl"] == pytest.approx((first + second) / 2, rel=1e-5)
    # log-likelihoods of 0 differ by (9 + 16) / 8 + 2 log 2; the variance of two numbers is a quarter of that squared
    assert found["ll_variance"] == pytest.approx((25 / 8 + 2 * np.log(2)) ** 2 / 4, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_members_that_agree_leave_noise_only(members: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = torch.randn(3, size, generator=generator), torch.rand(3, size, generator=generator) + 0.1
    means, deviations = mean.expand(members, 3, size), deviation.expand(members, 3, size)
    for name in ("ensemble_deviation", "max_aleatoric"):
        torch.testing.assert_close(PENALTIES[name](means, deviations, mean), deviation.norm(dim=-1))
    for name in ("max_pairwise_difference", "loo_kl", "ll_variance"):
        torch.testing.assert_close(PENALTIES[name](means, deviations, mean), torch.zeros(3), atol=2e-3, rtol=0)


def test_data_that_cannot_be_learnt_from_is_refused() -> None:
    data = linear_system(2, 3)
    with pytest.raises(WorldModelError, match="at least two episodes"):
        fit_dynamics(Steps(**(vars(data) | {"episodes": np.zeros_like(data.episodes)})), QUICK)
    with pytest.raises(WorldModelError, match="rewards hold NaN"):
        fit_dynamics(Steps(**(vars(data) | {"rewards": np.full_like(data.rewards, np.nan)})), QUICK)
    with pytest.raises(WorldModelError, match="elites of the dynamics must be at least 2"):
        DynamicsConfig(elites=1)
