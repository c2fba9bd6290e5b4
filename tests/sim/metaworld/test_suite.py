"""The suite: its name and variants, its protocol, its self test, and what is said where the package is missing."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from sim.contract import EnvironmentRequestError, FloatArray, ManipulationEnvironment
from sim.metaworld import suite as suite_module
from sim.metaworld.expert import MetaWorldExpert
from sim.metaworld.suite import MetaWorldSuite
from sim.metaworld.tasks import SAWYER, SAWYER_TRUE_STATE, TASKS
from sim.suites import get_suite


@pytest.fixture
def installed() -> None:
    pytest.importorskip("metaworld")


def test_a_missing_or_other_package_is_one_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EnvironmentRequestError, match=r"needs the package metaworld: pip install .*metaworld==3\.1\.1"):
        get_suite("metaworld")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0")
    with pytest.raises(EnvironmentRequestError, match=r"metaworld 3\.1\.1, and 2\.0\.0 is installed"):
        get_suite("metaworld_state")


@pytest.mark.usefixtures("installed")
def test_nothing_of_metaworld_is_imported_before_a_task_is_built() -> None:
    code = (
        "import sys; from sim.suites import get_suite; suite = get_suite('metaworld'); suite.protocol(); "
        "sys.exit('metaworld' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("installed")
def test_names_and_variants() -> None:
    seen, told, both = get_suite("metaworld", 32), get_suite("metaworld_state"), get_suite("metaworld_state", 32)
    assert seen.embodiment == SAWYER.with_image_size(32)
    assert told.embodiment == SAWYER_TRUE_STATE and told.embodiment.state.size == 39
    assert both.embodiment.cameras == seen.embodiment.cameras and both.embodiment.state == told.embodiment.state
    assert len(set(told.embodiment.state.names)) == len(told.embodiment.state.units) == 39
    assert seen.task_ids == told.task_ids == tuple(range(50))
    assert seen.task_name(19) == "drawer-open" and seen.instruction(19) == "open the drawer"
    assert len({task.name for task in TASKS}) == len({task.instruction for task in TASKS}) == 50
    for unknown in ("metaworld_plain", "metaworld_state_state"):
        with pytest.raises(EnvironmentRequestError, match="unknown suite"):
            get_suite(unknown)
        with pytest.raises(EnvironmentRequestError, match="metaworld or metaworld_state"):
            MetaWorldSuite(unknown)
    for call in (seen.task_name, seen.instruction, seen.horizon, seen.make, lambda task: seen.make_expert(task, 0)):
        with pytest.raises(EnvironmentRequestError, match=r"tasks 0 to 49, not 50 \(0: assembly; 1: basketball"):
            call(50)


@pytest.mark.usefixtures("installed")
def test_the_protocol_tells_variants_and_sizes_apart() -> None:
    protocols = [
        get_suite(*arguments).protocol()
        for arguments in (("metaworld",), ("metaworld_state",), ("metaworld", 32), ("metaworld_state", 64))
    ]
    assert len({json.dumps(protocol) for protocol in protocols}) == 4
    (camera,) = protocols[0]["cameras"]
    assert (camera["name"], camera["size"], camera["azimuth"]) == ("image", 64, 140.0)
    assert protocols[1]["cameras"] == []
    assert (protocols[0]["action_repeat"], protocols[0]["horizon"]) == (4, 125)
    assert protocols[0]["splits"] == {
        "train": "metaworld.MT1(task, seed=1).train_tasks",
        "eval": "metaworld.MT1(task, seed=42).train_tasks",
    }


@pytest.mark.usefixtures("installed")
def test_tasks_are_gymnasium_ids() -> None:
    environment = gymnasium.make("reflex/metaworld-drawer-close-v0", image_size=32)
    observation, info = environment.reset(seed=0, options={"init_state_id": 5, "split": "eval"})
    assert observation["images"]["image"].shape == (32, 32, 3) and observation["instruction"] == "close the drawer"
    assert (info["task_id"], info["init_state_id"], info["success"]) == (18, 5, False)
    told = gymnasium.make("reflex/metaworld-18-v0", suite="metaworld_state", flat=True)
    numbers, _ = told.reset(seed=0, options={"init_state_id": 5, "split": "eval"})
    assert list(numbers) == ["state"]
    np.testing.assert_array_equal(numbers["state"][:4], observation["state"])


@pytest.mark.usefixtures("installed")
def test_the_self_test_notices_an_expert_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = MetaWorldSuite("metaworld", 32)
    findings = suite.self_test(pictures=True)
    assert findings["off_protocol"] == [] and 5 < findings["expert_steps"] < 30

    class Asleep(MetaWorldExpert):
        def act(self, environment: ManipulationEnvironment) -> FloatArray:
            return np.zeros(4, np.float32)

    monkeypatch.setattr(suite, "make_expert", lambda task, seed: Asleep(TASKS[task]))
    with pytest.raises(EnvironmentRequestError, match="another simulator"):
        suite.self_test(pictures=False)
    assert suite_module.TASKS[suite_module._PROBE].name == "button-press-topdown"
