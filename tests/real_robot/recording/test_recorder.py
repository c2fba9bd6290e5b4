"""The recorder: what is handed over is written, what cannot be is counted, and a kill leaves whole episodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from real_robot.arms.arm import ArmReading
from real_robot.control.sensors import Seen
from real_robot.control.steps import Step
from real_robot.control.timing import Tick
from real_robot.recording.recorder import LOG_IN_DATASET, EpisodeLabel, Recorder
from sim.so101.embodiment import SO101
from vla.data.lerobot_reader import LeRobotDataset
from vla.data.staging import staged_keys
from vla.errors import ReflexError
from vla.run.jsonl import read_lines
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision, Filtered


def step(number: int) -> Step:
    """A step whose numbers say which it is."""
    positions = np.full(6, number / 3.0)
    reading = ArmReading(positions.astype(np.float32), positions, np.zeros(6), number / 30)
    images = {name: np.full((64, 64, 3), number % 256, np.uint8) for name in SO101.camera_names}
    return Step(
        Tick(number, number / 30, number / 30, 0),
        Seen(reading, images, dict.fromkeys(images, number / 30), ()),
        None,
        "no_action",
        ActionRequest(None, number / 30, number / 30, measured=positions),
        Filtered(positions, Decision.HOLD, ("shape:[]",)),
        positions,
        number / 30 + 0.001,
    )


def label(number: int) -> EpisodeLabel:
    return EpisodeLabel(number, "lift it", "sway")


def record(run: Path, episodes: int, steps: int = 12) -> Recorder:
    run.mkdir(exist_ok=True)
    with Recorder(run, SO101, {"policy": "sway"}) as recorder:
        for number in range(episodes):
            recorder.open_episode(label(number), 100)
            for index in range(steps):
                recorder.add(step(index))
            recorder.close_episode(success=number == 0)
    return recorder


def test_every_step_is_in_the_log_and_in_the_dataset(tmp_path: Path) -> None:
    recorder = record(tmp_path, 2)
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert dataset.num_episodes == 2 and recorder.dropped == 0
    first, second = dataset.episode(0), dataset.episode(1)
    np.testing.assert_array_equal(first.actions[:, 0], (np.arange(12) / 3.0).astype(np.float32))
    assert (first.success, second.success) == (True, False)
    assert first.costs.tolist() == [1.0] * 12, "the filter held in every step"
    rows = [row for row in read_lines(tmp_path / "control.jsonl") if row["event"] == "action"]
    assert [row["episode"] for row in rows] == [0] * 12 + [1] * 12
    assert [row["control"]["step"] for row in rows] == list(range(12)) * 2
    assert rows[7]["sent"]["values"][0] == 7 / 3.0, "to the bit"
    made = json.loads((tmp_path / "dataset/meta/reflex_collection.json").read_text())
    assert made["policy"] == "sway" and [episode["steps"] for episode in made["episodes"]] == [12, 12]
    assert (tmp_path / "dataset" / LOG_IN_DATASET).read_text() == (tmp_path / "control.jsonl").read_text()


def test_what_finds_no_room_is_counted_and_the_loop_does_not_wait(tmp_path: Path) -> None:
    with Recorder(tmp_path, SO101, {}, queue_steps=5) as recorder:
        recorder.open_episode(label(0), 400)
        began = time.monotonic()
        for index in range(300):
            recorder.add(step(index))
        assert time.monotonic() - began < 1.0
        recorder.close_episode(success=False)
    assert recorder.dropped > 0
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert dataset.length(0) == 300 - recorder.dropped
    made = json.loads((tmp_path / "dataset/meta/reflex_collection.json").read_text())
    assert made["dropped_steps"] == recorder.dropped


def test_an_error_of_the_writer_reaches_whoever_asks(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="not finite"), Recorder(tmp_path, SO101, {}) as recorder:
        bad = step(0)
        bad.sent[:] = np.nan
        recorder.open_episode(label(0), 10)
        recorder.add(bad)
        recorder.close_episode(success=False)
        while recorder.busy:
            time.sleep(0.01)
        recorder.check()


def test_a_full_disk_is_known_at_once_and_keeps_nobody_from_ending(tmp_path: Path) -> None:
    (tmp_path / "control.jsonl").symlink_to("/dev/full")
    with pytest.raises(ReflexError, match="No space left on device"), Recorder(tmp_path, SO101, {}) as recorder:
        assert recorder.failure == ""
        recorder.open_episode(label(0), 10)
        recorder.add(step(0))
        recorder.close_episode(success=False)
        while recorder.busy:
            time.sleep(0.01)
        assert "can no longer be recorded: cannot write" in recorder.failure


def test_a_kill_leaves_whole_episodes_and_the_log(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.real_robot.recording.test_recorder import *\n"
        "recorder = Recorder(Path(sys.argv[1]), SO101, {})\n"
        "for number in range(2):\n"
        "    recorder.open_episode(label(number), 100)\n"
        "    for index in range(20):\n"
        "        recorder.add(step(index))\n"
        "    if number == 0:\n"
        "        recorder.close_episode(success=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        rows = read_lines(tmp_path / "control.jsonl")
        if sum(row["event"] == "action" for row in rows) == 40:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert staged_keys(tmp_path / "dataset.partial") == ["episode-000000"]
    assert [row["event"] for row in rows].count("action") == 40
    record(tmp_path, 1)
    assert LeRobotDataset(tmp_path / "dataset").num_episodes == 2, "a later recording goes on from it"
