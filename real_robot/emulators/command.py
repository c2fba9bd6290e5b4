"""The code behind `vla robot emulate`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sim.contract import Split
from vla.errors import ReflexError
from vla.run.plugins import load_object
from vla.run.settings import Checks

EMULATORS = {
    "so101": "real_robot.emulators.command:so101",
    "franka": "real_robot.emulators.command:franka",
}
"""Name -> import path of a function that takes the configuration, and whose `with` block the robot runs in; it gives
what a user must know to use it, line by line."""


@dataclass(frozen=True)
class EmulateConfig:
    """Which robot to emulate, and where it stands."""

    robot: str = "so101"
    """Robot to emulate: so101, franka, or package.module:function of your own."""
    task: int = 0
    """Number of the task of the robot's suite, whose scene it stands in."""
    split: Split = "eval"
    """Which initial states to start from; train and eval are disjoint."""
    init_state: int = 0
    """Number of the initial state."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
    frames_per_second: float = 30.0
    """Pictures a second of each camera; 0 for none."""
    held: bool = True
    """robot=so101: whether the arm is held where it starts; otherwise it falls until somebody turns torque on."""
    calibration: str | None = None
    """robot=so101: where to write the calibration file that fits the arm; null for a temporary place."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(0, "task", "init_state", "frames_per_second")


Emulator = Callable[[EmulateConfig], AbstractContextManager[Mapping[str, str]]]


def emulate(config: EmulateConfig) -> None:
    """Run the robot until it is interrupted or told to end (SIGTERM). Raises `ReflexError` when it cannot start."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    emulator: Emulator = load_object(config.robot, EMULATORS, "robot")
    with emulator(config) as said:
        try:  # around what it says, too: whoever reads that may press Ctrl-C at once
            sys.stdout.writelines(f"{name}: {value}\n" for name, value in said.items())
            sys.stdout.write("Ctrl-C ends it\n")
            sys.stdout.flush()
            ended.wait()
        except KeyboardInterrupt:
            ended.set()
        finally:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def so101(config: EmulateConfig) -> Iterator[Mapping[str, str]]:
    """An SO-101; see `SO101Emulator`."""
    from real_robot.emulators.so101 import SO101Emulator  # brings MuJoCo, which help does without

    with SO101Emulator(
        task_id=config.task,
        split=config.split,
        init_state=config.init_state,
        image_size=config.image_size or 64,
        frames_per_second=config.frames_per_second,
        held=config.held,
    ) as emulator:
        calibration = emulator.calibration_file
        if config.calibration is not None:
            calibration = Path(config.calibration)
            emulator.calibration.write(calibration)
        cameras = {f"camera {name}": url for name, url in emulator.camera_urls.items()}
        yield {"port": emulator.port, "calibration": str(calibration), **cameras, "status": f"{emulator.url}/status"}


@contextmanager
def franka(config: EmulateConfig) -> Iterator[Mapping[str, str]]:
    """A Franka; see `FrankaEmulator`. Raises `ReflexError` for settings that are another robot's."""
    from real_robot.emulators.franka import FrankaEmulator

    if config.calibration is not None or not config.held:
        raise ReflexError(
            "calibration and held are settings of robot=so101; a Franka has no calibration file and holds"
        )
    with FrankaEmulator(
        task_id=config.task,
        split=config.split,
        init_state=config.init_state,
        image_size=config.image_size or 64,
        frames_per_second=config.frames_per_second,
    ) as emulator:
        cameras = {f"camera {name}": url for name, url in emulator.camera_urls.items()}
        yield {"port": emulator.address, **cameras, "status": f"{emulator.url}/status"}
