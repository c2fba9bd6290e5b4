"""An arm in the simulator, in this process: any suite whose robot is told joint positions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError, ArmReading
from real_robot.arms.robot_file import read_robot_file
from sim.contract import Image, Split
from sim.suites import get_suite


@dataclass(frozen=True)
class SimulatedSettings:
    """Which simulated arm it is."""

    suite: str = "so101"
    """Suite whose environment it is."""
    task: int = 0
    """Number of the task."""
    split: Split = "eval"
    """Which initial states."""
    init_state: int = 0
    """Number of the initial state."""
    image_size: int | None = None
    """Side (px) of the pictures; null for the suite's own."""
    clock: Literal["real", "send"] = "real"
    """When a control step passes: as time does, or with every command, for runs that are the same each time."""
    robot_file: str = "so101"
    """Path of the file with its limits, or the name of one that comes with Reflex."""


class SimulatedArm:
    """See `Arm`. Time passes in whole control steps; nothing happens between calls, which catch up with the clock."""

    Settings = SimulatedSettings

    def __init__(self, settings: SimulatedSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `EnvironmentRequestError` for an unknown task, `ArmError` for a robot not told positions."""
        self.settings = settings = settings or SimulatedSettings()
        environment: Any = get_suite(settings.suite, settings.image_size).make(settings.task)
        self.environment = environment
        self.embodiment = environment.embodiment
        if self.embodiment.action.kind != "joint_position":
            raise ArmError(
                f"{settings.suite} is told {self.embodiment.action.kind}; a simulated arm needs joint positions, "
                "as so101 has them"
            )
        low, high = np.array(self.embodiment.action.low), np.array(self.embodiment.action.high)
        self.limits = read_robot_file(settings.robot_file).limits_within(low, high)
        self._clock = clock
        self._period = 1.0 / self.embodiment.control_frequency
        self._connected = False
        self.success = self.has_succeeded = False
        """Whether the task's goal holds now, and whether it ever held since the last reset."""
        self.reset()

    def reset(self, init_state: int | None = None) -> None:
        """Put the scene in an initial state (None: that of the settings), the arm held there."""
        self.environment.reset_to(self.settings.split, self.settings.init_state if init_state is None else init_state)
        self.success = self.has_succeeded = False
        self._positions = self._state()
        self._velocities = np.zeros_like(self._positions)
        # Beyond where it is by its sag, so that it does not fall before the first command.
        self._goal = self._held_goal()
        self._began, self._steps = self._clock(), 0

    def connect(self) -> None:
        """Start the clock."""
        self._began, self._steps = self._clock(), 0
        self._connected = True

    def connect_to_stop(self) -> None:
        """The same: there is nothing to check."""
        self.connect()

    def observe(self) -> ArmReading:
        """Where it is."""
        self._catch_up()
        now = self._clock()
        return ArmReading(self._positions.astype(np.float32), self._positions.copy(), self._velocities.copy(), now)

    def send(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Command positions [J]; returns them within the limits. With the clock `send`, a control step passes."""
        wanted = np.asarray(positions, np.float64)
        if wanted.shape != self._goal.shape or not np.isfinite(wanted).all():
            raise ArmError(
                f"positions must be {self._goal.size} finite numbers, not {wanted.tolist()}; nothing was sent"
            )
        self._catch_up()
        self._goal = np.clip(wanted, self.limits.low, self.limits.high)
        if self.settings.clock == "send":
            self._step()
        return self._goal.copy()

    def hold(self) -> None:
        """Stay where it is. An arm at rest keeps its goal."""
        self._catch_up()
        if np.abs(self._velocities).max() > 10.0:
            self._goal = np.clip(self._positions, self.limits.low, self.limits.high)

    def stop(self, torque_off: bool = False) -> None:
        """Hold; a simulated arm cannot let go. Raises `ArmError` when asked to."""
        if torque_off:
            raise ArmError("a simulated arm cannot let go; the emulated one can (vla robot emulate robot=so101)")
        self.hold()

    def disconnect(self) -> None:
        """Stop the clock."""
        self._connected = False

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    def images(self) -> dict[str, Image]:
        """What its cameras see now: uint8 [H, W, 3] by name."""
        self._catch_up()
        images: dict[str, Image] = self.environment.render_observation()["images"]
        return images

    def camera(self, name: str) -> SimulatedCamera:
        """One of its cameras, as the control loop takes them. Raises `KeyError` naming the known ones."""
        self.embodiment.camera(name)
        return SimulatedCamera(self, name)

    def _catch_up(self) -> None:
        if not self._connected:
            raise ArmError("the simulated arm is not connected; call connect() first")
        if self.settings.clock == "real":
            due = int((self._clock() - self._began) / self._period)
            # An hour asleep is no reason to simulate one.
            for _ in range(min(due - self._steps, _MOST_STEPS)):
                self._step()
            self._steps = due

    def _step(self) -> None:
        before = self._positions
        outcome = self.environment.advance(self._goal.astype(np.float32))
        self._positions = self._state()
        self._velocities = (self._positions - before) / self._period
        self.success = outcome.success
        self.has_succeeded |= outcome.success

    def _state(self) -> NDArray[np.float64]:
        state: NDArray[np.float64] = np.asarray(self.environment.robot_state(), np.float64)
        return state

    def _held_goal(self) -> NDArray[np.float64]:
        """What holds the arm where it is: its position, and what gravity takes where the environment says so."""
        sag = getattr(self.environment, "sag", None)
        beyond = np.degrees(sag()) if sag is not None else 0.0
        return np.clip(self._positions + beyond, self.limits.low, self.limits.high)


@dataclass(frozen=True)
class SimulatedFrame:
    """A picture and when it was drawn."""

    image: Image
    time: float
    """`time.monotonic()` in seconds."""


@dataclass(frozen=True)
class SimulatedCamera:
    """A camera of a simulated arm: it draws when it is asked."""

    arm: SimulatedArm
    name: str

    def latest(self) -> SimulatedFrame:
        """The picture of now."""
        images = self.arm.images()
        return SimulatedFrame(images[self.name], time.monotonic())


_MOST_STEPS = 30
"""Control steps that are made up for at once."""
