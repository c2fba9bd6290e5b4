"""Imagined rollouts in offline RL: beside replay, alone with MBRCSL, off unless asked for, and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.vla.offline.corridor import corridor, steps_to_goal
from tests.vla.offline.model_based.stitched import halves
from vla.errors import ReflexError
from vla.offline.algorithms.bc import BC
from vla.offline.algorithms.iql import IQL
from vla.offline.algorithms.mbrcsl import MBRCSL, at_condition
from vla.offline.model_based.behaviour import fit_behaviour
from vla.offline.model_based.imagined import as_conditions, discounted_returns, exceeding, imagined_transitions
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.model_based.training import ReplayAndImagined, known_controls, new_trainer
from vla.offline.training import OfflineSettings, OfflineTrainer, train_offline
from vla.policies.gaussian.perceptron import perceptron


def small(**settings: Any) -> OfflineSettings:
    given: dict[str, Any] = {"updates": 400, "batch_size": 64, "hidden": (32, 32), "compiled": False, "device": "cpu"}
    return OfflineSettings(**(given | {"algorithm": IQL(learning_rate=3e-3)} | settings))


def tiny(**settings: Any) -> ImagineSettings:
    """A model that learns next to nothing, at once."""
    given: dict[str, Any] = {"members": 3, "hidden": [8], "updates": 10, "rollouts": 40, "horizon": 3}
    return ImagineSettings(**(given | settings))


def test_mbrcsl_joins_halves_that_no_episode_joined() -> None:
    data = halves()
    imagining = ImagineSettings(members=3, hidden=[32], updates=500, rollouts=600)
    settings = small(algorithm=MBRCSL(learning_rate=3e-3, nearest_starts=5))
    trainer = new_trainer(data, settings, imagining, seed=0)
    trainer.run(settings.updates)
    assert steps_to_goal(trainer.policy()) <= 10  # at full speed it takes 5
    assert steps_to_goal(train_offline(data, small(algorithm=BC(learning_rate=3e-3)), seed=0)) == 100


def test_a_share_of_each_batch_is_imagined() -> None:
    data = corridor()
    trainer = new_trainer(data, small(), tiny(share=0.25), seed=0)
    assert isinstance(trainer, ReplayAndImagined)
    rows = torch.cat([trainer._drawn(number)[0] for number in range(100)])
    assert float((rows >= len(data)).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert int(rows.max()) < len(trainer._table) and int(rows.min()) == 0
    advantages = trainer.advantages()
    assert advantages is not None and len(advantages.values) == len(data)
    plain = OfflineTrainer(data, small(), seed=0)
    assert torch.equal(trainer._table[: len(data)], plain._table)


def test_nothing_changes_where_nothing_is_imagined() -> None:
    data = corridor()
    plain, same = OfflineTrainer(data, small(), 3), new_trainer(data, small(), ImagineSettings(), 3)
    assert type(same) is OfflineTrainer
    for trainer in (plain, same):
        trainer.run(3)
    for name, value in plain.policy().state_dict().items():
        assert torch.equal(value, same.policy().state_dict()[name]), name


@pytest.mark.parametrize("chunk_horizon", [1, 3])
def test_imagined_transitions_keep_to_their_horizon_and_their_chunks(chunk_horizon: int) -> None:
    data = corridor()
    found = imagined_transitions(data, small(chunk_horizon=chunk_horizon), tiny(share=0.5), seed=0)
    made = found.transitions
    assert made.chunk_horizon == chunk_horizon and made.actions.shape[1] == chunk_horizon
    assert made.frames.max() <= 2 * chunk_horizon and set(made.spans) == {chunk_horizon}
    assert np.abs(made.actions).max() <= 1
    assert len(np.unique(made.episodes)) <= 40
    for episode in np.unique(made.episodes):
        rows = np.flatnonzero(made.episodes == episode)
        np.testing.assert_array_equal(made.next_observations[rows[:-1]], made.observations[rows[1:]])
        assert not made.terminals[rows[:-1]].any()


def test_a_run_that_goes_on_finds_what_was_imagined(tmp_path: Path) -> None:
    data, folder = corridor(), tmp_path / "imagined"
    first = new_trainer(data, small(), tiny(share=0.5), 0, folder=folder)
    again = new_trainer(data, small(), tiny(share=0.5, updates=1), 0, folder=folder)
    assert torch.equal(first._table, again._table)
    assert (folder / "dynamics" / "config.json").exists()
    (folder / "imagined.safetensors").write_bytes(b"short")
    with pytest.raises(ReflexError, match=r"imagined\.safetensors"):
        new_trainer(data, small(), tiny(share=0.5), 0, folder=folder)


def test_behaviour_keeps_two_ways_apart() -> None:
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(400, 1)).astype(np.float32)
    ways = np.where(generator.random(400) < 0.5, -0.7, 0.7)
    actions = (ways + generator.normal(0, 0.05, 400)).astype(np.float32)[:, None]
    behaviour = fit_behaviour(observations, actions, (16,), 600, 0, torch.device("cpu"))
    drawn = behaviour.act(torch.zeros(500, 1), torch.Generator().manual_seed(0))[:, 0].numpy()
    assert (np.abs(np.abs(drawn) - 0.7) < 0.25).mean() > 0.9
    assert 0.3 < (drawn > 0).mean() < 0.7
    assert drawn.max() <= actions.max()


def test_what_exceeds_the_data_by_hand() -> None:
    data = halves(8)
    data = data.with_rewards(np.where(data.terminals, 1.0, 0.0))
    known = discounted_returns(data, 0.5)
    ends = data.frames[data.terminals]
    assert sorted(known[known > 0]) == pytest.approx(sorted(0.5 ** ends.astype(float)))
    best = known.max()
    starts = np.array([[0.0], [0.0], [0.5]], dtype=np.float32)
    returns = np.array([0.0, 0.001, best])
    assert exceeding(returns, starts, data, 0.5, nearest=0).tolist() == [False, False, False]
    assert exceeding(returns, starts, data, 0.5, nearest=4).tolist() == [False, True, False]
    assert exceeding(returns + best, starts, data, 0.5, nearest=0).tolist() == [False, True, True]


def test_a_condition_of_zero_is_the_return_that_is_asked_for() -> None:
    returns = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(as_conditions(returns, 1.0), [-(6**0.5), -(1.5**0.5), 0.0], rtol=1e-6)
    np.testing.assert_allclose(as_conditions(returns, 0.5), [-(1.5**0.5), 0.0, 1.5**0.5], rtol=1e-6)
    assert as_conditions(np.array([2.0, 2.0]), 1.0).tolist() == [0.0, 0.0]
    policy = {"weight_0": torch.ones(1, 2), "bias_0": torch.zeros(1, 2), "weight_1": torch.ones(2, 1),
              "bias_1": torch.zeros(1, 1)}  # fmt: skip
    changed = at_condition(policy, {"weight": torch.tensor([[1.0, 2.0]])}, torch.tensor([0.0, 3.0]))
    assert perceptron(changed, torch.ones(2, 1)).tolist() == [[2.0], [4.0 + 7.0]]


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ReflexError, match=r"imagine\.penalty is 'doubt'; it must be one of ensemble_deviation"):
        ImagineSettings(penalty="doubt")  # type: ignore[arg-type]
    with pytest.raises(ReflexError, match=r"leave imagine\.share out"):
        new_trainer(corridor(), small(algorithm=MBRCSL()), tiny(share=0.5), 0)
    with pytest.raises(ReflexError, match="imagine with ends=success"):
        new_trainer(corridor(), small(ends="absorbing"), tiny(share=0.5), 0)
    with pytest.raises(ReflexError, match="at least two episodes"):
        new_trainer(corridor(1), small(), tiny(share=0.5), 0)
    flat = corridor().with_rewards(np.zeros(len(corridor())))
    with pytest.raises(ReflexError, match="none of 40 imagined rollouts comes to a greater return"):
        new_trainer(flat, small(algorithm=MBRCSL()), tiny(), 0)
    assert "replay" in known_controls(small(), tiny(share=0.5))
    assert "replay" not in known_controls(small(), tiny()) and "zero" not in known_controls(
        small(algorithm=MBRCSL()), tiny()
    )
