"""A Franka through franky-control and libfranka's protocol, on the emulated arm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from real_robot.arms.arm import Arm, ArmError
from real_robot.arms.franka import FrankaArm, FrankaSettings
from real_robot.arms.registry import make_arm
from real_robot.control.inference import InferenceWorker
from real_robot.control.loop import ControlLoop, LoopSettings
from real_robot.control.schedulers import Timing, UnderWay, make_scheduler
from real_robot.control.steps import Ending, Step
from real_robot.control.timing import LatencyLog
from real_robot.emulators.franka import FrankaEmulator
from real_robot.preparation import warm_up
from real_robot.robots import decide_on, open_robot
from real_robot.watchdog.stopping import bring_to_rest
from sim.contract import Observation
from sim.tabletop.environment import TabletopEnvironment
from sim.tabletop.expert import TabletopExpert
from vla.errors import ReflexError
from vla.policies import load_policy
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision
from vla.safety.filter import ActionFilter
from vla.safety.log import FilterLog
from vla.safety.replay import replay

PERIOD = 0.05
STEP = np.array([0.01, 0.01, 0.01, 0.025, 0.025, 0.025, 2.0])
HOME = np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0, -1.0])
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def emulator() -> Iterator[FrankaEmulator]:
    """One for all tests here: it takes seconds to start."""
    missing = [name for name in ("franky", "franky_sim") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install '.[robots,emulators]'")
    with FrankaEmulator(task_id=0) as emulator:
        yield emulator


@pytest.fixture
def arm(emulator: FrankaEmulator) -> Iterator[FrankaArm]:
    """Connected, open, and in the middle above the table."""
    with FrankaArm(FrankaSettings(port=emulator.address)) as arm:
        assert arrives(arm, HOME)
        rest(arm)
        yield arm


def rest(arm: FrankaArm, within: float = 3.0) -> np.ndarray:
    """Wait until the arm rests; its positions [7]."""
    until = time.monotonic() + within
    time.sleep(0.1)
    while np.abs(arm.observe().velocities[:6]).max() > 0.005 and time.monotonic() < until:
        time.sleep(0.02)
    return arm.observe().positions


def arrives(arm: FrankaArm, wanted: np.ndarray, within: float = 5.0) -> bool:
    """Whether the hand, led there at up to 0.2 m/s and 0.5 rad/s, gets to 3 mm and 0.02 rad of where it shall be."""
    command = arm.observe().positions
    until = time.monotonic() + within
    while time.monotonic() < until:
        way = wanted - arm.observe().positions
        if np.abs(way[:3]).max() < 3e-3 and np.abs(way[3:6]).max() < 0.02:
            return True
        command = command + np.clip(wanted - command, -STEP, STEP)
        command[6] = wanted[6]
        arm.send(command)
        time.sleep(PERIOD)
    return False


def test_it_is_an_arm_that_says_where_its_hand_is(arm: FrankaArm, emulator: FrankaEmulator) -> None:
    assert isinstance(arm, Arm)
    reading = arm.observe()
    assert reading.state[:6] == pytest.approx(emulator.status()["hand"], abs=1e-3)
    assert reading.state[:3] == pytest.approx(reading.positions[:3], abs=1e-6)
    assert reading.state.shape == (8,) and reading.positions.shape == reading.velocities.shape == (7,)
    assert reading.state[6] == pytest.approx(-reading.state[7])
    assert reading.time == pytest.approx(time.monotonic(), abs=1.0)
    made = make_arm("franka", {"port": emulator.address})
    assert made.embodiment.action.names == made.limits.names == arm.limits.names


def test_it_goes_where_it_is_told_and_the_newest_command_counts(arm: FrankaArm) -> None:
    arm.send(HOME + np.array([0.04, 0.04, 0.04, 0.0, 0.0, 0.0, 0.0]))
    time.sleep(0.02)
    near = HOME + np.array([0.02, -0.02, -0.02, 0.05, -0.05, 0.1, 0.0])
    began = time.monotonic()
    assert arm.send(near).tolist() == near.tolist()
    assert time.monotonic() - began < PERIOD
    rest(arm)
    assert arm.observe().positions[:3] == pytest.approx(near[:3], abs=3e-3)
    assert arrives(arm, np.array([0.05, -0.05, 0.15, 0.1, -0.1, 0.5, -1.0]))


def test_it_is_told_no_more_than_its_file_allows(arm: FrankaArm) -> None:
    sent = arm.send(np.array([0.0, 0.0, -1.0, 0.0, 0.0, 9.0, -3.0]))
    assert sent.tolist() == [0.0, 0.0, arm.limits.low[2], 0.0, 0.0, arm.limits.high[5], -1.0]
    arm.hold()


@pytest.mark.parametrize("wrong", [np.full(7, np.nan), np.array([0, 0, 0.2, 0, 0, 0, np.inf]), np.zeros(6)])
def test_numbers_that_are_none_are_not_sent(arm: FrankaArm, wrong: np.ndarray) -> None:
    before = arm.observe().positions
    with pytest.raises(ArmError, match="nothing was sent"):
        arm.send(wrong)
    time.sleep(0.1)
    assert arm.observe().positions == pytest.approx(before, abs=5e-3)


def test_it_holds_in_the_middle_of_a_motion(arm: FrankaArm) -> None:
    for step in range(10):
        arm.send(HOME + 0.012 * step * np.eye(7)[0])
        time.sleep(PERIOD)
    moving = arm.observe()
    assert moving.velocities[0] > 0.1
    arm.hold()
    stopped = rest(arm)
    assert moving.positions[0] - 1e-3 < stopped[0] < moving.positions[0] + 0.05
    time.sleep(0.2)
    assert arm.observe().positions[:3] == pytest.approx(stopped[:3], abs=3e-3)
    with pytest.raises(ArmError, match="emergency stop"):
        arm.stop(torque_off=True)
    arm.stop()
    assert arrives(arm, HOME)


def test_the_gripper_does_what_it_was_told_last_and_nobody_waits(arm: FrankaArm) -> None:
    command = np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0, -1.0])
    slowest = 0.0
    for wish in (1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0):
        command[6] = wish
        began = time.monotonic()
        arm.send(command)
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(PERIOD)
    assert slowest < 0.2
    until = time.monotonic() + 3.0
    while arm.observe().positions[6] < 0.95 and time.monotonic() < until:
        time.sleep(PERIOD)
    assert arm.observe().positions[6] > 0.95
    assert arm.observe().state[6] < 0.002


def test_changes_of_the_suites_expert_move_the_hand_by_what_they_ask_for(arm: FrankaArm) -> None:
    environment = TabletopEnvironment(0)
    environment.reset_to("eval", 0)
    expert = TabletopExpert()
    expert.reset(environment)
    changes = np.empty((8, 7))
    for change in changes:
        change[:] = expert.act(environment)
        environment.advance(change)
    log = FilterLog()
    action_filter = ActionFilter(arm.limits, PERIOD, log=log)
    action_filter.start(arm.observe().positions)
    began = arm.observe()
    asked = arm.positions_of(changes, began.state)
    for number, wanted in enumerate(asked):
        now = began.time + PERIOD * number
        filtered = action_filter.filter(ActionRequest(wanted, now, now, measured=arm.observe().positions))
        assert filtered.decision in (Decision.PASS, Decision.CLIP)
        arm.send(filtered.action)
        time.sleep(PERIOD)
    for number in range(10):  # what the filter's limits of acceleration kept back
        now = began.time + PERIOD * (len(asked) + number)
        arm.send(action_filter.filter(ActionRequest(asked[-1], now, now)).action)
        time.sleep(PERIOD)
    assert arrives(arm, asked[-1])
    moved = arm.observe().positions[:3] - began.positions[:3]
    expected = 0.47 * 0.05 * changes[:, :3].sum(axis=0)
    assert np.linalg.norm(expected) > 0.05
    assert moved == pytest.approx(expected, abs=6e-3)
    replayed = replay(log.take())
    assert replayed.actions == 18 and not replayed.differences


def test_a_policy_of_the_suite_drives_it_in_the_control_loop(arm: FrankaArm, emulator: FrankaEmulator) -> None:
    arm.disconnect()
    cube = np.array(emulator.reset(init_state=0)["objects"]["red cube"])
    steps: list[Step] = []
    with open_robot("franka", {"port": emulator.address}, emulator.camera_urls) as robot, robot.arm:
        policy = load_policy("reflex-tiny")
        decide = decide_on(robot, policy)
        warm_up(decide, robot, "pick up the red cube")
        action_filter = ActionFilter(robot.arm.limits, PERIOD)
        action_filter.start(robot.arm.observe().positions)
        scheduler = make_scheduler("async", Timing(20.0, 8, 1.0, 0.5), 3, 0.01)
        before = robot.arm.observe().positions
        with InferenceWorker(decide) as worker:
            loop = ControlLoop(
                robot.arm, robot.cameras, action_filter.filter, scheduler, worker,
                LoopSettings(20.0, 5.0), LatencyLog(1000), on_step=steps.append,
            )  # fmt: skip
            result = loop.run(emulator.status()["instruction"], 40)
        robot.arm.hold()
        after = robot.arm.observe().positions
    assert result.ending is Ending.TIME and not result.inference_errors and not result.problems.get("arm_error")
    assert np.linalg.norm(after[:3] - before[:3]) > 0.05
    assert np.linalg.norm((after[:3] - cube)[:2]) < 0.6 * np.linalg.norm((before[:3] - cube)[:2])


def test_an_arm_whose_program_was_killed_is_brought_to_rest_by_another(emulator: FrankaEmulator) -> None:
    code = (
        "import numpy as np, time; from real_robot.arms.franka import FrankaArm, FrankaSettings\n"
        f"arm = FrankaArm(FrankaSettings(port='{emulator.address}')); arm.connect()\n"
        "start = arm.observe().positions\nfor step in range(1200):\n"
        "    arm.send(start + np.minimum(0.003 * step, 0.15) * np.array([1, 1, 0, 0, 0, 0, 0])); time.sleep(0.05)\n"
        "    if step == 10: print('moving', flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None and process.stdout.readline() == b"moving\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = bring_to_rest(lambda: FrankaArm(FrankaSettings(port=emulator.address)), "hold")
    assert stopped.verified, stopped.details
    assert stopped.details["positions"][0] < 0.14


def test_an_arm_that_another_program_drives(arm: FrankaArm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("real_robot.arms.franka.CONNECTS_WITHIN", 0.5)
    second = FrankaArm(arm.settings)
    with pytest.raises(ArmError, match="another program drives it"):
        second.connect()
    assert arm.observe().positions.shape == (7,)
    arm.disconnect()
    monkeypatch.undo()
    second.connect()
    second.disconnect()


def test_what_franky_raises_says_what_to_do(emulator: FrankaEmulator) -> None:
    import franky

    arm = FrankaArm(FrankaSettings(port=emulator.address))
    for raised, said in (
        (franky.ControlException("cartesian_reflex"), "stopped itself .*recover=true"),
        (franky.NetworkException("gone"), "does not answer .*FCI"),
        (franky.RealtimeException("no"), "real-time kernel"),
        (franky.CommandException("no"), "refused to move"),
    ):
        with pytest.raises(ArmError, match=said), arm._talking("move"):
            raise raised
    with pytest.raises(ArmError, match="not connected"):
        arm.observe()
    arm.disconnect()


@pytest.mark.parametrize("wrong", [{"base": [0.0]}, {"dynamics": 0.0}, {"dynamics": 2.0}, {"robot_file": "so101"}])
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ArmError, match=next(iter(wrong)) if "robot_file" not in wrong else "axis_angle_x"):
        FrankaArm(FrankaSettings(port="127.0.0.1", **wrong))  # type: ignore[arg-type]


def test_nobody_at_the_address() -> None:
    with pytest.raises(ArmError, match=r"127\.9\.9\.9 does not answer"):
        FrankaArm(FrankaSettings(port="127.9.9.9")).connect()


def test_a_policy_must_find_the_cameras_that_it_needs_and_its_changes_are_not_continued(
    emulator: FrankaEmulator,
) -> None:
    policy = load_policy("reflex-tiny")
    with open_robot("franka", {"port": emulator.address}, {}) as robot, pytest.raises(ReflexError, match="wrist_image"):
        decide_on(robot, policy)
    with open_robot("franka", {"port": emulator.address}, emulator.camera_urls) as robot:
        decide = decide_on(robot, policy)
        images = {camera.name: np.zeros((64, 64, 3), np.uint8) for camera in robot.embodiment.cameras}
        observation = Observation(images=images, state=np.zeros(8, np.float32), instruction="wait")
        assert decide(observation, None).shape == (8, 7)
        with pytest.raises(ReflexError, match="strategy=async"):
            decide(observation, UnderWay(np.zeros((3, 7)), 1))


def test_an_arm_that_is_gone_is_noticed_within_about_a_second(emulator: FrankaEmulator) -> None:
    """The last test here: it ends the emulator."""
    arm = FrankaArm(FrankaSettings(port=emulator.address))
    arm.connect()
    arm.send(arm.observe().positions)
    emulator.kill()
    killed = time.monotonic()
    with pytest.raises(ArmError, match="does not answer"):
        while time.monotonic() - killed < 10.0:
            arm.observe()
            time.sleep(0.01)
    assert time.monotonic() - killed < 2.5
    arm.disconnect()
    with pytest.raises(ArmError, match="not connected"):
        arm.send(np.zeros(7))
