"""Whole sessions: a person drives alone, and takes over from a policy, on the simulated and on the emulated arm."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from real_robot.deploy import DeployConfig, deploy
from real_robot.emulators.so101 import SO101Emulator
from real_robot.recording.replay import ReplayConfig, replay_episode
from real_robot.teleoperation.command import TeleoperateConfig, teleoperate
from tests.real_robot.patience import UNHURRIED
from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError
from vla.imitation.fine_tune import FineTuneConfig, fine_tune
from vla.run.jsonl import read_lines

pytestmark = pytest.mark.usefixtures("own_state")


class Operator:
    """Somebody at the named pipe of a run, who acts when the episode has come to a number of control steps."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._log: IO[str] | None = None
        self._rest = ""
        self._rows: list[dict[str, Any]] = []

    def steps(self) -> list[dict[str, Any]]:
        """The control steps of episodes so far."""
        if self._log is None:
            if not (self.run / "control.jsonl").exists():
                return []
            self._log = (self.run / "control.jsonl").open(encoding="utf-8")
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        self._rows += [row for line in lines if (row := json.loads(line)).get("episode") is not None]
        return self._rows

    def wait(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Until the newest control step is such."""
        until = time.monotonic() + 60.0
        while not ((rows := self.steps()) and holds(rows[-1])) and time.monotonic() < until:
            time.sleep(0.02)

    def wait_for_source(self, source: str, more: int = 0) -> None:
        """Until that is who drives, and for so many control steps after."""
        self.wait(lambda row: row["control"]["source"] == source)
        first = self.steps()[-1]["control"]["step"]
        self.wait(lambda row: row["control"]["step"] >= first + more)

    def say(self, *lines: str) -> None:
        (self.run / "operator").write_text("".join(f"{line}\n" for line in lines))


def at_the_pipe(run: Path, act: Callable[[Operator], None]) -> threading.Thread:
    thread = threading.Thread(target=act, args=(Operator(run),), daemon=True)
    thread.start()
    return thread


def place(emulator: SO101Emulator) -> NDArray[np.float64]:
    """Where its joints are."""
    return np.array(emulator.status()["positions"])


def lead(emulator: SO101Emulator, positions: NDArray[np.float64]) -> None:
    """By the hand."""
    emulator.guide(positions.tolist())


def commands(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([row["control"]["commanded"] for row in rows])


HAND_OVER = 1.1 * 0.3 * 240.0
"""Degrees or per cent a second: `speed`, a share of full speed, and what the filter adds when it catches up."""


def speeds(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Of the commands between two control steps, [T - 1, 6] a second; steps that were missed lie between."""
    times = np.array([row["control"]["due"] for row in rows])
    return np.abs(np.diff(commands(rows), axis=0)) / np.diff(times)[:, None]


def test_a_person_drives_by_keys_and_the_episode_is_a_demonstration(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def act(operator: Operator) -> None:
        operator.wait(lambda row: row["control"]["step"] >= 5)
        for _ in range(10):
            operator.say("e", "l")
            time.sleep(0.03)
        operator.wait_for_source("person", more=20)  # at rest again
        operator.say("take_over", "success")  # nobody to take over from

    at_the_pipe(run, act)
    summary = teleoperate(TeleoperateConfig(max_seconds=20.0, watchdog_timeout=UNHURRIED, output=str(run)))
    assert summary["successes"] == 1 and summary["policy"] == "person" and summary["teleoperator"] == "keyboard"
    episode = LeRobotDataset(run / "dataset").episode(0)
    assert episode.success and episode.policy_id == "person"
    assert episode.interventions is not None and episode.interventions.all()
    assert episode.length == summary["control_steps"]
    moved = episode.actions[-1] - episode.actions[0]
    assert moved[0] == pytest.approx(22.0, abs=0.1), "ten presses of a hundredth of 220 degrees"
    assert moved[5] == pytest.approx(-10.0, abs=0.1) and np.abs(moved[1:5]).max() < 1e-3
    assert replay_episode(ReplayConfig(dataset=str(run / "dataset")))["bit_identical"]


def test_a_person_takes_over_from_a_policy_gives_back_and_what_was_done_trains(policy: str, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def act(operator: Operator) -> None:
        operator.wait_for_source("policy", more=20)
        operator.say("take_over")
        operator.wait_for_source("person", more=5)
        operator.say(*["r"] * 5)
        operator.wait_for_source("person", more=25)
        operator.say("give_back")
        operator.wait_for_source("policy", more=20)
        operator.say("end")

    at_the_pipe(run, act)
    summary = deploy(DeployConfig(policy=policy, max_seconds=40.0, watchdog_timeout=UNHURRIED, output=str(run)))
    rows = Operator(run).steps()
    sources = [row["control"]["source"] for row in rows]
    person = [index for index, source in enumerate(sources) if source == "person"]
    first, last = person[0], person[-1]
    assert person == list(range(first, last + 1)) and "hand_over" not in sources, "the keyboard is where the arm is"
    after = sources[last + 1 :]
    back = after.index("policy")
    held = [row["control"]["problem"] for row in rows[last + 1 :]]
    assert back == 0 and held[0] == "no_action" and 1 <= held.index(None) <= 10, "it holds until the policy has decided"
    chunks = [row["chunk_id"] for row in rows]
    before = max(chunk for chunk in chunks[:first] if chunk is not None)
    assert min(chunk for chunk in chunks[last + 1 :] if chunk is not None) > before, "no chunk of before is used"
    assert np.abs(np.diff(commands(rows), axis=0)).max() <= 240.0 / 30.0, "the filter's limit"
    assert speeds(rows[first : first + 6])[:, 0].max() < 60.0, "no jump"
    assert commands(rows)[last, 1] - commands(rows)[first, 1] == pytest.approx(10.0, abs=0.2), "five presses"
    events = [(line["event"], line.get("order")) for line in read_lines(run / "watchdog.jsonl")]
    assert events == [("ready", None), ("order", "take_over"), ("order", "give_back"), ("order", "end_episode")]
    episode = LeRobotDataset(run / "dataset").episode(0)
    assert episode.interventions is not None
    np.testing.assert_array_equal(episode.interventions, [source == "person" for source in sources])
    assert summary["ending"] is None and replay_episode(ReplayConfig(dataset=str(run / "dataset")))["bit_identical"]
    config = FineTuneConfig(
        dataset=str(run / "dataset"), policy="scratch", weighting="interventions", output=str(tmp_path / "sft"),
        steps=1, batch_size=2, warmup_steps=1, log_every=1, device="cpu", threads=1,
    )  # fmt: skip
    assert Path(fine_tune(config, log=lambda line: None)["policy"]).is_dir()


# ---- with a leader arm, on the emulated servo buses ------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms() -> Iterator[tuple[SO101Emulator, SO101Emulator]]:
    """The arm and the leader."""
    with SO101Emulator(task_id=0) as follower, SO101Emulator(frames_per_second=0) as leader:
        yield follower, leader


def settings(arms: tuple[SO101Emulator, SO101Emulator], run: Path, **more: Any) -> dict[str, Any]:
    follower, leader = arms
    follower.reset(0)
    leader.reset(0)
    return {
        "robot": "so101",
        "port": follower.port,
        "calibration": str(follower.calibration_file),
        "cameras": follower.camera_urls,
        "task": "move the gripper to the red block",
        "teleoperator": "leader",
        "leader_port": leader.port,
        "leader_calibration": str(leader.calibration_file),
        "robot_settings": {"timeout": 0.1},
        "teleoperator_settings": {"timeout": 0.1, "max_age": 0.3},
        "max_seconds": 60.0,
        "output": str(run),
        "watchdog_timeout": UNHURRIED,
        **more,
    }


@pytest.mark.slow
def test_the_arm_follows_a_leader_arm_and_the_episode_begins_when_it_has_it(
    arms: tuple[SO101Emulator, SO101Emulator], tmp_path: Path
) -> None:
    follower, leader = arms
    run, config = tmp_path / "run", settings(arms, tmp_path / "run")
    start = place(follower)
    aside = start + np.array([30.0, 0.0, 0.0, 0.0, 0.0, 20.0])
    goal = start + np.array([-15.0, 5.0, 5.0, -10.0, 0.0, -10.0])
    lead(leader, aside)

    def act(operator: Operator) -> None:
        operator.wait_for_source("person", more=10)
        for share in np.linspace(0.0, 1.0, 40):
            lead(leader, share * goal + (1.0 - share) * aside)
            time.sleep(0.03)
        operator.wait_for_source("person", more=20)
        operator.say("success")

    at_the_pipe(run, act)
    summary = teleoperate(TeleoperateConfig(**config))
    assert summary["successes"] == 1
    rows = Operator(run).steps()
    sources = [row["control"]["source"] for row in rows]
    begins = sources.index("person")
    assert sources[begins - 1] == "hand_over" and sources.count("person") > 0.7 * len(sources[begins:])
    over = commands(rows[:begins])
    assert over[-1, 0] - over[0, 0] > 20.0, "the arm went to where the leader was"
    assert speeds(rows[:begins]).max() <= HAND_OVER, "at `speed`"
    apart = np.abs(place(leader) - place(follower))
    assert apart.max() < 6.0, "gravity pulls at one of them only"
    episode = LeRobotDataset(run / "dataset").episode(0)
    assert episode.length == len(rows) - begins and episode.interventions is not None and episode.interventions[0]
    np.testing.assert_array_equal(episode.interventions, [source == "person" for source in sources[begins:]])
    np.testing.assert_array_equal(episode.actions, commands(rows[begins:]).astype(np.float32))
    assert replay_episode(ReplayConfig(dataset=str(run / "dataset")))["bit_identical"]
    assert leader.status()["torque"] == [False] * 6 and all(follower.status()["torque"])


@pytest.mark.slow
def test_a_leader_that_falls_silent_holds_the_arm_which_goes_on_when_it_is_back(
    arms: tuple[SO101Emulator, SO101Emulator], tmp_path: Path
) -> None:
    follower, leader = arms
    run, config = tmp_path / "run", settings(arms, tmp_path / "run")
    start = place(follower)
    lead(leader, start)

    def act(operator: Operator) -> None:
        operator.wait_for_source("person", more=10)
        leader.set_faults(silent=True)
        operator.wait(lambda row: row["control"]["problem"] == "teleoperator_silent")
        lead(leader, start + np.array([25.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
        time.sleep(0.5)
        leader.set_faults()
        operator.wait_for_source("person", more=5)
        operator.say("end")

    at_the_pipe(run, act)
    summary = teleoperate(TeleoperateConfig(**config))
    assert summary["results"][0]["problems"]["teleoperator_silent"] > 5
    rows = Operator(run).steps()
    again = [row["control"]["source"] for row in rows].index("hand_over", 20)
    assert speeds(rows[again:]).max() <= HAND_OVER, "it is approached, not jumped to"
    assert commands(rows)[-1, 0] - start[0] > 20.0


@pytest.mark.slow
def test_a_leader_takes_over_from_a_policy_softly(
    arms: tuple[SO101Emulator, SO101Emulator], policy: str, tmp_path: Path
) -> None:
    follower, leader = arms
    run, config = tmp_path / "run", settings(arms, tmp_path / "run", policy=policy, threads=1)
    there = place(follower) + np.array([-20.0, 0.0, 0.0, -20.0, 10.0, 0.0])
    lead(leader, there)

    def act(operator: Operator) -> None:
        operator.wait_for_source("policy", more=25)
        operator.say("take_over")
        operator.wait_for_source("person", more=15)
        operator.say("give_back")
        operator.wait_for_source("policy", more=15)
        operator.say("success")

    at_the_pipe(run, act)
    summary = deploy(DeployConfig(**config))
    assert summary["successes"] == 1
    rows = Operator(run).steps()
    sources = [row["control"]["source"] for row in rows]
    taken, person = sources.index("hand_over"), sources.index("person")
    back = sources.index("policy", person)
    assert taken < person < back
    sent = commands(rows)
    assert np.abs(sent[person] - there)[[3, 4]].max() < 3.0, "it came to where the leader is"
    assert speeds(rows[taken:person]).max() <= HAND_OVER
    assert speeds(rows[back - 1 : back + 1]).max() < 120.0, "the policy goes on from there"
    episode = LeRobotDataset(run / "dataset").episode(0)
    assert episode.interventions is not None and episode.length == len(rows)
    np.testing.assert_array_equal(episode.interventions, [source == "person" for source in sources])


def test_what_cannot_be_is_refused_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"teleoperator=leader needs leader_port"):
        TeleoperateConfig(teleoperator="leader")
    with pytest.raises(ReflexError, match="which is the arm's own port"):
        TeleoperateConfig(port="/dev/a", teleoperator="leader", leader_port="/dev/a", leader_calibration="l.json")
    with pytest.raises(ReflexError, match="teleoperator is null"):
        TeleoperateConfig(teleoperator=None)
    run = tmp_path / "run"
    config = TeleoperateConfig(
        teleoperator="leader", leader_port="/dev/b", leader_calibration=str(tmp_path / "l.json"), output=str(run)
    )
    with pytest.raises(ReflexError, match=r"no calibration at .*l\.json"):
        teleoperate(config)
    assert not run.exists()
