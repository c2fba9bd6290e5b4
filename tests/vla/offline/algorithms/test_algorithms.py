"""Every algorithm: it finds the corridor's best actions in mixed data, its turns are as said, and A2PR by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.vla.offline.corridor import corridor, steps_to_goal
from vla.errors import ReflexError
from vla.offline.algorithms.a2pr import A2PR, Encoding, autoencode, better_actions
from vla.offline.algorithms.algorithm import Algorithm, Sizes
from vla.offline.algorithms.awac import AWAC
from vla.offline.algorithms.bc import BC
from vla.offline.algorithms.iql import IQL
from vla.offline.algorithms.td3_bc import TD3BC
from vla.offline.training import OfflineSettings, OfflineTrainer, train_offline

QUICK: dict[str, Any] = {"learning_rate": 3e-3, "target_share": 0.05}


def settings(algorithm: Algorithm, **changes: Any) -> OfflineSettings:
    """Some hundred updates of small networks."""
    given: dict[str, Any] = {"updates": 300, "batch_size": 64, "hidden": (32, 32), "compiled": False, "device": "cpu"}
    return OfflineSettings(algorithm, **(given | changes))


@pytest.mark.parametrize(
    "algorithm",
    [AWAC(temperature=20.0, discount=0.9, **QUICK), TD3BC(**QUICK), A2PR(autoencoder_width=32, **QUICK)],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_it_walks_better_than_the_data(algorithm: Algorithm) -> None:
    assert steps_to_goal(train_offline(corridor(), settings(algorithm), seed=0)) <= 7  # at full speed it takes 5


@pytest.mark.parametrize("kind", [TD3BC, A2PR])
def test_the_policy_learns_every_second_update(kind: type[TD3BC]) -> None:
    trainer = OfflineTrainer(corridor(), settings(kind(**QUICK), updates=4), seed=0)
    before = trainer.policy().network["weight_0"].clone()
    trainer.run(1)
    assert torch.equal(trainer.policy().network["weight_0"], before)
    assert not torch.equal(trainer.state["critics"]["weight_0"], trainer.state["target"]["weight_0"])
    trainer.run(1)
    assert not torch.equal(trainer.policy().network["weight_0"], before)
    # Adam's first step is the learning rate in every number that has a gradient.
    step = (trainer.policy().network["weight_2"] - OfflineTrainer(corridor(), settings(kind(**QUICK)), 0)
            .policy().network["weight_2"]).abs()  # fmt: skip
    assert float(step.detach().max()) == pytest.approx(3e-3, rel=1e-3)


def test_the_same_settings_are_one_algorithm() -> None:
    assert IQL() == IQL() and hash(IQL()) == hash(IQL()) and IQL() != IQL(expectile=0.8)


def test_critics_know_which_actions_of_the_corridor_lead_on() -> None:
    data = corridor()
    trainer = OfflineTrainer(data, settings(IQL(**QUICK)), seed=0)
    trainer.run(300)
    found = trainer.advantages()
    assert found is not None
    np.testing.assert_array_equal(found.episodes, data.episodes)
    near = (data.observations[:, 0] > 0.5) & (data.observations[:, 0] < 0.9)
    forward, back = (near & (sign * data.actions[:, 0] > 0.5) for sign in (1, -1))
    assert found.values[forward].mean() > found.values[back].mean() + 0.02
    assert OfflineTrainer(data, settings(BC()), seed=0).advantages() is None


def test_weighting_helps_imitation_where_few_episodes_are_good() -> None:
    data = corridor(episodes=80)
    few = set(np.unique(data.episodes[data.successes])[:6].tolist())
    kept = np.array(
        [not success or number in few for success, number in zip(data.successes, data.episodes, strict=True)]
    )
    mixed = data.take(kept)
    plain, weighted = (
        train_offline(mixed, settings(BC(learning_rate=3e-3), weighting=kind), seed=0)  # type: ignore[arg-type]
        for kind in ("uniform", "return")
    )
    assert steps_to_goal(weighted) <= 12 < steps_to_goal(plain)


def test_a_divergence_by_hand() -> None:
    # Of N(1, e^2) from N(0, 1): -0.5 (1 + 2 - 1 - e^2); of N(0, 1) nothing.
    encoding = Encoding(torch.zeros(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(encoding.divergence()) == pytest.approx(-0.5 * (2 - math.exp(2)) / 2, rel=1e-5)


def test_the_better_action_by_hand() -> None:
    data, proposed = torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[0.7], [0.8], [0.9]])
    chosen = better_actions(data, proposed, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([-1.0, 2.0, 1.0]))
    assert chosen[:, 0].tolist() == pytest.approx([0.1, 0.8, 0.9])


def test_an_autoencoder_without_noise_is_certain() -> None:
    torch.manual_seed(0)
    algorithm, sizes = A2PR(autoencoder_width=8), Sizes(2, 1, (4,))
    state = algorithm.initial_state(sizes, {})
    observations, actions = torch.randn(3, 2), torch.rand(3, 1)
    first, again = (autoencode(state["autoencoder"], observations, actions, torch.zeros(3, 2)) for _ in range(2))
    assert torch.equal(first.actions, again.actions) and first.actions.abs().max() <= 1
    other = autoencode(state["autoencoder"], observations, actions, torch.ones(3, 2))
    assert not torch.equal(first.actions, other.actions)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (IQL, {"expectile": 1.5}, r"expectile is 1\.5; it must lie in \[0, 1\]"),
        (IQL, {"policy_schedule": "line"}, "policy_schedule is 'line'"),
        (AWAC, {"greatest_weight": 0.0}, "greatest_weight"),
        (TD3BC, {"policy_every": 0}, "policy_every is 0"),
        (A2PR, {"autoencoder_width": 0}, "autoencoder_width is 0"),
        (BC, {"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_wrong_settings_are_named(kind: type[Algorithm], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        kind(**values)
