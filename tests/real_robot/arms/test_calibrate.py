"""Calibrating an SO-101 by hand: the emulated one has a hand too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError
from real_robot.arms.calibrate import CalibrateConfig, calibrate, calibrate_servos
from real_robot.arms.calibration import read_calibration
from real_robot.arms.feetech import FeetechBus
from real_robot.arms.so101 import SO101Arm, SO101Settings
from real_robot.emulators.so101 import SO101Emulator
from real_robot.emulators.so101_physics import MOUNTED_AT, STEPS_PER_RADIAN
from sim.so101.embodiment import JOINTS, to_radians
from tests.real_robot.emulators.test_so101 import wait_for
from vla.errors import ReflexError


@pytest.fixture
def own() -> Iterator[SO101Emulator]:
    """An arm of its own: its servos are changed."""
    with SO101Emulator(frames_per_second=0) as emulator:
        yield emulator


def lead(emulator: SO101Emulator, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """By the hand, until it is there or the table is in the way; returns where it came to."""
    emulator.guide(positions.tolist())
    wait_for(lambda: bool(np.abs(emulator.status()["velocities"]).max() > 5.0), timeout=0.5)
    wait_for(lambda: bool(np.abs(emulator.status()["velocities"]).max() < 0.5), timeout=3.0)
    return np.array(emulator.status()["positions"])


def test_servos_and_file_remember_how_far_the_hand_went(own: SO101Emulator, tmp_path: Path) -> None:
    middle = np.array([0.0, -20.0, 10.0, 20.0, 0.0, 50.0])
    ends = middle + np.array([[-60.0, -30.0, -20.0, -30.0, 0.0, -45.0], [50.0, 10.0, 10.0, 40.0, 0.0, 45.0]])
    reached: list[NDArray[np.float64]] = []

    def moves(what: str) -> None:
        if "middle" in what:
            reached.append(lead(own, middle))
        elif "whole range" in what:
            reached.extend(lead(own, end) for end in ends)

    bus = FeetechBus(own.port, {name: number for number, name in enumerate(JOINTS, start=1)}, timeout=0.25)
    bus.open()
    path = tmp_path / "mine.json"
    calibrate_servos(bus, moves).write(path)
    bus.close()
    found = read_calibration(path, JOINTS).joints
    steps = to_radians(np.array(reached)) * STEPS_PER_RADIAN
    for index, (name, joint) in enumerate(found.items()):
        assert abs(joint.homing_offset - (MOUNTED_AT[index] + steps[0, index] - 2047)) < 8, name
        if name == "wrist_roll":
            assert (joint.range_min, joint.range_max) == (0, 4095)
            continue
        # What the hand overshoots, and how far it swings, are part of the range.
        assert -40 < joint.range_min - (2047 + steps[1, index] - steps[0, index]) < 8, name
        assert -8 < joint.range_max - (2047 + steps[2, index] - steps[0, index]) < 40, name
    with SO101Arm(SO101Settings(own.port, str(path), timeout=0.1)) as arm:
        assert np.abs(arm.observe().positions[:5]).max() < 100.0


def test_a_joint_that_nobody_moved_is_named(own: SO101Emulator) -> None:
    own.guide(own.status()["positions"])
    bus = FeetechBus(own.port, {name: number for number, name in enumerate(JOINTS, start=1)}, timeout=0.25)
    bus.open()
    with pytest.raises(ArmError, match=r"shoulder_pan, .*gripper hardly moved"):
        calibrate_servos(bus, lambda what: None)
    bus.close()


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}")
    with pytest.raises(ReflexError, match="is there already"):
        calibrate(CalibrateConfig(port="/dev/nowhere", calibration=str(path)))
    with pytest.raises(ReflexError, match="cannot open /dev/nowhere"):
        calibrate(CalibrateConfig(port="/dev/nowhere", calibration=str(path), replace=True))
    assert path.read_text() == "{}"
    with pytest.raises(ReflexError, match="only so101"):
        CalibrateConfig(robot="franka")
