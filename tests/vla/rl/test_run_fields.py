"""Every field of `TrainConfig` acts in a run: changing it changes what the run does, and to what is said here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import world_models.jepa
from sim.pool import EnvironmentPool
from tests.fake_wandb import FakeWandb
from tests.fakes import FakeSuite
from tests.vla.rl.helpers import TrainableFakePolicy, load_fake_policy, small_config
from tests.vla.rl.test_collection import episode_of
from vla.data import lerobot_reader
from vla.errors import ReflexError
from vla.rl import loop
from vla.rl.config import TrainConfig
from vla.rl.encoder import demonstration_rollouts, encoder_requests
from vla.rl.loop import Components, train
from vla.rl.sampling import rollout_seeds
from vla.run.devices import resolve_device
from vla.run.run_folder import RunFolder
from vla.run.seeding import derive_seed

SUITES: list[FakeSuite] = []
"""Made by `any_suite`, newest last."""


def any_suite(name: str, image_size: int | None = None) -> FakeSuite:
    SUITES.append(FakeSuite(name, image_size))
    return SUITES[-1]


class Runs:
    """Runs of an iteration of one group, and what was asked of their parts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.pools: list[tuple[str, int, int]] = []
        self.devices: list[str] = []
        self.loaded: list[tuple[str, str]] = []
        self.precisions: list[str] = []
        noted = self.pools

        class Noted(EnvironmentPool):
            """Simulates in this process whatever was asked for."""

            def __init__(self, suite: str, slots: int, workers: int, *rest: Any, **options: Any) -> None:
                noted.append((suite, slots, workers))
                super().__init__(suite, slots, 0, *rest, **options)

        def resolve(name: str) -> torch.device:
            self.devices.append(name)
            return resolve_device("cpu")

        monkeypatch.setattr(loop, "EnvironmentPool", Noted)
        monkeypatch.setattr(loop, "resolve_device", resolve)

    def load(self, source: str, device: str) -> TrainableFakePolicy:
        self.loaded.append((source, device))
        policy = load_fake_policy(source, device)
        policy.set_precision = self.precisions.append  # type: ignore[method-assign, assignment]
        return policy

    def config(self, **changes: Any) -> TrainConfig:
        settings = {
            "iterations": 1, "evaluate_every": 0, "videos_per_task": 0, "algo_group_size": 2,
            "algo_groups_per_iteration": 1, "algo_max_sampling_rounds": 1, "algo_initial_states": "even",
        }  # fmt: skip
        return small_config(self.folder / "run", **(settings | changes))

    def run(self, **changes: Any) -> SimpleNamespace:
        """What a run left in its folder, and its summary."""
        components = Components(f"{__name__}:any_suite", self.load, lambda _: None)
        summary = train(self.config(**changes), components)
        path = self.folder / "run"
        folder = RunFolder(path, resume=True)
        return SimpleNamespace(
            path=path,
            summary=summary,
            metrics=folder.read_metrics(),
            episodes=folder.read_episodes(),
            protocol=json.loads((path / "protocol.json").read_text()),
            checkpoints=sorted(folder.name for folder in (path / "checkpoints").iterdir() if folder.name != "last"),
        )


def _policy(runs: Runs, stronger: bool) -> float:
    """The gain that training starts from."""
    TrainableFakePolicy(gain=0.75).save_pretrained(runs.folder / "stronger")
    found = runs.run(policy=str(runs.folder / "stronger") if stronger else "weak")
    start = json.loads((found.path / "checkpoints/0/policy/config.json").read_text())
    return float(start["gain"])


SWAPPED = {"image": "wrist_image", "wrist_image": "image"}


def _feature_map(runs: Runs, given: dict[str, Any]) -> dict[str, str]:
    """What the suite calls the cameras of the policy in training."""
    policies: list[TrainableFakePolicy] = []
    load = runs.load
    runs.load = lambda *source: policies.append(load(*source)) or policies[-1]  # type: ignore[method-assign, func-returns-value]
    runs.run(feature_map=given)
    return dict(policies[0].feature_map.cameras)


def _output(runs: Runs, name: str) -> list[str]:
    config = replace(runs.config(), output=str(runs.folder / name))
    train(config, Components(f"{__name__}:any_suite", runs.load, lambda _: None))
    return [path.parent.name for path in runs.folder.glob("*/summary.json")]


def _encoder_steps(runs: Runs, steps: int) -> int:
    """That the encoder's training is asked for, which is not carried out."""
    asked: list[int] = []

    def trained(clips: Any, config: Any, *_: Any) -> Any:
        asked.append(config.steps)
        raise ReflexError("enough")

    runs.monkeypatch.setattr(world_models.jepa, "train_jepa", trained)
    with pytest.raises(ReflexError, match="enough"):
        runs.run(encoder="jepa", encoder_steps=steps, algo_reward="srpo")
    return asked[0]


def _demonstrations(runs: Runs, dataset: str | None) -> list[str]:
    """The datasets that are read."""
    read: list[str] = []

    def read_demonstrations(path: str, tasks: list[int], limit: int | None) -> Iterator[Any]:
        read.append(path)
        yield episode_of(torch.zeros(3, 2, 2, 3, dtype=torch.uint8).numpy())

    runs.monkeypatch.setattr(lerobot_reader, "read_demonstrations", read_demonstrations)
    found = demonstration_rollouts(runs.config(demonstrations=dataset), [0], 2)
    assert bool(found) == (dataset is not None)
    return read


def _refused(runs: Runs, gigabytes: float) -> bool:
    try:
        runs.run(max_frame_gigabytes=gigabytes)
    except ReflexError as error:
        assert "max_frame_gigabytes" in str(error)
        return True
    return False


def _threads(runs: Runs, count: int) -> int:
    before = torch.get_num_threads()
    try:
        return int(runs.run(threads=count).summary["threads"])
    finally:
        torch.set_num_threads(before)


def _resumed(runs: Runs, resume: bool) -> list[int]:
    """The steps of a run that is asked for twice, the second time for one iteration more; or those of the first."""
    runs.run()
    try:
        runs.run(iterations=2, resume=resume)
    except ReflexError as error:
        assert "resume=true" in str(error)
    return [line["step"] for line in RunFolder(runs.folder / "run", resume=True).read_metrics()]


def _device(runs: Runs, name: str) -> tuple[list[str], set[str]]:
    runs.run(device=name)
    return runs.devices, {device for _, device in runs.loaded}


def _precision(runs: Runs, name: str) -> str:
    runs.run(precision=name)
    return runs.precisions[0]


def _pool(runs: Runs, **changes: int) -> tuple[int, int]:
    """Slots and workers."""
    runs.run(**changes)
    return runs.pools[-1][1:]


def _seeds(runs: Runs, seed: int) -> list[int]:
    """Of the rollouts, those of the evaluation before and after included."""
    found = runs.run(seed=seed, evaluate_every=1, evaluation_episodes_per_task=1, tasks=[0])
    return [line["seed"] for line in found.episodes]


def _expected_seeds(seed: int) -> list[int]:
    held_out = derive_seed(seed, "eval", 0, 0)
    return [held_out, *rollout_seeds(2, seed, 0), held_out]


def _logged(runs: Runs, logger: str) -> list[int]:
    """The steps that Weights & Biases was told of."""
    fake = FakeWandb()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", fake)
        runs.run(logger=logger, iterations=2, evaluate_every=0)
    return [step for step, _ in fake.logged]


def _algo(runs: Runs, size: int) -> int:
    return len(runs.run(algo_group_size=size).episodes)


CASES: dict[str, tuple[Callable[[Runs, Any], Any], list[tuple[Any, Any]]]] = {
    "suite": (
        lambda runs, value: runs.run(suite=value).protocol["suite"],
        [("fake", "fake"), ("other", "other")],
    ),
    "image_size": (
        lambda runs, value: (
            runs.run(image_size=value) and {suite.embodiment.cameras[0].height for suite in SUITES[-2:]}
        ),
        [(None, {16}), (24, {24})],
    ),
    "tasks": (
        lambda runs, value: {line["task_id"] for line in runs.run(tasks=value, algo_groups_per_iteration=3).episodes},
        [(None, {0, 1, 2}), ([1], {1})],
    ),
    "feature_map": (_feature_map, [({}, {}), ({"cameras": SWAPPED}, SWAPPED)]),
    "policy": (_policy, [(False, 0.25), (True, 0.75)]),
    "output": (_output, [("here", ["here"]), ("there", ["there"])]),
    "algo": (_algo, [(2, 2), (3, 3)]),
    "encoder": (
        lambda runs, value: (runs.run(encoder=value, algo_reward="srpo").path / "encoder").exists(),
        [("pixels", False), ("policy", True)],
    ),
    "encoder_episodes_per_task": (
        lambda runs, value: len(encoder_requests(runs.config(encoder_episodes_per_task=value), FakeSuite(), [0, 2])),
        [(1, 2), (3, 6)],
    ),
    "encoder_steps": (_encoder_steps, [(7, 7), (9, 9)]),
    "demonstrations": (_demonstrations, [(None, []), ("some/dataset", ["some/dataset"])]),
    "logger": (_logged, [("tensorboard", []), ("wandb", [1, 2])]),
    "iterations": (lambda runs, value: runs.run(iterations=value).metrics[-1]["step"], [(1, 1), (3, 3)]),
    "max_minutes": (
        lambda runs, value: runs.run(max_minutes=value).summary["stopped_by"],
        [(None, "iterations"), (1e-6, "minutes")],
    ),
    "target_success": (
        lambda runs, value: runs.run(target_success=value, evaluate_every=1).summary["stopped_by"],
        [(None, "iterations"), (0.0, "target")],
    ),
    "evaluate_every": (
        lambda runs, value: [
            line["step"] for line in runs.run(evaluate_every=value, iterations=3).metrics if "eval/success_rate" in line
        ],
        [(0, []), (1, [0, 1, 2, 3]), (2, [0, 2, 3])],
    ),
    "evaluation_episodes_per_task": (
        lambda runs, value: runs.run(evaluation_episodes_per_task=value, evaluate_every=1).summary["episodes"],
        [(1, 3), (4, 12)],
    ),
    "videos_per_task": (
        lambda runs, value: len(list((runs.run(videos_per_task=value).path / "videos").rglob("*.mp4"))),
        [(0, 0), (1, 2 * 3)],
    ),
    "checkpoint_every": (
        lambda runs, value: runs.run(checkpoint_every=value, iterations=3).checkpoints,
        [(1, ["0", "1", "2", "3"]), (2, ["0", "2", "3"])],
    ),
    "keep_checkpoints": (
        lambda runs, value: runs.run(keep_checkpoints=value, checkpoint_every=1, iterations=2).checkpoints,
        [(None, ["0", "1", "2"]), (1, ["2"]), (2, ["1", "2"])],
    ),
    "seed": (_seeds, [(0, _expected_seeds(0)), (5, _expected_seeds(5))]),
    "num_workers": (lambda runs, value: _pool(runs, num_workers=value), [(0, (8, 0)), (3, (8, 3)), (50, (8, 8))]),
    "num_slots": (lambda runs, value: _pool(runs, num_slots=value), [(8, (8, 0)), (4, (4, 0))]),
    "max_frame_gigabytes": (_refused, [(8.0, False), (1e-6, True)]),
    "device": (_device, [("cpu", (["cpu"], {"cpu"})), ("auto", (["auto"], {"cpu"}))]),
    "precision": (_precision, [("float32", "float32"), ("bfloat16", "bfloat16")]),
    "threads": (_threads, [(1, 1), (2, 2)]),
    "resume": (_resumed, [(False, [1]), (True, [1, 2])]),
}
"""Field -> what it changes about a run, and what that is for some values."""


def test_every_field_is_tried() -> None:
    assert set(CASES) == {field.name for field in fields(TrainConfig)}


@pytest.mark.parametrize(
    ("field", "value", "expected"), [(name, *case) for name, (_, values) in CASES.items() for case in values]
)
def test_a_field_acts_in_a_run(
    field: str, value: Any, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, values = CASES[field]
    assert any(other != expected for _, other in values), "that would be so whatever the field was"
    assert act(Runs(tmp_path, monkeypatch), value) == expected
