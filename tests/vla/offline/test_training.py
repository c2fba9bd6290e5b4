"""Offline training: it finds what is best in mixed data, is repeatable, resumes exactly, and says when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.vla.offline.corridor import corridor, steps_to_goal
from vla.errors import ReflexError
from vla.offline.algorithms.bc import BC
from vla.offline.algorithms.iql import IQL
from vla.offline.training import OfflineSettings, OfflineTrainer, draw, has_compiler, train_offline
from vla.policies.registry import load_policy

QUICK = IQL(learning_rate=3e-3, temperature=20.0, target_share=0.05)


def small(**settings: Any) -> OfflineSettings:
    """A few hundred updates of small networks, not compiled."""
    given: dict[str, Any] = {"updates": 400, "batch_size": 64, "hidden": (32, 32), "compiled": False, "device": "cpu"}
    return OfflineSettings(**(given | {"algorithm": IQL(learning_rate=3e-3)} | settings))


def test_iql_walks_better_than_the_data() -> None:
    data = corridor()
    imitator = train_offline(data, small(algorithm=BC(learning_rate=3e-3)), seed=0)
    policy = train_offline(data, small(algorithm=QUICK), seed=0)
    assert steps_to_goal(policy) <= 7  # at full speed it takes 5
    assert steps_to_goal(imitator) >= 9  # the data's mean action


def test_chunks_of_actions_are_decided_on_at_once() -> None:
    policy = train_offline(corridor(), small(chunk_horizon=3, algorithm=QUICK), seed=0)
    assert policy.spec.chunk_horizon == policy.spec.execute_steps == 3
    assert steps_to_goal(policy) <= 9


def test_the_same_seed_gives_the_same_policy_and_another_does_not() -> None:
    first, again, other = (train_offline(corridor(), small(updates=5), seed) for seed in (1, 1, 2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.network["weight_1"], other.network["weight_1"])


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train_offline(corridor(), small(updates=2), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_resumed_trainer_does_what_one_never_stopped_does(tmp_path: Path) -> None:
    data, settings = corridor(), small(updates=520)  # across two blocks of batches
    whole = OfflineTrainer(data, settings, seed=4)
    whole.run(490)
    whole.save(tmp_path)
    whole.run(30)
    resumed = OfflineTrainer(data, settings, seed=4)
    resumed.load(tmp_path)
    assert resumed.done == 490
    resumed.run(30)
    for name, part in whole.state.items():
        for key, value in part.items():
            assert torch.equal(value, resumed.state[name][key]), f"{name} {key}"
    assert load_policy(tmp_path).spec.embodiment.state.names == ("place",)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    trainer = OfflineTrainer(corridor(), small(), seed=0)
    trainer.save(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"short")
    with pytest.raises(ReflexError, match=r"state\.safetensors"):
        trainer.load(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch compiles for the CPU with a C++ compiler")
def test_a_compiled_update_is_the_same_function() -> None:
    data = corridor()
    plain = train_offline(data, small(updates=3, hidden=(8, 8), batch_size=16), seed=0)
    compiled = train_offline(data, small(updates=3, hidden=(8, 8), batch_size=16, compiled=True), seed=0)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, compiled.state_dict()[name], atol=1e-5), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_update_captured_on_a_gpu_is_the_same_function() -> None:
    data = corridor()
    here, there = (train_offline(data, small(updates=20, device=device), seed=0) for device in ("cpu", "cuda"))
    for name, value in here.state_dict().items():
        assert torch.allclose(value, there.state_dict()[name], atol=1e-4), name


def test_bfloat16_computes_nearly_the_same() -> None:
    data = corridor()
    exact, rounded = (train_offline(data, small(updates=50, precision=kind), 0) for kind in ("float32", "bfloat16"))
    states = torch.linspace(-1, 1, 9)[:, None].numpy()
    actions = [
        policy.act({"images": {}, "state": states, "instruction": [""] * 9}).actions for policy in (exact, rounded)
    ]
    assert 0 < np.abs(actions[0] - actions[1]).max() < 0.05


def test_a_loss_that_explodes_is_named() -> None:
    data = corridor()
    broken = data.with_rewards(np.full(len(data), 3e38))
    with pytest.raises(ReflexError, match=r"train/loss/\w+ became (inf|nan) within 2 updates"):
        train_offline(broken, small(updates=2), seed=0)


def test_draws_follow_their_probabilities() -> None:
    generator = np.random.default_rng(0)
    numbers = draw(generator, 3, np.cumsum([0.0, 0.25, 0.75]), (20_000,))
    shares = np.bincount(numbers, minlength=3) / 20_000
    assert shares[0] == 0
    assert abs(shares[1] - 0.25) < 0.02
    assert set(draw(generator, 2, None, (50,)).tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "updates is 0; it must be at least 1"),
        ({"hidden": ()}, r"hidden is \[\]"),
        ({"weighting": "worst"}, "weighting is 'worst'; it must be one of"),
        ({"best_share": 1.5}, "best_share is 1.5"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        small(**settings)
