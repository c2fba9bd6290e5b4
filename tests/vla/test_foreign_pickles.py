"""No file that is loaded may run code: a pickle that calls something is refused before it does."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sim
import vla
import world_models
from sim.contract import EnvironmentRequestError
from sim.libero.tasks import read_init_states
from tests.vla.policies.helpers import small_policy
from tests.vla.rl.helpers import TrainableFakePolicy, reward, training_parts
from vla.errors import ReflexError
from vla.imitation.loop import OPTIMISER_FILE as IMITATION_FILE
from vla.imitation.loop import ImitationConfig, ImitationTrainer
from vla.rewards.variants.success_bank import FILE as BANK_FILE
from vla.rl.averaging import WEIGHTS_FILE, WeightAverage
from vla.rl.config import AlgoConfig
from vla.rl.critic import FILE as CRITIC_FILE
from vla.rl.critic import Critic
from vla.rl.state import OPTIMISER_FILE, load_optimiser
from vla.rl.update import make_optimiser
from vla.rl.variants.oprl import FOLDER as OPRL_FOLDER
from vla.rl.variants.oprl import OPTIMISER_FILE as OPRL_FILE
from vla.rl.variants.oprl import Oprl
from vla.rl.variants.webrl_replay import FILE as REPLAY_FILE
from vla.rl.variants.webrl_replay import WebrlReplay

PACKAGES = (sim, vla, world_models)


class Intruder:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


class NoSamples:
    """What an imitation trainer that only loads learns from."""

    weights = None

    def __len__(self) -> int:
        return 1


def _imitation(folder: Path) -> None:
    policy = small_policy()
    policy.save_pretrained(folder / "policy")
    ImitationTrainer(policy, NoSamples(), ImitationConfig()).load(folder)  # type: ignore[arg-type]


def _oprl(folder: Path) -> None:
    algo = AlgoConfig(variants=["oprl"])
    Oprl(Oprl.Settings(), training_parts(algo, trainable=lambda _: TrainableFakePolicy())).load(folder)


def _optimiser(folder: Path) -> None:
    load_optimiser(folder, make_optimiser(TrainableFakePolicy(), AlgoConfig()), torch.device("cpu"))


LOADERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sim.libero.tasks": ("task.pruned_init", lambda folder: read_init_states(folder / "task.pruned_init")),
    "vla.imitation.loop": (IMITATION_FILE, _imitation),
    "vla.rewards.variants.success_bank": (
        BANK_FILE,
        lambda folder: reward("success_bank", reward="binary").load(folder),
    ),
    "vla.rl.averaging": (
        WEIGHTS_FILE,
        lambda folder: WeightAverage(TrainableFakePolicy().parameters(), 0.5).load_weights(folder),
    ),
    "vla.rl.critic": (CRITIC_FILE, lambda folder: Critic({0: 8}, window=2).load(folder)),
    "vla.rl.state": (OPTIMISER_FILE, _optimiser),
    "vla.rl.variants.oprl": (f"{OPRL_FOLDER}/{OPRL_FILE}", _oprl),
    "vla.rl.variants.webrl_replay": (
        REPLAY_FILE,
        lambda folder: WebrlReplay(WebrlReplay.Settings(), training_parts()).load(folder),
    ),
}
"""Module that calls `torch.load` -> the file it reads in a folder, and how."""


@pytest.mark.parametrize("module", LOADERS)
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(module: str, tmp_path: Path) -> None:
    marker, (file, load) = tmp_path / "unpickled", LOADERS[module]
    path = tmp_path / "checkpoint" / file
    path.parent.mkdir(parents=True)
    torch.save(Intruder(marker), path)
    with pytest.raises((ReflexError, EnvironmentRequestError), match=path.name):
        load(tmp_path / "checkpoint")
    assert not marker.exists(), "the file's code ran"


def test_the_pickle_would_make_its_file(tmp_path: Path) -> None:
    """Without which the test above could not fail."""
    marker, path = tmp_path / "unpickled", tmp_path / "file.pt"
    torch.save(Intruder(marker), path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def _loading(module: Path) -> bool:
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    return any(ast.unparse(call.func) == "torch.load" for call in calls)


def test_every_module_that_loads_with_torch_is_tried() -> None:
    found = set()
    for package in PACKAGES:
        root = Path(package.__path__[0])
        for module in root.rglob("*.py"):
            if _loading(module):
                found.add(".".join(module.relative_to(root.parent).with_suffix("").parts))
    assert found == set(LOADERS)
