"""The simulated arm moves as the suite's environment does, and as time or commands say."""

from __future__ import annotations

import numpy as np
import pytest

from real_robot.arms.arm import Arm, ArmError
from real_robot.arms.simulated import SimulatedArm, SimulatedSettings
from sim.so101.environment import SO101Environment
from sim.so101.expert import SO101Expert


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_with_the_clock_of_commands_it_is_the_environment() -> None:
    """An expert's episode, command by command: the same states to the bit, and the same success."""
    environment = SO101Environment(0)
    environment.reset_to("eval", 3)
    expert = SO101Expert(0)
    expert.reset(environment)
    arm = SimulatedArm(SimulatedSettings(init_state=3, clock="send"))
    assert isinstance(arm, Arm)
    with arm:
        while not environment.task.goal.holds(environment.world_state()):
            action = expert.act(environment)
            environment.advance(action)
            sent = arm.send(action.astype(np.float64))
            np.testing.assert_array_equal(sent.astype(np.float32), action)
            np.testing.assert_array_equal(arm.observe().state, environment.robot_state())
        assert arm.success and arm.has_succeeded
        assert arm.images()["wrist"].shape == (64, 64, 3)
        np.testing.assert_array_equal(arm.camera("front").latest().image, arm.images()["front"])


def test_with_a_real_clock_it_moves_as_time_passes() -> None:
    clock = Clock()
    with SimulatedArm(SimulatedSettings(task=1), clock) as arm:
        start = arm.observe().positions
        goal = start.copy()
        goal[0] += 20.0
        arm.send(goal)
        assert arm.observe().positions[0] == start[0], "no time has passed"
        clock.now += 0.101
        moving = arm.observe()
        assert start[0] < moving.positions[0] < goal[0] and moving.velocities[0] > 20.0
        clock.now += 1.0
        assert arm.observe().positions[0] == pytest.approx(goal[0], abs=1.0)


def test_at_rest_it_stays() -> None:
    """Held against gravity from the start, and after a stop on the way to a far goal."""
    clock = Clock()
    with SimulatedArm(SimulatedSettings(task=1), clock) as arm:
        start = arm.observe().positions
        clock.now += 2.0
        np.testing.assert_allclose(arm.observe().positions, start, atol=1.5)
        arm.send(start + np.array([60.0, 0, 0, 0, 0, 0]))
        clock.now += 0.15
        stopped_at = arm.observe().positions[0]
        arm.stop()
        clock.now += 1.0
        assert arm.observe().positions[0] == pytest.approx(stopped_at, abs=8.0)
        assert np.abs(arm.observe().velocities).max() < 1.0


def test_what_it_refuses() -> None:
    arm = SimulatedArm()
    with pytest.raises(ArmError, match="not connected"):
        arm.observe()
    with arm:
        goal = arm.observe().positions
        with pytest.raises(ArmError, match=r"6 finite numbers.*nothing was sent"):
            arm.send(goal * np.nan)
        with pytest.raises(ArmError, match="cannot let go"):
            arm.stop(torque_off=True)
        np.testing.assert_allclose(arm.send(np.full(6, 1e9)), arm.limits.high)
    with pytest.raises(ArmError, match="tabletop is told end_effector_delta"):
        SimulatedArm(SimulatedSettings(suite="tabletop"))
