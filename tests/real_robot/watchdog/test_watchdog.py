"""The watchdog against a loop that dies, freezes, disobeys or is told to stop; the arm goes on moving meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_robot.watchdog.settings import Latch
from tests.real_robot.watchdog.shared_arm import Plant
from vla.errors import ReflexError
from vla.run.jsonl import read_lines


class Scene:
    """A moving arm and the loop that moves it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plant = folder, Plant(folder / "servos")
        self.loop: subprocess.Popen[bytes] | None = None

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        self.loop = subprocess.Popen(
            [sys.executable, "-m", "tests.real_robot.watchdog.moving", str(self.folder), json.dumps(options)],
            stdin=subprocess.PIPE,
        )
        self.wait_for(self.folder / "moving")
        time.sleep(0.4)
        assert self.plant.speeds[-1][1] > 100.0, "it moves"
        return self.loop

    def wait_for(self, path: Path, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < until, f"no {path}"
            time.sleep(0.005)

    def wait_for_event(self, *names: str) -> dict[str, Any]:
        """The first such line of watchdog.jsonl."""
        until = time.monotonic() + 20.0
        while time.monotonic() < until:
            for line in read_lines(self.folder / "log"):
                if line["event"] in names:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"none of {names} in {read_lines(self.folder / 'log')}")

    def close(self) -> None:
        if self.loop is not None:
            self.loop.kill()
            self.loop.wait()
        self.plant.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("number", "cause", "within"),
    [(signal.SIGKILL, "ended without releasing the arm", 0.35), (signal.SIGSTOP, "silent for", 0.6)],
)
def test_a_loop_that_is_killed_or_freezes_leaves_an_arm_that_rests(
    scene: Scene, number: int, cause: str, within: float
) -> None:
    loop = scene.start()
    os.kill(loop.pid, number)
    fault = time.monotonic()
    stopped = scene.wait_for_event("stopped", "not_verified")
    assert stopped["event"] == "stopped" and cause in stopped["cause"]
    took = scene.plant.rests_since() - fault
    assert 0.0 < took < within, "from the fault to the last motion, by the arm itself"
    assert stopped["killed"] == (number == signal.SIGSTOP), "a frozen loop still has the port"
    assert max(abs(velocity) for velocity in stopped["velocities"]) < 1.0
    assert scene.plant.servos.torque.all(), "held, not dropped"
    time.sleep(0.2)
    assert scene.plant.rests_since() < stopped["time"], "and it stays"
    with pytest.raises(ReflexError, match="reset_watchdog=true"):
        Latch(scene.folder / "latch").check(reset=False)
    Latch(scene.folder / "latch").check(reset=True)
    Latch(scene.folder / "latch").check(reset=False)


def test_a_log_that_cannot_be_written_keeps_it_from_nothing(scene: Scene) -> None:
    (scene.folder / "log").symlink_to("/dev/full")
    loop = scene.start()
    loop.kill()
    fault = time.monotonic()
    scene.wait_for(scene.folder / "latch")
    until = time.monotonic() + 5.0
    while scene.plant.speeds[-1][1] > 0.5 and time.monotonic() < until:
        time.sleep(0.01)
    assert 0.0 < scene.plant.rests_since() - fault < 0.5 and scene.plant.servos.torque.all()


def test_torque_off_is_read_back(scene: Scene) -> None:
    loop = scene.start(reaction="torque_off")
    loop.kill()
    stopped = scene.wait_for_event("stopped", "not_verified")
    assert stopped["event"] == "stopped" and stopped["torque"] == [False] * 6
    assert not scene.plant.servos.torque.any()


@pytest.mark.parametrize("obedient", [True, False])
def test_stop_on_a_pipe_stops_an_obedient_loop_and_kills_another(scene: Scene, obedient: bool) -> None:
    pipe = scene.folder / "operator"
    scene.start(pipe=str(pipe), obedient=obedient)
    pressed = time.monotonic()
    pipe.write_text("nonsense\nstop\n")
    stopped = scene.wait_for_event("stopped", "not_verified")
    assert stopped["event"] == "stopped" and "operator pressed stop" in stopped["cause"]
    assert stopped["killed"] is not obedient
    assert scene.plant.rests_since() - pressed < (0.25 if obedient else 0.6)
    assert scene.loop is not None and (scene.loop.wait(10) == 0) == obedient
    assert (scene.folder / "order").exists() == obedient


def test_a_switch_in_a_file_stops_and_so_does_one_that_disappears(scene: Scene) -> None:
    switch = scene.folder / "gpio"
    switch.write_text("0\n")
    scene.start(stop_file=str(switch))
    switch.unlink()
    stopped = scene.wait_for_event("stopped", "not_verified")
    assert "cannot be read" in stopped["cause"] and stopped["event"] == "stopped"


def test_a_silence_is_forgiven_while_the_arm_is_held_at_rest_and_no_longer(scene: Scene) -> None:
    loop = scene.start(pauses=True)
    scene.wait_for(scene.folder / "paused")
    assert [line["event"] for line in read_lines(scene.folder / "log")] == ["ready"], "0.8 s, and no trip"
    os.kill(loop.pid, signal.SIGSTOP)
    assert "silent for" in scene.wait_for_event("stopped", "not_verified")["cause"], "armed again afterwards"


def test_a_line_on_standard_input_ends_the_episode_without_a_trip(scene: Scene) -> None:
    loop = scene.start(stdin=True)
    assert loop.stdin is not None
    loop.stdin.write(b"end\n")
    loop.stdin.flush()
    assert loop.wait(10) == 0
    assert (scene.folder / "order").read_text() == "operator"
    assert [line["event"] for line in read_lines(scene.folder / "log")] == ["ready", "order"]
    assert not (scene.folder / "latch").exists()


def test_a_loop_that_finishes_is_let_go_and_a_latched_arm_is_not_moved(scene: Scene) -> None:
    loop = scene.start(finishes=True)
    assert loop.wait(10) == 0
    assert [line["event"] for line in read_lines(scene.folder / "log")] == ["ready"]
    (scene.folder / "latch").write_text(json.dumps({"cause": "it was frozen", "log": "runs/1/watchdog.jsonl"}))
    goals = scene.plant.servos.goals.copy()
    again = subprocess.run(
        [sys.executable, "-m", "tests.real_robot.watchdog.moving", str(scene.folder), "{}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode != 0 and "it was frozen (runs/1/watchdog.jsonl)" in again.stderr
    assert np.array_equal(goals, scene.plant.servos.goals)
