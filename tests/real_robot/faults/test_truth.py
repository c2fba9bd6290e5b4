"""Numbers from an arm's true motion, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from real_robot.emulators.trace import Trace
from real_robot.faults.truth import PERIOD, Truth
from sim.so101.embodiment import JOINTS
from sim.so101.scene import TIMESTEP

TIMES = TIMESTEP * np.arange(480, dtype=np.float64)


def truth(first_joint: NDArray[np.float64], powered: bool = True, commands: object = ()) -> Truth:
    """Of an arm whose other joint rests."""
    positions = np.stack([first_joint, np.zeros(len(TIMES))], axis=1)
    told = np.array([command for _, command in commands], np.float64)  # type: ignore[attr-defined]
    return Truth(
        times=TIMES,
        positions=positions,
        velocities=np.gradient(positions, TIMESTEP, axis=0),
        powered=np.full(positions.shape, powered),
        command_times=np.array([time for time, _ in commands], np.float64),  # type: ignore[attr-defined]
        commands=told.reshape(len(told), 2),
    )


def test_velocity_and_jerk_of_a_cubic() -> None:
    """x = t^3: its third difference is 6 T^3 wherever one looks, and its velocity is greatest at the end."""
    found = truth(TIMES**3)
    assert found.peak_jerks(0.0) == pytest.approx([6.0, 0.0], rel=1e-6)
    end = TIMES[-1]
    assert found.peak_velocities(0.0) == pytest.approx([(end**3 - (end - PERIOD) ** 3) / PERIOD, 0.0])
    assert found.fastest(0.0)[0] == pytest.approx(3.0 * end**2, rel=1e-2)


def test_a_jump_shows_in_full_and_only_from_when_one_looks() -> None:
    found = truth(np.where(TIMES > 0.5, 2.0, 0.0))
    assert found.peak_velocities(0.0)[0] == pytest.approx(2.0 / PERIOD)
    assert found.peak_jerks(0.0)[0] == pytest.approx(4.0 / PERIOD**3), "1, -3, 3, -1 of a step: -2 of it in the middle"
    assert found.peak_velocities(0.5 + 2 * PERIOD)[0] == 0.0


def test_a_joint_without_torque_is_nobody_s_doing() -> None:
    found = truth(TIMES**3, powered=False)
    assert not found.peak_jerks(0.0).any() and not found.peak_velocities(0.0).any() and not found.fastest(0.0).any()
    assert found.moves_until(0.1, np.full(2, 0.5)) == 0.1


def test_when_it_rests() -> None:
    found = truth(np.minimum(TIMES, 0.5) * 100.0)
    assert found.moves_until(0.2, np.full(2, 5.0)) == pytest.approx(0.5, abs=0.005)
    assert found.moves_until(0.8, np.full(2, 5.0)) == 0.8, "not after it was looked for"


def test_what_is_not_recorded_is_counted() -> None:
    """The arm is at 30 t; a command that holds it, or says again what was said, belongs to no control step."""
    told = [(0.1, [20.0, 0.0]), (0.2, [21.0, 0.0]), (0.3, [22.0, 0.0]), (0.4, [12.0, 0.0]), (0.5, [12.0, 0.0])]
    found = truth(30.0 * TIMES, commands=told)
    tolerance = np.full(2, 0.04)
    assert found.unrecorded([[20.0, 0.0], [21.0, 0.0], [22.0, 0.0]], tolerance, 3) == 0
    assert found.unrecorded([[20.0, 0.0], [22.0, 0.0]], tolerance, 2) == 1
    assert found.unrecorded([[20.0, 0.0]], tolerance, 1) == 2
    assert found.unrecorded([[20.0, 0.0], [21.0, 0.0], [22.0, 0.0], [23.0, 0.0]], tolerance, 3) == 0, "later than this"
    assert found.unrecorded([[20.0, 0.0], [21.0, 0.0], [22.0, 0.0], [23.0, 0.0]], tolerance, 4) == 1, "never sent"


@pytest.mark.parametrize("count", [5, 8, 11])
def test_a_trace_keeps_the_newest_steps_in_order(count: int, tmp_path: Path) -> None:
    trace, joints = Trace(8), len(JOINTS)
    for step in range(count):
        trace.add(float(step), np.full(joints, 0.1), np.zeros(joints), np.ones(joints, bool))
    trace.add_goals(3.5, [1, 2, 3, 4, 5, 6])
    trace.save(tmp_path / "trace.npz")
    with np.load(tmp_path / "trace.npz") as found:
        assert found["times"].tolist() == [float(step) for step in range(max(0, count - 8), count)]
        assert found["commands"].tolist() == [[3.5, 1, 2, 3, 4, 5, 6]]
        assert found["positions"].shape == found["powered"].shape == (min(count, 8), 6)
        assert found["positions"][0, 0] == pytest.approx(np.degrees(0.1), abs=1e-3)


@pytest.mark.parametrize("steps", [0, 8])
def test_a_trace_that_is_off_or_cleared_is_empty(steps: int, tmp_path: Path) -> None:
    trace = Trace(steps)
    trace.add(0.0, np.zeros(6), np.zeros(6), np.ones(6, bool))
    trace.add_goals(0.0, [0] * 6)
    if steps:
        trace.clear()
    trace.save(tmp_path / "trace.npz")
    with np.load(tmp_path / "trace.npz") as found:
        assert found["times"].size == found["commands"].size == 0 and found["commands"].shape == (0, 7)
