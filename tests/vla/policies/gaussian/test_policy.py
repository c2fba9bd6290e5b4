"""The Gaussian policy: its contract, its scale, its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim.contract import ObservationBatch
from sim.embodiments import PANDA_EEF, Action
from tests.vla.policies.helpers import generators
from vla.errors import ReflexError
from vla.policies.gaussian import GaussianPolicy
from vla.policies.gaussian.policy import action_range
from vla.policies.protocol import TrainablePolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import GREEDY, Sampling


def policy(**settings: Any) -> GaussianPolicy:
    """Small, with scales that are not 0 and 1."""
    torch.manual_seed(0)
    made = GaussianPolicy(PANDA_EEF, hidden=(16, 16), **settings)
    made.fit_normalisation(np.eye(7, dtype=np.float32), np.arange(80, dtype=np.float32).reshape(10, 8))
    return made.eval()


def seen(count: int = 3) -> ObservationBatch:
    """States only: there is no picture to draw."""
    state = np.random.default_rng(0).normal(30, 10, (count, 8)).astype(np.float32)
    return ObservationBatch(images={}, state=state, instruction=["go"] * count)


def test_it_is_a_trainable_policy_without_cameras() -> None:
    made = policy(chunk_horizon=3, execute_steps=2)
    assert isinstance(made, TrainablePolicy)
    assert made.spec.embodiment.cameras == ()
    assert (made.spec.chunk_horizon, made.spec.execute_steps) == (3, 2)
    assert made.spec.unit_steps == (0,) * 7 + (1,) * 7 + (2,) * 7
    assert made.act(seen()).actions.shape == (3, 3, 7)


def test_greedy_is_the_mean_and_draws_nothing() -> None:
    made = policy()
    first, second = made.act(seen()), made.act(seen())
    np.testing.assert_array_equal(first.actions, second.actions)
    mean = made._gaussian(made.prepare(seen()), GREEDY).mean.detach()
    np.testing.assert_allclose(first.decision, mean.numpy())
    assert np.abs(first.actions).max() <= 1


def test_decisions_are_scored_as_they_were_drawn() -> None:
    made, sampling = policy(chunk_horizon=2), Sampling(temperature=0.3)
    output = made.act(seen(), sampling, generators(3))
    log_probs, entropies = made.log_prob(output.inputs, torch.from_numpy(output.decision), sampling)
    np.testing.assert_allclose(log_probs.detach().numpy(), output.log_probs, atol=1e-4)
    expected = np.log(0.3) + 0.5 * np.log(2 * np.pi * np.e)  # the deviation is 1 at first
    np.testing.assert_allclose(entropies.detach().numpy(), expected, atol=1e-5)


def test_an_environment_s_draws_are_its_own() -> None:
    made, sampling = policy(), Sampling(temperature=1.0)
    together = made.act(seen(), sampling, generators(3)).actions
    alone = made.act({"images": {}, "state": seen()["state"][1:2], "instruction": ["go"]}, sampling, generators(3)[1:2])
    np.testing.assert_allclose(together[1], alone.actions[0], atol=1e-6)


def test_actions_stay_within_limits_that_the_robot_has_or_the_data_show() -> None:
    action = Action(("left", "right", "still"), "unknown")
    low, high = action_range(action, np.array([[0, -3, 5], [4, 1, 5]], np.float32))
    assert low.tolist() == [0, -3, 4] and high.tolist() == [4, 1, 6]
    limited = replace(action, low=(-2.0,) * 3, high=(2.0,) * 3)
    assert action_range(limited, np.zeros((1, 3), np.float32))[1].tolist() == [2, 2, 2]
    made = policy()
    made.network["bias_2"].data.fill_(9.0)  # far beyond what the tanh lets through
    assert np.all(made.act(seen(), Sampling(temperature=1.0), generators(3)).actions <= 1)


def test_a_folder_keeps_everything(tmp_path: Path) -> None:
    made = policy(chunk_horizon=2, execute_steps=1, policy_id="mine")
    made.save_pretrained(tmp_path / "policy")
    read = load_policy(tmp_path / "policy")
    assert isinstance(read, GaussianPolicy) and read.policy_id == "mine" and read.spec == made.spec
    np.testing.assert_array_equal(read.act(seen()).actions, made.act(seen()).actions)


def test_imitation_lowers_its_loss() -> None:
    made = policy()
    actions = np.full((3, 1, 7), 0.5, np.float32)
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    inputs = made.prepare(seen())
    first = float(made.imitation_loss(inputs, actions)[0].mean().detach())
    for _ in range(50):
        optimiser.zero_grad()
        made.imitation_loss(inputs, actions)[0].mean().backward()
        optimiser.step()
    assert float(made.imitation_loss(inputs, actions)[0].mean().detach()) < 0.1 * first
    assert made.features_from_inputs(inputs).shape == (3, 16)


def test_weights_go_in_and_out_as_a_mapping() -> None:
    first, second = policy(), policy()
    mapping = first.parameter_mapping()
    mapping["bias_0"] += 1.0
    assert not torch.equal(mapping["bias_0"], first.network["bias_0"])
    second.set_parameters(mapping)
    assert torch.equal(mapping["bias_0"], second.network["bias_0"])


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ReflexError, match="a chunk of 2 actions of which 3 are executed"):
        policy(chunk_horizon=2, execute_steps=3)
    made = policy()
    made.network["bias_0"].data.fill_(float("nan"))
    with pytest.raises(ReflexError, match="its weights have diverged"):
        made.act(seen())
