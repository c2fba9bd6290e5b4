"""The code behind `vla robot calibrate`: an SO-101 is moved by hand, and its servos and a file remember its ranges.

It is LeRobot's procedure, and the file is LeRobot's.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from real_robot.arms import registers
from real_robot.arms.arm import ArmError
from real_robot.arms.calibration import FULL_TURN, Calibration, JointCalibration
from real_robot.arms.feetech import FeetechBus
from sim.so101.embodiment import JOINTS
from vla.errors import ReflexError

FREE_JOINT = "wrist_roll"
"""It turns all the way round, so that its range is every step."""
LEAST_RANGE = 200
"""Steps (18 degrees) that every other joint has to be moved through."""
_HALF_TURN = FULL_TURN // 2
_LARGEST_OFFSET = (1 << 11) - 1

Prompt = Callable[[str], None]
"""Says what to do, and returns when it is done."""


@dataclass(frozen=True)
class CalibrateConfig:
    """Which arm to calibrate."""

    robot: str = "so101"
    """Robot to calibrate: so101."""
    port: str = "/dev/ttyACM0"
    """Path of its serial port."""
    calibration: str | None = None
    """File to write; null for so101.json in the current folder. LeRobot reads it too."""
    replace: bool = False
    """Whether a file that is there already is replaced."""

    def __post_init__(self) -> None:
        if self.robot != "so101":
            raise ReflexError(f"robot is {self.robot!r}; only so101 is calibrated here")


def calibrate(config: CalibrateConfig) -> Path:
    """Ask for the movements on the terminal, calibrate, and return the file that was written.

    Raises `ReflexError` when the file is there already, or for what the arm says (`ArmError`'s message).
    """
    path = Path(config.calibration or "so101.json")
    if path.exists() and not config.replace:
        raise ReflexError(f"{path} is there already; give another calibration=..., or replace=true")
    bus = FeetechBus(config.port, {name: number for number, name in enumerate(JOINTS, start=1)}, timeout=0.25)
    try:
        bus.open()
        calibrate_servos(bus, _ask).write(path)
    except ArmError as error:
        raise ReflexError(str(error)) from error
    finally:
        bus.close()
    return path


def _ask(what: str) -> None:
    sys.stdout.write(f"{what}, then press Enter\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        raise ReflexError("the calibration needs somebody who presses Enter; nothing was written to the file")


def calibrate_servos(bus: FeetechBus, prompt: Prompt) -> Calibration:
    """Calibrate the servos of an open bus; `prompt` asks for each movement.

    Raises `ArmError` for a servo that does not answer, or a joint that was hardly moved.
    """
    for name in bus.ids:
        if (model := bus.ping(name)) != registers.MODEL_NUMBER_STS3215:
            raise ArmError(f"servo {bus.ids[name]} ({name}) is model {model}, not an STS3215")
    prompt("Hold the arm: its servos will let go")
    for name in bus.ids:
        bus.write(name, registers.TORQUE_ENABLE, 0)
        bus.write(name, registers.LOCK, 0)
        bus.write(name, registers.OPERATING_MODE, 0)
        for register, value in (
            (registers.HOMING_OFFSET, 0),
            (registers.MIN_POSITION, 0),
            (registers.MAX_POSITION, FULL_TURN),
        ):
            bus.write(name, register, value)
    prompt("Move every joint to the middle of its range, and hold the arm there")
    offsets = {name: min(step - _HALF_TURN, _LARGEST_OFFSET) for name, step in positions(bus).items()}
    for name, offset in offsets.items():
        bus.write(name, registers.HOMING_OFFSET, offset)
    low, high = record_ranges(bus, lambda: prompt(f"Move every joint but {FREE_JOINT} through its whole range"))
    low[FREE_JOINT], high[FREE_JOINT] = 0, FULL_TURN
    still = [name for name in bus.ids if high[name] - low[name] < LEAST_RANGE]
    if still:
        raise ArmError(f"{', '.join(still)} hardly moved; calibrate again, and move every joint from end to end")
    for name in bus.ids:
        bus.write(name, registers.MIN_POSITION, low[name])
        bus.write(name, registers.MAX_POSITION, high[name])
        bus.write(name, registers.LOCK, 1)
    joints = {
        name: JointCalibration(number, 0, offsets[name], low[name], high[name]) for name, number in bus.ids.items()
    }
    return Calibration(joints)


def positions(bus: FeetechBus) -> dict[str, int]:
    """What every servo says, in steps."""
    register = registers.PRESENT_POSITION
    return {name: register.decode(answer.data) for name, answer in bus.sync_read(register.address, 2).items()}


def record_ranges(bus: FeetechBus, wait: Callable[[], None]) -> tuple[dict[str, int], dict[str, int]]:
    """The smallest and largest steps of every servo until `wait` returns. Raises what the bus or `wait` raise."""
    low = positions(bus)
    high = dict(low)
    done = threading.Event()
    problem: list[ArmError] = []

    def watch() -> None:
        while not done.is_set():
            try:
                for name, step in positions(bus).items():
                    low[name], high[name] = min(low[name], step), max(high[name], step)
            except ArmError as error:  # it is raised where somebody waits for it
                problem.append(error)
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, name="ranges")
    watcher.start()
    try:
        wait()
    finally:
        done.set()
        watcher.join()
    if problem:
        raise problem[0]
    return low, high
