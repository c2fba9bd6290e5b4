"""The SO-101 through its SDK, on an emulated bus with physics behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from real_robot.arms import registers
from real_robot.arms.arm import Arm, ArmError
from real_robot.arms.feetech import FeetechBus
from real_robot.arms.so101 import SO101Arm, SO101Settings
from real_robot.emulators.faults import Faults
from real_robot.emulators.so101 import SO101Emulator
from tests.real_robot.emulators.test_so101 import wait_for


def settings(emulator: SO101Emulator, **changes: object) -> SO101Settings:
    """Of the emulated arm."""
    made = SO101Settings(emulator.port, str(emulator.calibration_file), timeout=0.1)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


# ---- connecting ----------------------------------------------------------------------------------------------------


def test_it_connects_configures_and_holds(arm: SO101Arm, emulator: SO101Emulator) -> None:
    assert isinstance(arm, Arm)
    gripper = {register: arm._bus.read("gripper", register) for register in (registers.TORQUE_LIMIT, registers.P_GAIN)}
    assert gripper == {registers.TORQUE_LIMIT: 500, registers.P_GAIN: 16}
    assert arm._bus.read("gripper", registers.PROTECTION_CURRENT) == 250
    assert arm._bus.read("gripper", registers.OVERLOAD_TORQUE) == 25
    assert arm._bus.read("elbow_flex", registers.ACCELERATION) == 254
    assert arm._bus.read("elbow_flex", registers.LOCK) == 1
    reading, truth = arm.observe(), emulator.status()
    np.testing.assert_allclose(reading.positions, truth["positions"], atol=1.0)
    np.testing.assert_array_equal(reading.state, reading.positions.astype(np.float32))
    assert abs(reading.time - time.monotonic()) < 1.0 and truth["torque"] == [True] * 6


def test_a_limp_arm_is_caught_where_it_is(emulator: SO101Emulator) -> None:
    """Its goals from before are far away by then: powering it up must not throw it there."""
    with SO101Arm(settings(emulator)) as arm:
        before = arm.observe().positions
        arm.stop(torque_off=True)
    assert wait_for(lambda: abs(emulator.status()["positions"][2] - before[2]) > 10.0)
    with SO101Arm(settings(emulator)) as arm:
        caught = arm.observe().positions
        assert abs(caught[2] - before[2]) > 10.0
        time.sleep(0.3)
        np.testing.assert_allclose(emulator.status()["positions"], caught, atol=4.0)
        assert emulator.status()["torque"] == [True] * 6
        assert np.abs(arm.observe().velocities).max() < 60.0


@pytest.mark.parametrize("change", [{"id": 9}, {"range_max": 3000}, {"homing_offset": 5}])
def test_an_arm_that_is_not_the_file_s_is_refused(
    emulator: SO101Emulator, tmp_path: Path, change: dict[str, int]
) -> None:
    joints = json.loads(emulator.calibration_file.read_text())
    joints["elbow_flex"] |= change
    path = tmp_path / "other.json"
    path.write_text(json.dumps(joints))
    message = "servo 9 .elbow_flex. does not answer" if "id" in change else f"elbow_flex has {next(iter(change))}"
    with pytest.raises(ArmError, match=message):
        SO101Arm(settings(emulator, calibration=str(path))).connect()


def test_a_port_that_is_not_there(emulator: SO101Emulator) -> None:
    with pytest.raises(ArmError, match=r"cannot open /dev/nowhere.*plugged in"):
        SO101Arm(settings(emulator, port="/dev/nowhere")).connect()
    with pytest.raises(ArmError, match="is not open; connect the arm first"):
        SO101Arm(settings(emulator)).observe()


# ---- driving -------------------------------------------------------------------------------------------------------


def test_it_goes_where_it_is_told(arm: SO101Arm, emulator: SO101Emulator) -> None:
    """To within a servo's step and its sag, in the simulator's own units."""
    goal = arm.observe().positions + np.array([20.0, 0.0, 0.0, -10.0, -30.0, -20.0])
    sent = arm.send(goal)
    assert (np.abs(sent - goal) <= arm.calibration.step).all()
    assert wait_for(lambda: bool(np.abs(emulator.status()["velocities"]).max() < 0.5))
    np.testing.assert_allclose(emulator.status()["positions"], goal, atol=3.5)
    np.testing.assert_allclose(arm.observe().positions, emulator.status()["positions"], atol=0.7)


def test_it_is_never_told_more_than_its_range(arm: SO101Arm) -> None:
    start = arm.observe().positions
    sent = arm.send(np.full(6, 1e6))
    assert (sent <= np.array(arm.limits.high) + arm.calibration.step).all()
    sent = arm.send(np.full(6, -1e6))
    assert (sent >= np.array(arm.limits.low) - arm.calibration.step).all()
    arm.send(start)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_not_sent(arm: SO101Arm, bad: float) -> None:
    before = arm._bus.read("elbow_flex", registers.GOAL_POSITION)
    goal = arm.observe().positions + 5.0
    goal[2] = bad
    with pytest.raises(ArmError, match="elbow_flex is not a finite number; nothing was sent"):
        arm.send(goal)
    assert arm._bus.read("elbow_flex", registers.GOAL_POSITION) == before
    with pytest.raises(ArmError, match=r"6 positions, not an array of shape \(5,\)"):
        arm.send(goal[:5])


def test_thirty_times_a_second(arm: SO101Arm) -> None:
    """Two seconds of reading and commanding: nothing is lost, and half of a cycle is left for whoever decides."""
    start = arm.observe().positions
    spent, due = [], time.monotonic()
    for step in range(60):
        began = time.perf_counter()
        arm.observe()
        arm.send(start + np.array([15.0 * np.sin(step / 10), 0, 0, 0, 0, 0]))
        spent.append(time.perf_counter() - began)
        due += 1 / 30
        time.sleep(max(0.0, due - time.monotonic()))
    assert np.median(spent) < 0.015
    # The wire alone: a request of 14 bytes, six answers of 26 and a command of 26, at 10 microseconds a byte.
    assert min(spent) > 1.7e-3
    assert arm.statistics.failures == 0


# ---- stopping ------------------------------------------------------------------------------------------------------


def test_holding_again_and_again_does_not_let_it_down(arm: SO101Arm, emulator: SO101Emulator) -> None:
    start = np.array(emulator.status()["positions"])
    for _ in range(30):
        arm.hold()
    time.sleep(0.3)
    np.testing.assert_allclose(emulator.status()["positions"], start, atol=1.0)


def test_a_moving_arm_stops_where_it_is(arm: SO101Arm, emulator: SO101Emulator) -> None:
    start = arm.observe().positions
    arm.send(start + np.array([80.0, 0, 0, 0, 0, 0]))
    assert wait_for(lambda: arm.observe().velocities[0] > 50.0)
    at = arm.observe().positions[0]
    arm.stop()
    assert wait_for(lambda: bool(np.abs(arm.observe().velocities).max() < 5.0))
    assert arm.observe().positions[0] - at < 25.0 < start[0] + 80.0 - at
    assert emulator.status()["torque"] == [True] * 6


def test_a_joint_that_is_nearly_there_comes_to_rest_at_its_goal(arm: SO101Arm, emulator: SO101Emulator) -> None:
    """Where it was when it said so would take it back."""
    start = arm.observe().positions
    arm.send(start + np.array([6.0, 0, 0, 0, 0, 0]))
    assert wait_for(lambda: emulator.status()["velocities"][0] > 20.0)
    arm.hold()
    assert wait_for(lambda: bool(np.abs(arm.observe().velocities).max() < 1.0))
    np.testing.assert_allclose(arm.observe().positions[0], start[0] + 6.0, atol=1.5)


def test_disconnecting_does_not_drop_it(emulator: SO101Emulator) -> None:
    with SO101Arm(settings(emulator)) as arm:
        start = arm.observe().positions
    arm.disconnect()
    time.sleep(0.4)
    status = emulator.status()
    np.testing.assert_allclose(status["positions"], start, atol=1.5)
    assert status["torque"] == [True] * 6


def test_letting_go_is_checked(arm: SO101Arm, emulator: SO101Emulator) -> None:
    arm.stop(torque_off=True)
    assert emulator.status()["torque"] == [False] * 6
    arm.observe()
    with pytest.raises(ArmError, match="was let go"):
        arm.send(np.zeros(6))
    with pytest.raises(ArmError, match="was let go"):
        arm.hold()


# ---- faults --------------------------------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_and_counted(emulator: SO101Emulator) -> None:
    with SO101Arm(settings(emulator)) as arm:
        for fault in ("drop", "corrupt", "wrong_id"):
            before = arm.statistics.retries
            emulator.set_faults(Faults.from_dict({fault: 1.0, "packets": 1, "joints": ["elbow_flex"]}))
            arm.observe()
            assert arm.statistics.retries > before, fault
        assert arm.statistics.failures == 0


def test_a_late_answer_is_not_taken_for_the_next_one(emulator: SO101Emulator) -> None:
    """Two reads of as many bytes: the second must not get the first one's answer."""
    with SO101Arm(settings(emulator, timeout=0.03, read_retries=0)) as arm:
        emulator.set_faults(latency=0.045)
        with pytest.raises(ArmError, match="no answer from elbow_flex"):
            arm._bus.read("elbow_flex", registers.MIN_POSITION)
        emulator.set_faults()
        with arm._bus.patient(0.2):
            found = arm._bus.read("elbow_flex", registers.MAX_POSITION)
        assert found == arm.calibration.joints["elbow_flex"].range_max


def test_a_position_that_cannot_be_is_read_again(emulator: SO101Emulator) -> None:
    """One wrong reading is left out. One that stays is no place to drive from: it is refused until somebody looks."""
    with SO101Arm(settings(emulator)) as arm:
        before = arm.observe().positions
        emulator.set_faults(spike=1500, packets=1, joints=("shoulder_pan",))
        np.testing.assert_allclose(arm.observe().positions, before, atol=1.0)
        assert arm.statistics.implausible == 1
        emulator.set_faults(spike=2100, joints=("shoulder_pan",))
        for _ in range(3):
            with pytest.raises(ArmError, match=r"no servo is that fast: shoulder_pan is at .* and was at"):
                arm.observe()
        arm.hold()
        assert arm._goal is not None and abs(arm._goal[0] - before[0]) < 5.0, "it is not held where it says it is"
        time.sleep(0.2)
        assert abs(emulator.status()["positions"][0] - before[0]) < 3.0


def test_answers_that_come_much_too_late_are_noticed(arm: SO101Arm, emulator: SO101Emulator) -> None:
    """Each would be taken for the next one's; but a servo says its goal, too, and that is an old one."""
    start = arm.observe().positions
    emulator.set_faults(latency=0.35)
    with pytest.raises(ArmError, match=r"no answer|another goal than was told"):
        for step in range(30):
            arm.send(start + np.array([step, 0.0, 0.0, 0.0, 0.0, 0.0]))
            with contextlib.suppress(ArmError) if step < 5 else contextlib.nullcontext():
                arm.observe()
    emulator.set_faults()
    time.sleep(0.5)  # those under way are nobody's any more


def test_a_command_that_was_lost_is_noticed_with_the_next_reading(
    arm: SO101Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = arm.observe().positions
    with monkeypatch.context() as patch:
        patch.setattr(FeetechBus, "sync_write", lambda *_: None)
        arm.send(start + np.array([0.0, 0.0, 5.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ArmError, match=r"elbow_flex.*: another goal than was told"):
        arm.observe()
    arm.send(start)
    arm.observe()


def test_a_lost_answer_costs_little_where_others_follow(emulator: SO101Emulator) -> None:
    """Servos answer in their order: after the last one's answer nobody waits for one that is missing."""
    with SO101Arm(settings(emulator)) as arm:
        emulator.set_faults(drop=1.0, joints=("shoulder_lift",), packets=1)
        began = time.monotonic()
        arm.observe()
        assert time.monotonic() - began < 0.08, (
            "0.1 s are a servo's time to answer, and as much is waited before asking"
        )
        assert arm.statistics.retries == 1


def test_a_tenth_of_all_answers_lost_is_no_reason_to_stop(emulator: SO101Emulator) -> None:
    """Only those that did not answer are asked again."""
    with SO101Arm(settings(emulator, timeout=0.03, read_retries=4)) as arm:
        before = arm.observe().positions
        emulator.set_faults(drop=0.1)
        for _ in range(20):
            np.testing.assert_allclose(arm.observe().positions, before, atol=1.0)
        assert arm.statistics.retries > 0 and arm.statistics.failures == 0


def test_an_answer_in_another_s_name_is_not_believed(arm: SO101Arm, emulator: SO101Emulator) -> None:
    """The position of the elbow is not taken for the wrist's, which answers itself."""
    before = arm.observe().positions
    emulator.set_faults(wrong_id=1.0, joints=("elbow_flex",), packets=1)
    np.testing.assert_allclose(arm.observe().positions, before, atol=1.0)
    assert arm.statistics.implausible == 0
    emulator.set_faults(wrong_id=1.0, joints=("elbow_flex",))
    with pytest.raises(ArmError, match="no answer from elbow_flex, wrist_flex"):
        arm.observe()


def test_a_stop_in_an_emergency_needs_no_healthy_arm(emulator: SO101Emulator) -> None:
    """A servo is missing and another one complains: whoever drives loses the arm, and the others are held."""
    driver = SO101Arm(settings(emulator))
    driver.connect()
    start = driver.observe().positions
    driver.send(start + np.array([60.0, 0.0, 0.0, 0.0, 40.0, 0.0]))
    assert wait_for(lambda: emulator.status()["velocities"][0] > 50.0)
    emulator.set_faults(silent=True, joints=("wrist_flex",))
    rescuer = SO101Arm(settings(emulator, timeout=0.03))
    with pytest.raises(ArmError, match="another program drives the arm"):
        rescuer.connect()
    rescuer.connect_to_stop()
    with pytest.raises(ArmError, match="no answer from wrist_flex"):
        rescuer.hold()
    rescuer.disconnect()
    driver._bus.close()
    assert wait_for(lambda: bool(np.abs(emulator.status()["velocities"]).max() < 1.0))
    status = emulator.status()
    assert status["positions"][0] < start[0] + 50.0 and status["torque"] == [True] * 6


def test_a_servo_that_stays_silent_is_named(arm: SO101Arm, emulator: SO101Emulator) -> None:
    emulator.set_faults(silent=True, joints=("wrist_flex",))
    began = time.monotonic()
    with pytest.raises(ArmError, match="no answer from wrist_flex, tried 3 times"):
        arm.observe()
    assert time.monotonic() - began < 1.0
    assert arm.statistics.failures == 1


def test_a_damaged_answer_is_named(arm: SO101Arm, emulator: SO101Emulator) -> None:
    emulator.set_faults(corrupt=1.0, joints=("gripper",))
    with pytest.raises(ArmError, match="a damaged answer from gripper"):
        arm.observe()


@pytest.mark.parametrize(("bits", "words"), [(32, "gripper: overload"), (5, "gripper: voltage out of range, too hot")])
def test_an_error_bit_is_an_error_of_the_joint(arm: SO101Arm, emulator: SO101Emulator, bits: int, words: str) -> None:
    emulator.set_faults(error_bits=bits, joints=("gripper",))
    with pytest.raises(ArmError, match=words):
        arm.observe()
    arm.hold()  # a servo that complains still has to be held


def test_lost_torque_is_noticed_with_the_next_reading(arm: SO101Arm, emulator: SO101Emulator) -> None:
    emulator.brown_out(["shoulder_lift", "elbow_flex"])
    with pytest.raises(ArmError, match=r"shoulder_lift, elbow_flex lost power \(torque is off\)"):
        arm.observe()
    arm.connect()
    assert emulator.status()["torque"] == [True] * 6
    arm.observe()


def test_a_hold_that_is_not_taken_is_an_error(arm: SO101Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers a write to all servos, so that only reading back tells."""
    arm.send(arm.observe().positions + 3.0)
    monkeypatch.setattr(FeetechBus, "sync_write", lambda *_: None)
    arm._goal = arm.observe().positions - 3.0
    with pytest.raises(ArmError, match="does not take its goal"):
        arm.hold()


def test_a_cable_that_is_pulled(tmp_path: Path) -> None:
    with SO101Emulator(frames_per_second=0) as emulator:
        arm = SO101Arm(settings(emulator))
        arm.connect()
    with pytest.raises(ArmError, match=r"cannot read addresses|is gone"):
        arm.observe()
    arm.disconnect()
    arm.disconnect()
