"""`vla robot emulate robot=franka`: the scene around the arm, its pictures, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_robot.arms.franka import FrankaArm, FrankaSettings
from real_robot.cameras.camera import Camera, CameraConfig
from real_robot.emulators.command import EmulateConfig, emulate
from real_robot.emulators.franka import FrankaEmulator
from real_robot.emulators.franka_scene import MirroredTabletop, Standing
from sim.tabletop.environment import TabletopEnvironment
from vla.errors import ReflexError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the command says, while the robot runs."""
    missing = [name for name in ("franky", "franky_sim") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install '.[robots,emulators]'")
    process = subprocess.Popen(
        [sys.executable, "-m", "vla", "robot", "emulate", "robot=franka", "task=3", "init_state=2"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path_factory.mktemp("emulate"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    yield dict(process.stdout.readline().rstrip().split(": ", 1) for _ in range(4))
    process.send_signal(signal.SIGINT)
    assert process.wait(20.0) == 0


def ask(said: dict[str, str], name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The emulator's answer."""
    url = said["status"].removesuffix("status") + name
    with urllib.request.urlopen(url, None if values is None else json.dumps(values).encode()) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_the_arm_and_its_scene_stand_as_the_suite_has_them(said: dict[str, str]) -> None:
    assert set(said) == {"port", "camera image", "camera wrist_image", "status"}
    environment = TabletopEnvironment(3)
    environment.reset_to("eval", 2)
    status = ask(said, "status")
    assert status["instruction"] == environment.instruction and not status["has_succeeded"]
    assert status["hand"] == pytest.approx(environment.robot_state()[:6].tolist(), abs=2e-3)
    for name, place in environment.world_state().objects.items():
        assert status["objects"][name] == pytest.approx(place.tolist(), abs=2e-3)
    with FrankaArm(FrankaSettings(port=said["port"])) as arm:
        assert arm.observe().state == pytest.approx(environment.robot_state(), abs=2e-3)


def test_the_cameras_show_what_the_suite_would_show(said: dict[str, str]) -> None:
    environment = TabletopEnvironment(3)
    environment.reset_to("eval", 2)
    pictures = environment.render_observation()["images"]
    for name, picture in pictures.items():
        with Camera(CameraConfig(name, said[f"camera {name}"], *picture.shape[:2])) as camera:
            frame = camera.latest()
        assert frame is not None
        assert np.abs(frame.image.astype(int) - picture).mean() < 3.0


def test_a_scene_is_put_into_another_initial_state(said: dict[str, str]) -> None:
    environment = TabletopEnvironment(3)
    environment.reset_to("train", 7)
    status = ask(said, "reset", {"split": "train", "init_state": 7})
    assert (status["split"], status["init_state"]) == ("train", 7)
    for name, place in environment.world_state().objects.items():
        assert status["objects"][name] == pytest.approx(place.tolist(), abs=2e-3)
    for name, wrong in (("reset", {"init_state": 99}), ("dance", {})):
        with pytest.raises(urllib.error.HTTPError):
            ask(said, name, wrong)
    ask(said, "reset", {"split": "eval", "init_state": 2})


@pytest.mark.parametrize("task", range(10))
def test_a_mirror_judges_a_scene_as_the_suite_does(task: int) -> None:
    """What is shown of a scene of the suite's own is that scene."""
    environment = TabletopEnvironment(task)
    environment.reset_to("eval", 1)
    mirror = MirroredTabletop(Standing(task, "eval", 1), 64)
    for _ in range(3):
        environment.advance(np.array([0.3, 0.5, -0.5, 0.0, 0.0, 0.0, 1.0], np.float32))
    mirror.show(mirror_order(environment))
    assert mirror.robot_state() == pytest.approx(environment.robot_state())
    assert mirror.true_progress() == pytest.approx(environment.true_progress())
    assert not mirror.has_succeeded


def mirror_order(environment: TabletopEnvironment) -> np.ndarray:
    """The suite's own numbers in the mirror's order."""
    qpos = environment.data.qpos
    slides = [environment._drawer_address, environment._button_address]
    objects = [qpos[address : address + 7] for address in environment._object_addresses]
    return np.concatenate([qpos[:9], *objects, [qpos[address] for address in slides if address >= 0]])


def test_settings_of_another_robot_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReflexError, match="robot=so101"):
        emulate(EmulateConfig(robot="franka", calibration="arm.json"))
    monkeypatch.setattr("real_robot.emulators.franka_process.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ReflexError, match=r"reflex-vla\[emulators\]"):
        FrankaEmulator()
