"""The emulated SO-101, through Feetech's own SDK over its serial port, and its cameras through OpenCV."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
import pytest

from real_robot.arms import registers
from real_robot.cameras.camera import Camera, CameraConfig
from real_robot.emulators.so101 import SO101Emulator
from real_robot.emulators.so101_physics import SO101Physics, emulated_calibration
from sim.so101.embodiment import JOINT_LIMITS, JOINTS, from_radians, to_radians
from sim.so101.environment import SO101Environment
from vla.errors import ReflexError

TORQUE_ENABLE, GOAL_POSITION, PRESENT_POSITION, PRESENT_VOLTAGE = 40, 42, 56, 62
LIFT = 2
"""The servo of shoulder_lift, which carries the arm."""


def wait_for(holds: Callable[[], bool], timeout: float = 5.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + timeout
    while not (true := holds()) and time.monotonic() < end:
        time.sleep(0.01)
    return true


class Line:
    """Feetech's SDK, as its examples use it."""

    def __init__(self, port: str) -> None:
        sdk: Any = pytest.importorskip("scservo_sdk")
        self.sdk, self.port, self.packets = sdk, sdk.PortHandler(port), sdk.PacketHandler(0)
        assert self.port.openPort() and self.port.setBaudRate(1_000_000)

    def read(self, servo: int, address: int) -> tuple[int, int, int]:
        """(value, result, error) of two bytes; asked again as long as a busy machine answers late."""
        found: tuple[int, int, int] = (0, -6, 0)
        for _ in range(5):
            found = self.packets.read2ByteTxRx(self.port, servo, address)
            if found[1] == 0:
                break
        return found

    def write(self, servo: int, address: int, value: int, size: int = 2) -> None:
        """Write, and see it confirmed."""
        write = self.packets.write2ByteTxRx if size == 2 else self.packets.write1ByteTxRx
        assert any(write(self.port, servo, address, value)[0] == 0 for _ in range(5))


@pytest.fixture
def line(emulator: SO101Emulator) -> Iterator[Line]:
    opened = Line(emulator.port)
    yield opened
    opened.port.closePort()


# ---- the bus -------------------------------------------------------------------------------------------------------


def test_every_servo_answers_a_ping(line: Line) -> None:
    for servo in range(1, 7):
        assert (777, 0, 0) in [line.packets.ping(line.port, servo) for _ in range(3)]


def test_a_missing_servo_does_not_answer(line: Line) -> None:
    assert line.packets.ping(line.port, 9)[1] == line.sdk.COMM_RX_TIMEOUT


def test_the_physics_follows_a_goal(line: Line, emulator: SO101Emulator) -> None:
    before = emulator.status()["positions"][0]
    goal = line.read(1, PRESENT_POSITION)[0] + 200
    line.write(1, GOAL_POSITION, goal)
    assert wait_for(lambda: abs(line.read(1, PRESENT_POSITION)[0] - goal) < 15)
    time.sleep(0.2)
    assert emulator.status()["positions"][0] - before == pytest.approx(200 * 360 / 4096, abs=1.5)
    assert emulator.status()["peak_velocity"][0] > 50.0


def test_without_torque_the_arm_falls_and_with_it_it_is_held(line: Line, emulator: SO101Emulator) -> None:
    lift = JOINTS.index("shoulder_lift")
    start = emulator.status()["positions"]
    time.sleep(0.5)
    held = emulator.status()
    np.testing.assert_allclose(held["positions"][:3], start[:3], atol=1.0)
    for servo in range(1, 7):
        line.write(servo, TORQUE_ENABLE, 0, size=1)
    assert wait_for(lambda: abs(emulator.status()["positions"][lift] - start[lift]) > 10.0)
    assert emulator.status()["torque"] == [False] * 6


def test_a_brown_out_lets_go_of_the_servos_it_hits(line: Line, emulator: SO101Emulator) -> None:
    assert emulator.brown_out(["gripper"])["torque"] == [True] * 5 + [False]
    assert line.read(6, TORQUE_ENABLE)[0] & 0xFF == 0


def test_a_goal_that_jams_moves_nothing(line: Line, emulator: SO101Emulator) -> None:
    emulator.set_faults(jammed=True, joints=("shoulder_pan",))
    before = emulator.status()["positions"]
    line.write(1, GOAL_POSITION, line.read(1, PRESENT_POSITION)[0] + 300)
    line.write(6, GOAL_POSITION, line.read(6, PRESENT_POSITION)[0] - 300)
    assert wait_for(lambda: emulator.status()["positions"][5] < before[5] - 15.0)
    assert emulator.status()["positions"][0] == pytest.approx(before[0], abs=1.0)
    emulator.set_faults()
    assert wait_for(lambda: emulator.status()["positions"][0] > before[0] + 20.0), "healed, it goes on"


def test_error_bits_and_latency(line: Line, emulator: SO101Emulator) -> None:
    emulator.set_faults(error_bits=32, joints=("gripper",))
    assert line.read(6, PRESENT_VOLTAGE)[2] == 32 and line.read(1, PRESENT_VOLTAGE)[2] == 0
    emulator.set_faults(latency=0.02)
    began = time.monotonic()
    line.read(1, PRESENT_VOLTAGE)
    assert time.monotonic() - began >= 0.02


def test_the_wire_takes_its_time(line: Line, emulator: SO101Emulator) -> None:
    """A read of two bytes is 16 bytes of 10 bits at 1 Mbaud, and 500 us before the answer unless that is changed."""
    fastest = []
    for delay in (250, 0):
        line.write(1, 55, 0, size=1)
        line.write(1, 7, delay, size=1)
        times = []
        for _ in range(30):
            began = time.perf_counter()
            line.read(1, PRESENT_POSITION)
            times.append(time.perf_counter() - began)
        fastest.append(min(times))
    assert fastest[1] > 160e-6
    assert fastest[0] > 160e-6 + 500e-6


# ---- the physics, without a process --------------------------------------------------------------------------------


def test_the_calibration_s_units_are_the_embodiment_s() -> None:
    """Joints put anywhere: what the servos say, converted as LeRobot does, is what the simulator reports."""
    physics = SO101Physics(1, "eval", 0, None)
    calibration, data = emulated_calibration(), physics.environment.data
    generator = np.random.default_rng(3)
    for _ in range(50):
        angles = generator.uniform(JOINT_LIMITS[:, 0], JOINT_LIMITS[:, 1])
        data.qpos[:6] = angles
        physics.measure()
        said = calibration.to_positions([servo[registers.PRESENT_POSITION] for servo in physics.servos])
        # A step, and a part in 4096 by which LeRobot's degrees are larger.
        np.testing.assert_array_less(
            np.abs(said - from_radians(angles)), calibration.step + np.abs(from_radians(angles)) / 4000.0
        )


def test_an_encoder_does_not_know_that_its_end_meets_its_beginning() -> None:
    """A servo turned past 4095 goes the long way back to its goal, as a real one does."""
    physics = SO101Physics(1, "eval", 0, None)
    physics.apply()
    roll = JOINTS.index("wrist_roll")
    physics.environment.data.qpos[roll] = np.pi + 0.01
    physics.step()
    assert physics.environment.data.ctrl[roll] > np.pi + 4.0, "the goal is a turn ahead"


# ---- the process ---------------------------------------------------------------------------------------------------


def test_a_reset_is_the_suite_s_initial_state(emulator: SO101Emulator) -> None:
    environment = SO101Environment(1)
    environment.reset_to("train", 7)
    said = emulator.reset(init_state=7, split="train")
    assert (said["split"], said["init_state"], said["instruction"]) == ("train", 7, "pick up the red block")
    np.testing.assert_allclose(said["positions"], environment.robot_state(), atol=0.5)
    assert not said["has_succeeded"] and said["torque"] == [True] * 6
    emulator.reset(init_state=0, split="eval")


def test_requests_that_cannot_be_carried_out(emulator: SO101Emulator) -> None:
    with pytest.raises(ReflexError, match=r"refused reset: .* 50 eval initial states"):
        emulator.reset(init_state=50)
    with pytest.raises(ReflexError, match="no joint 'jaw'; they are shoulder_pan"):
        emulator.set_faults(joints=("jaw",))
    with pytest.raises(ReflexError, match="cannot start: so101 has no task 9"):
        SO101Emulator(task_id=9).start()


def test_it_runs_before_others_where_that_is_allowed(running: SO101Emulator) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may raise a process's priority")
    assert os.getpriority(os.PRIO_PROCESS, running._processes[0].pid or 0) < os.getpriority(os.PRIO_PROCESS, 0)


def test_it_ends_with_its_handle() -> None:
    with SO101Emulator(frames_per_second=0) as emulator:
        port, files = emulator.port, emulator.calibration_file
        assert os.path.exists(port) and files.is_file()  # noqa: PTH110 - it is a device
    assert not emulator._processes[0].is_alive() and not files.exists()
    with pytest.raises(ReflexError, match="does not answer"):
        emulator.status()
    emulator.close()


# ---- the cameras ---------------------------------------------------------------------------------------------------


def test_its_cameras_show_the_suite_s_pictures(emulator: SO101Emulator) -> None:
    """Policies are trained on the simulator's own pictures: what comes through JPEG and OpenCV is nearly those."""
    environment = SO101Environment(1)
    environment.reset_to("eval", 0)
    time.sleep(0.4)  # the first moments: it settles
    environment.data.qpos[:6] = to_radians(np.array(emulator.status()["positions"]))
    mujoco.mj_kinematics(environment.model, environment.data)
    mujoco.mj_camlight(environment.model, environment.data)
    drawn = environment.render_observation()["images"]
    for name, url in emulator.camera_urls.items():
        with Camera(CameraConfig(name, url, 64, 64)) as camera:
            frame = camera.latest()
            assert frame is not None
            frame = camera.after(frame.sequence + 1, timeout=5.0)
            assert frame is not None
            error = np.abs(frame.image.astype(int) - drawn[name])
            assert error.mean() < 1.5 and np.percentile(error, 99) <= 12, (name, error.mean(), error.max())


def test_a_camera_that_goes_black_or_freezes_is_noticed(emulator: SO101Emulator, line: Line) -> None:
    config = CameraConfig("wrist", emulator.camera_urls["wrist"], 64, 64, frozen_after=0.3)
    with Camera(config) as camera:
        emulator.set_faults(black_cameras=("wrist",))
        assert wait_for(lambda: camera.problem == "black")
        emulator.set_faults()
        line.write(1, GOAL_POSITION, line.read(1, PRESENT_POSITION)[0] + 900)
        assert wait_for(lambda: camera.problem == "")
        emulator.set_faults(frozen_cameras=("wrist",))
        assert wait_for(lambda: camera.problem.startswith("the same for"))
