"""`vla deploy` from command to run folder: on the simulated arm, and on the emulated servo bus with faults."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_robot.deploy import DeployConfig, deploy
from real_robot.emulators.so101 import SO101Emulator
from real_robot.recording.recorder import LOG_IN_DATASET
from real_robot.recording.replay import ReplayConfig, replay_episode
from sim.embodiments import PANDA_EEF
from sim.so101.embodiment import SO101
from tests.real_robot.patience import UNHURRIED
from tests.real_robot.sway_policy import SwayPolicy
from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError
from vla.imitation.fine_tune import FineTuneConfig, fine_tune
from vla.run.jsonl import read_lines
from vla.safety.config import FilterConfig

pytestmark = pytest.mark.usefixtures("own_state")


@pytest.fixture(scope="module")
def recorded(policy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two short episodes on the simulated arm."""
    folder = tmp_path_factory.mktemp("deploy")
    with pytest.MonkeyPatch.context() as patch:  # or tests beside this one would drive the same arm
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        pose = [0.0, -60.0, 30.0, 90.0, 90.0, 20.0]
        deploy(
            DeployConfig(
                policy=policy, max_seconds=1.5, episodes=2, output=str(folder / "run"), park_pose=pose,
                watchdog_timeout=UNHURRIED,
            )
        )  # fmt: skip
    return folder / "run"


def test_a_deployment_leaves_a_run_folder_with_everything_in_it(recorded: Path) -> None:
    summary = json.loads((recorded / "summary.json").read_text())
    assert summary["episodes"] == 2 and summary["control_steps"] + summary["missed_steps"] == 90
    assert summary["dropped_steps"] == 0 and summary["ending"] is None
    assert len(summary["policy_sha256"]) == len(summary["config_sha256"]) == 64
    latency = json.loads((recorded / "latency.json").read_text())
    assert latency["frequency"] == 30.0
    for stage in ("camera_age", "observe", "inference", "filter", "bus_write", "observation_age"):
        values = latency["stages"][stage]
        assert 0.0 <= values["p50"] <= values["p95"] <= values["p99"] <= values["worst"], stage
    assert latency["seam_jumps"]["seam"]["deg"]["count"] >= 4
    assert [line["event"] for line in read_lines(recorded / "watchdog.jsonl")] == ["ready"]
    assert len(read_lines(recorded / "episodes.jsonl")) == 2
    assert (recorded / "config.yaml").is_file()


def test_what_was_recorded_is_what_was_sent_and_trains(recorded: Path, tmp_path: Path) -> None:
    dataset = LeRobotDataset(recorded / "dataset")
    assert dataset.num_episodes == 2 and dataset.embodiment == SO101
    rows = [row for row in read_lines(recorded / "control.jsonl") if row.get("episode") == 1]
    episode = dataset.episode(1)
    np.testing.assert_array_equal(
        episode.actions, np.array([row["control"]["commanded"] for row in rows]).astype(np.float32)
    )
    assert episode.instruction == "move the gripper to the red block" and episode.policy_id == "sway"
    assert episode.images["front"].std() > 10.0, "pictures, not zeros"
    assert np.ptp(episode.states[:, 0]) > 5.0, "the arm moved"
    changed = np.array([row["decision"] != "pass" for row in rows], np.float32)
    np.testing.assert_array_equal(episode.costs, changed)
    config = FineTuneConfig(
        dataset=str(recorded / "dataset"), policy="scratch", output=str(tmp_path / "sft"), steps=1, batch_size=2,
        warmup_steps=1, log_every=1, device="cpu", threads=1,
    )  # fmt: skip
    assert Path(fine_tune(config, log=lambda line: None)["policy"]).is_dir()


def test_replay_asks_the_filter_again_bit_for_bit_and_notices_a_changed_bit(recorded: Path, tmp_path: Path) -> None:
    found = replay_episode(ReplayConfig(dataset=str(recorded / "dataset"), episode=1))
    assert found["bit_identical"] and found["filter_actions"] > 90
    log = recorded / "dataset" / LOG_IN_DATASET
    whole = log.read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    row = next(row for row in rows if row["event"] == "action" and row.get("episode") == 1)
    row["sent"]["values"][0] = float(np.nextafter(row["sent"]["values"][0], 1e9))
    try:
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ReflexError, match="not what they were"):
            replay_episode(ReplayConfig(dataset=str(recorded / "dataset"), episode=1))
    finally:
        log.write_text(whole)
    with pytest.raises(ReflexError, match="episodes 0 to 1, not 2"):
        replay_episode(ReplayConfig(dataset=str(recorded / "dataset"), episode=2))


def largest_leap(run: Path) -> float:
    """The farthest that a joint was told to go after control steps that were missed, in the first episode, or 0."""
    rows = [row for row in read_lines(run / "control.jsonl") if row.get("episode") == 0 and "control" in row]
    due = np.diff([row["control"]["due"] for row in rows])
    sent = np.abs(np.diff([row["sent"]["values"] for row in rows], axis=0)).max(axis=1)
    return float(np.max(sent[due > 1.5 / 30], initial=0.0))


def test_replay_on_an_arm_approaches_first_and_then_plays(recorded: Path, tmp_path: Path) -> None:
    found = replay_episode(ReplayConfig(dataset=str(recorded / "dataset"), dry=False, output=str(tmp_path / "replay")))
    assert found["actions"] == LeRobotDataset(recorded / "dataset").length(0)
    # Float32 degrees against the limits; and where a control step was missed, the motion of two is asked at once.
    assert found["largest_change_by_filter"] < 0.1 + largest_leap(recorded)


def test_a_policy_of_another_robot_or_rate_is_refused_before_anything_moves(tmp_path: Path) -> None:
    SwayPolicy(PANDA_EEF).save_pretrained(tmp_path / "panda")
    with pytest.raises(ReflexError) as refused:
        deploy(DeployConfig(policy=str(tmp_path / "panda"), output=str(tmp_path / "run")))
    for part in ("the policy and the robot do not fit", "end_effector_delta and joint_position", "20 Hz and 30 Hz"):
        assert part in str(refused.value)
    slow = dataclasses.replace(SO101, control_frequency=10.0)
    SwayPolicy(slow).save_pretrained(tmp_path / "slow")
    with pytest.raises(ReflexError, match="rate: 10 Hz and 30 Hz"):
        deploy(DeployConfig(policy=str(tmp_path / "slow"), output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_settings_are_refused_by_name(policy: str, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="task is empty"):
        DeployConfig(policy=policy, robot="so101")
    with pytest.raises(ReflexError, match="rtc needs a flow policy"):
        deploy(DeployConfig(policy=policy, strategy="rtc", output=str(tmp_path / "run")))
    with pytest.raises(ReflexError, match=r"filter.max_age=0.2 forbids"):
        deploy(DeployConfig(policy=policy, filter=FilterConfig(max_age=0.2), output=str(tmp_path / "run")))


def test_stop_by_the_operator_ends_the_deployment_and_keeps_what_was_recorded(policy: str, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def press() -> None:
        while not (run / "control.jsonl").exists() or (run / "control.jsonl").stat().st_size < 50_000:
            time.sleep(0.01)
        (run / "operator").write_text("stop\n")

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(ReflexError, match="ended with: stopped"):
        deploy(DeployConfig(policy=policy, max_seconds=20.0, episodes=3, output=str(run), watchdog_timeout=UNHURRIED))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["episodes"] == 1 and 10 < summary["control_steps"] < 300
    assert LeRobotDataset(run / "dataset").length(0) == summary["control_steps"]
    assert [line["event"] for line in read_lines(run / "watchdog.jsonl")] == ["ready", "tripped", "stopped"]


def test_ctrl_c_ends_the_episode_keeps_it_and_then_interrupts(policy: str, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def press() -> None:
        while not (run / "control.jsonl").exists() or (run / "control.jsonl").stat().st_size < 50_000:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        deploy(DeployConfig(policy=policy, max_seconds=20.0, episodes=3, output=str(run), watchdog_timeout=UNHURRIED))
    summary = json.loads((run / "summary.json").read_text())
    assert [result["ending"] for result in summary["results"]] == ["operator"]
    assert LeRobotDataset(run / "dataset").length(0) == summary["control_steps"]
    assert [line["event"] for line in read_lines(run / "watchdog.jsonl")] == ["ready"]


# ---- on the emulated servo bus ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator() -> Iterator[SO101Emulator]:
    with SO101Emulator(task_id=0, init_state=0) as made:
        yield made


def settings(emulator: SO101Emulator, policy: str, run: Path) -> DeployConfig:
    return DeployConfig(
        policy=policy,
        robot="so101",
        port=emulator.port,
        calibration=str(emulator.calibration_file),
        cameras=emulator.camera_urls,
        task="sway",
        max_seconds=60.0,
        output=str(run),
        threads=1,
        watchdog_timeout=0.5,  # a machine that tests share may well stop for a quarter of a second
    )


def start(config: DeployConfig) -> subprocess.Popen[bytes]:
    """The command, in a process of its own, once its arm has moved for a while."""
    run = Path(config.output)
    words = [f"{name}={getattr(config, name)}" for name in ("policy", "robot", "port", "calibration", "task", "output")]
    words += [f"max_seconds={config.max_seconds}", f"threads={config.threads}"]
    words += [f"watchdog_timeout={config.watchdog_timeout}"]
    words += [f"cameras.{name}={source}" for name, source in config.cameras.items()]
    command = [sys.executable, "-m", "vla.cli", "deploy", *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60.0
    while not (run / "control.jsonl").exists() or (run / "control.jsonl").stat().st_size < 60_000:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    return process


def wait_for_stop(run: Path) -> dict[str, Any]:
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        for line in read_lines(run / "watchdog.jsonl"):
            if line["event"] in ("stopped", "not_verified"):
                return line
        time.sleep(0.02)
    raise AssertionError("the watchdog did not stop the arm")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "killed"), [(signal.SIGKILL, False), (signal.SIGSTOP, True)])
def test_killing_or_freezing_the_command_leaves_the_servos_holding(
    emulator: SO101Emulator, policy: str, tmp_path: Path, number: int, killed: bool
) -> None:
    emulator.reset(0)
    run = tmp_path / "run"
    process = start(settings(emulator, policy, run))
    os.kill(process.pid, number)
    fault = time.monotonic()
    stopped = wait_for_stop(run)
    process.wait(10)
    assert stopped["event"] == "stopped" and stopped["killed"] is killed
    assert stopped["time"] - fault < 2.0 and stopped["torque"] == [True] * 6
    before = emulator.status()
    time.sleep(0.3)
    after = emulator.status()
    assert np.abs(np.subtract(after["positions"], before["positions"])).max() < 0.5, "it stays where it is"
    assert all(after["torque"])
    with pytest.raises(ReflexError, match="reset_watchdog=true"):
        deploy(settings(emulator, policy, tmp_path / "again"))


@pytest.mark.slow
def test_one_arm_is_driven_by_one_command_at_a_time(emulator: SO101Emulator, policy: str, tmp_path: Path) -> None:
    emulator.reset(0)
    run = tmp_path / "run"
    process = start(settings(emulator, policy, run))
    with pytest.raises(ReflexError, match="another command drives this arm"):
        deploy(settings(emulator, policy, tmp_path / "again"))
    (run / "operator").write_text("end\n")
    assert process.wait(60) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["results"][0]["ending"] == "operator" and summary["control_steps"] > 20
    positions = np.array([row["measured"]["values"] for row in read_lines(run / "control.jsonl") if "measured" in row])
    assert np.ptp(positions[:, 0]) > 3.0, "it moved"
