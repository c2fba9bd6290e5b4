"""Every setting of `vla eval` reaches what it is there for: changing it changes one thing that can be seen."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from sim.contract import Suite
from sim.pool import EnvironmentPool
from tests.fake_wandb import FakeWandb
from tests.fakes import FakePolicy, FakeSuite
from tests.vla.evaluation.small_runs import config
from vla.errors import ReflexError
from vla.evaluation import runner
from vla.evaluation.runner import EvaluationConfig, policy_fingerprint, run_evaluation, suite_name
from vla.evaluation.videos import find_videos
from vla.policies.protocol import PolicyOutput
from vla.policies.sampling import GREEDY, Sampling, as_it_is
from vla.run.cores import available_cpus
from vla.run.run_folder import RunFolder
from vla.run.seeding import derive_seed

SWAPPED = {"image": "wrist_image", "wrist_image": "image"}

REACHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "output": ({"output": "elsewhere"}, {"folder": "elsewhere"}),
    "policy": ({"policy": "0.7"}, {"policy": "0.7"}),
    "feature_map": ({"feature_map": {"cameras": SWAPPED}}, {"cameras": SWAPPED}),
    "suite": ({"suite": "other"}, {"suite": "other", "simulated": "other"}),
    "protocol": (
        {"suite": "libero_spatial", "protocol": "libero-512"},
        {"suite": "libero_spatial_512", "simulated": "libero_spatial_512"},
    ),
    "tasks": ({"tasks": [1]}, {"tasks": [1]}),
    "episodes_per_task": ({"episodes_per_task": 2}, {"states": [0, 1]}),
    "split": ({"split": "train"}, {"split": "train"}),
    "mode": ({"mode": "greedy"}, {"mode": "greedy"}),
    "temperature": ({"temperature": 1.6}, {"temperature": 1.6}),
    "seed": ({"seed": 5}, {"seeds": [derive_seed(5, "eval", 0, state) for state in range(3)]}),
    "image_size": ({"image_size": 24}, {"image_size": 24, "simulated_size": 24}),
    "num_slots": ({"num_slots": 2}, {"slots": 2}),
    "num_workers": ({"num_workers": 2}, {"workers": 2}),
    "shard": ({"shard": "2/3"}, {"states": [1]}),
    "videos_per_task": ({"videos_per_task": 2}, {"films": [0, 1]}),
    "device": ({"device": "cuda:1"}, {"device": "cuda:1", "drawn_beside": "cuda:1"}),
    "threads": ({"threads": 3}, {"threads": 3}),
}
"""Field -> what is set, and what is then seen; of a run of task 0 with three initial states."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, pool: EnvironmentPool) -> dict[str, Any]:
    """What the parts of a run were told, filled while it runs."""
    found: dict[str, Any] = {}

    class Recording(FakePolicy):
        def act(self, observations: Any, sampling: Sampling = GREEDY, generators: Any = None) -> PolicyOutput:
            found.update(mode="greedy" if sampling.greedy else "sample", temperature=sampling.temperature)
            found.update(cameras=self.feature_map.cameras)
            return super().act(observations, sampling, generators)

    def suite(name: str, image_size: int | None = None) -> Suite:
        found.update(suite=name, image_size=image_size)
        return FakeSuite(name, image_size)

    def load(name: str, device: str) -> FakePolicy:
        found.update(policy=name, device=device)
        return Recording(gain=float(name))

    def simulate(name: str, slots: int, workers: int, image_size: int | None) -> Any:
        found.update(simulated=name, slots=slots, workers=workers, simulated_size=image_size)
        return nullcontext(pool)

    monkeypatch.setattr(runner, "get_suite", suite)
    monkeypatch.setattr(runner, "load_policy", load)
    monkeypatch.setattr(runner, "EnvironmentPool", simulate)
    monkeypatch.setattr(runner, "set_threads", lambda count: found.update(threads=count))
    monkeypatch.setattr(runner, "resolve_device", lambda name: name)
    monkeypatch.setattr(runner, "draw_beside", lambda device: found.update(drawn_beside=device))
    return found


def observe(seen: dict[str, Any], settings: EvaluationConfig) -> dict[str, Any]:
    """Run an evaluation; what its parts were told and what it left behind."""
    run_evaluation(settings)
    run = RunFolder(Path(settings.output), resume=True)
    rows = run.read_episodes()
    assert {row["protocol"] for row in rows} == {run.read_summary()["protocol"]}
    return seen | {
        "folder": run.path.name,
        "tasks": sorted({row["task_id"] for row in rows}),
        "states": [row["init_state_id"] for row in rows],
        "split": rows[0]["split"],
        "seeds": [row["seed"] for row in rows],
        "films": [video.init_state_id for video in find_videos(run.videos_path)],
    }


@pytest.mark.parametrize("name", REACHES)
def test_a_setting_reaches_its_place(
    seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, expected = REACHES[name]
    plain = observe(seen, config(Path("plain"), tasks=[0]))
    changed = observe(seen, config(**({"output": Path("changed"), "tasks": [0]} | changes)))
    assert {key: changed[key] for key in expected} == expected
    assert all(plain[key] != value for key, value in expected.items()), "the plain run would pass too"


def test_every_setting_has_a_test() -> None:
    elsewhere = {
        "logger",  # below
        "resume",  # test_runner: an interrupted run resumes, and is refused without it
    }
    assert {field.name for field in fields(EvaluationConfig)} == set(REACHES) | elsewhere


def test_metrics_go_to_the_logger_that_is_named(
    seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    observe(seen, config(tmp_path / "plain", tasks=[0]))
    assert not fake.logged
    observe(seen, config(tmp_path / "shown", tasks=[0], logger="wandb"))
    assert [(step, "eval/success_rate" in metrics) for step, metrics in fake.logged] == [(0, True)]


def test_what_is_not_set_is_taken_from_the_machine_and_the_suite(seen: dict[str, Any], tmp_path: Path) -> None:
    found = observe(seen, config(tmp_path / "run", tasks=None, num_workers=None, num_slots=100))
    assert found["tasks"] == [0, 1, 2]
    assert found["slots"] == 9, "no more than there are episodes"
    assert found["workers"] == min(available_cpus(), 9)


def test_a_run_describes_itself(seen: dict[str, Any], tmp_path: Path) -> None:
    """The protocol on file is that of the settings: what is hashed is what was done."""
    settings = config(tmp_path / "run", tasks=[0], split="train", temperature=1.6, seed=5)
    observe(seen, settings)
    run = RunFolder(tmp_path / "run", resume=True)
    document = runner.Protocol.of(FakeSuite(), "train", as_it_is(1.6), 5).document()
    assert json.loads((run.path / "protocol.json").read_text()) == document
    assert (document["split"], document["temperature"], document["seed"]) == ("train", 1.6, 5)
    assert {row["protocol"] for row in run.read_episodes()} == {document["hash"]}
    assert run.read_config()["temperature"] == 1.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} is 0; it must be at least 1")
            for name in ("episodes_per_task", "num_slots", "threads", "image_size")
        ),
        ({"mode": "sample", "temperature": 0.0}, "mode=sample needs one above 0"),
        *(({name: -1}, f"{name} is -1; it must be at least 0") for name in ("num_workers", "videos_per_task", "seed")),
        ({"protocol": "openvla"}, "unknown protocol 'openvla'; it is one of libero-official, libero-512, or null"),
        ({"protocol": "libero-512"}, "protocol=libero-512 is for a LIBERO suite, such as libero_spatial, not 'fake'"),
        ({"protocol": "libero-512", "suite": "libero_10_512"}, "not 'libero_10_512'"),
        ({"shard": "3/2"}, "shard='3/2' must be part/parts, counted from 1, such as 2/4"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        config(tmp_path, **changes)


def test_suites_under_a_protocol() -> None:
    assert suite_name("libero_10", None) == suite_name("libero_10", "libero-official") == "libero_10"
    assert suite_name("libero_10", "libero-512") == "libero_10_512"


class Weighed(torch.nn.Module):
    """A parameter and a buffer."""

    policy_id = "weighed"

    def __init__(self, name: str = "scale", value: float = 1.0, kept: float = 2.0, dtype: Any = torch.float32) -> None:
        super().__init__()
        self.register_parameter(name, torch.nn.Parameter(torch.full((2,), value, dtype=dtype)))
        self.register_buffer("kept", torch.tensor([kept]))


def test_a_fingerprint_changes_with_everything_a_policy_computes_with() -> None:
    plain = policy_fingerprint(Weighed())
    assert policy_fingerprint(Weighed()) == plain
    renamed = Weighed()
    renamed.policy_id = "another"
    reshaped = Weighed()
    reshaped.scale = torch.nn.Parameter(torch.ones(1, 2))
    others = [Weighed(value=1.5), Weighed(kept=2.5), Weighed(name="gain"), Weighed(dtype=torch.float64)]
    assert len({plain, *map(policy_fingerprint, [*others, renamed, reshaped])}) == 7

    class Nameless:
        policy_id = "far away"  # behind a socket: no weights here

    assert policy_fingerprint(Nameless()) != plain
