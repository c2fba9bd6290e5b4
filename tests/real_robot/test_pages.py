"""The commands of the pages on arms are run as they stand there, one after another, against emulated arms.

Ports, cameras, the web page's port, and how long an episode or a training lasts are exchanged; nothing else is.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from real_robot.emulators.so101 import SO101Emulator
from sim.so101.embodiment import SO101
from tests.real_robot.arms.test_calibrate import lead
from tests.real_robot.sway_policy import SwayPolicy
from tests.test_docs import shell_lines
from vla.cli import main
from vla.data.lerobot_reader import LeRobotDataset
from vla.run.jsonl import read_lines

ROOT = Path(__file__).parents[2]
MIDDLE = [0.0, -40.0, 30.0, 0.0, 0.0, 50.0]
"""Where a hand holds an arm that asks for the middle of its ranges, in degrees and per cent of the model's."""
ENDS = ([-80.0, -95.0, -20.0, -80.0, 0.0, 3.0], [80.0, -60.0, 90.0, 80.0, 0.0, 97.0], [0.0, 20.0, 0.0, 0.0, 0.0, 50.0])
"""Where it leads the arm through its ranges, above the table."""

PATIENT = "robot_settings.timeout=0.1 watchdog_timeout=2"
"""For a machine that tests share."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("running")]


@pytest.fixture(autouse=True)
def own_folder(own_state: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the commands are typed."""
    monkeypatch.chdir(tmp_path)


class Reader:
    """Somebody who reads a page and types its commands, in a folder of their own."""

    def __init__(self, arm: SO101Emulator, leader: SO101Emulator | None = None) -> None:
        self.arms = {"/dev/ttyACM0": arm} | ({} if leader is None else {"/dev/ttyACM1": leader})
        self.exchanged = {
            **{theirs: arm.port for theirs, arm in self.arms.items()},
            "cameras.front=0@480x640": f"cameras.front={arm.camera_urls['front']}",
            "cameras.wrist=2@480x640": f"cameras.wrist={arm.camera_urls['wrist']}",
            "page=8080": "page=0",
            "episodes=20 pause_seconds=10": "episodes=1",
        }

    def words(self, line: str) -> list[str]:
        """A line of the page as a shell takes it apart, with what is exchanged."""
        for theirs, ours in self.exchanged.items():
            line = line.replace(theirs, ours)
        return shlex.split(line, comments=True)

    def run(self, line: str, more: str = "") -> str:
        """Run a command to its end, with further words; what it said."""
        name, *words = [*self.words(line), *more.split()]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main(words)
        assert name == "vla" and status == 0, f"{line}\n{said.getvalue()}"
        return said.getvalue()

    def type(self, line: str) -> subprocess.Popen[str]:
        """Begin a command that somebody has to attend to, in a process of its own."""
        name, *words = self.words(line)
        assert name == "vla"
        return subprocess.Popen(
            [sys.executable, "-m", "vla.cli", *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def calibrate(self, line: str) -> str:
        """Run the command, and move the arm as it asks."""
        emulator = next(arm for port, arm in self.arms.items() if port in line)
        moves: tuple[Sequence[Sequence[float]], ...] = ((), (MIDDLE,), ENDS)
        process = self.type(line)
        out, keys = checked(process.stdout), checked(process.stdin)
        for places in moves:
            assert "press Enter" in out.readline()
            for place in places:
                lead(emulator, np.array(place))
            keys.write("\n")
            keys.flush()
        said, _ = process.communicate(timeout=60.0)
        assert process.returncode == 0, said
        lead(emulator, np.array(MIDDLE))  # from where it falls to somewhere within its ranges
        emulator.guide(None)
        return said

    def emulate(self, line: str) -> str:
        """Run the command until it says where everything is, and press Ctrl-C."""
        process = self.type(line)
        out = checked(process.stdout)
        said = []
        while not (said and "Ctrl-C" in said[-1]):
            said.append(out.readline())
            assert said[-1], f"{line}\n{''.join(said)}"
        process.send_signal(signal.SIGINT)
        assert process.wait(30.0) == 0
        return "".join(said)

    def read(self, page: str, how: Mapping[str, Callable[[str], str]]) -> list[str]:
        """Run every command of a page by the first entry whose words it has; what each said."""
        lines = [line for line in shell_lines((ROOT / "docs" / page).read_text()) if line.startswith("vla ")]
        said = []
        for line in lines:
            run = next((run for words, run in how.items() if all(word in line for word in words.split())), None)
            assert run is not None, f"{page} has a command that nobody runs: {line}"
            said.append(run(line))
        return said


def checked(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@pytest.fixture
def arm() -> Iterator[SO101Emulator]:
    """An arm of its own, whose servos are changed."""
    with SO101Emulator() as arm:
        yield arm


def test_deploy(arm: SO101Emulator, tmp_path: Path) -> None:
    reader = Reader(arm)
    SwayPolicy(SO101).save_pretrained(tmp_path / "runs" / "sft")
    short = "max_seconds=1.5"
    said = reader.read(
        "deploy.md",
        {
            "robot replay": reader.run,
            "robot emulate": reader.emulate,
            "robot calibrate": reader.calibrate,
            "robot teleoperate": lambda line: reader.run(line, f"{short} {PATIENT}"),
            "deploy robot=so101": lambda line: reader.run(line, f"{short} {PATIENT}"),
            "deploy": lambda line: reader.run(line, short),
        },
    )
    assert len(said) == 7
    assert "keys, up/down: shoulder_pan e/d" in said[3]
    assert '"bit_identical": true' in said[5]
    assert LeRobotDataset(tmp_path / "runs/deploy/dataset").length(0) > 20


def test_teleoperation(arm: SO101Emulator, tmp_path: Path) -> None:
    with SO101Emulator(frames_per_second=0) as leader:
        read_teleoperation(Reader(arm, leader), arm, leader, tmp_path)


def read_teleoperation(reader: Reader, arm: SO101Emulator, leader: SO101Emulator, tmp_path: Path) -> None:
    arm.calibration.write(tmp_path / "my_arm.json")
    patient = f"{PATIENT} teleoperator_settings.timeout=0.1 teleoperator_settings.max_age=0.3"
    low, high = np.min(ENDS, axis=0), np.max(ENDS, axis=0)
    here = np.array(arm.status()["positions"])
    # Where the leader is when its own calibration says what the arm's says now, but for the wrist, which turns freely.
    there = np.append(here[:5] + (low + high)[:5] / 2.0, low[5] + here[5] * (high - low)[5] / 100.0)

    def calibrate(line: str) -> str:
        said = reader.calibrate(line)
        leader.guide(there.tolist())
        return said

    def correct(line: str) -> str:
        threading.Thread(target=take_over, args=(tmp_path / "runs/corrected",), daemon=True).start()
        return reader.run(line, f"max_seconds=10 {patient}")

    said = reader.read(
        "teleoperation.md",
        {
            "robot calibrate": calibrate,
            "robot teleoperate leader": lambda line: reader.run(line, f"max_seconds=4 {patient}"),
            "robot teleoperate": lambda line: reader.run(line, "max_seconds=1.5"),
            "deploy": correct,
            "sft": lambda line: reader.run(line, "steps=1 batch_size=2 warmup_steps=1 threads=1"),
        },
    )
    assert len(said) == 6
    demonstration = LeRobotDataset(tmp_path / "runs/demonstrations/dataset").episode(0, cameras=())
    corrected = LeRobotDataset(tmp_path / "runs/corrected/dataset").episode(0, cameras=())
    assert demonstration.interventions is not None and demonstration.interventions[0]
    assert corrected.interventions is not None and corrected.interventions.any() and not corrected.interventions[0]


def take_over(run: Path) -> None:
    """Once the policy has driven for a while."""
    until = time.monotonic() + 100.0
    while time.monotonic() < until:
        rows = read_lines(run / "control.jsonl") if (run / "control.jsonl").exists() else []
        if sum(row.get("episode") is not None for row in rows) > 15:
            (run / "operator").write_text("take_over\n")
            return
        time.sleep(0.1)


def test_so101_robot(arm: SO101Emulator, tmp_path: Path) -> None:
    reader = Reader(arm)
    said = reader.read("so101_robot.md", {"robot calibrate": reader.calibrate, "robot emulate": reader.emulate})
    assert len(said) == 2 and (tmp_path / "emulated.json").is_file() and (tmp_path / "my_arm.json").is_file()
