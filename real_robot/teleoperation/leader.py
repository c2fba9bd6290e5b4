"""A leader arm: a second SO-101 without torque, which a person moves and whose positions the arm follows.

It hangs on a serial port of its own and has a calibration of its own, as `lerobot-calibrate` and `vla robot calibrate`
write it. A thread reads it once in each control step, so that a leader that is slow or silent delays no command.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import Arm, ArmError, ArmReading
from real_robot.arms.so101 import SO101Arm, SO101Settings
from real_robot.teleoperation.teleoperator import Wish
from vla.errors import ReflexError
from vla.run.settings import Checks

JUMP = 30.0
"""Degrees or per cent in a control step that a hand hardly moves a joint by: encoders misread, and are asked again."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaderSettings:
    """Which leader arm it is."""

    port: str
    """Path of its serial port, such as /dev/ttyACM1."""
    calibration: str
    """Path of its calibration file, as `lerobot-calibrate` writes it."""
    timeout: float = 0.03
    """Seconds within which a servo answers, beside the time on the wire."""
    max_age: float = 0.1
    """Seconds after which what the leader said last is no wish any more, and the arm holds."""

    def __post_init__(self) -> None:
        Checks(self, "teleoperator.settings.leader.").positive("timeout", "max_age")


class LimpSO101(SO101Arm):
    """An SO-101 that gets no torque when it is connected: it is checked, configured, let go of, and read."""

    def _power_up(self) -> None:
        self.stop(torque_off=True)

    def observe(self) -> ArmReading:
        """Where the hand has it: a hand is faster than a servo, so that no reading is too far from the last."""
        self._last = None
        return super().observe()


class Leader:
    """See `Teleoperator`."""

    Settings = LeaderSettings

    def __init__(self, settings: LeaderSettings) -> None:
        """Opens nothing. Raises `ArmError` for a calibration file that cannot be used."""
        self.settings = settings
        self._arm = LimpSO101(SO101Settings(settings.port, settings.calibration, timeout=settings.timeout))
        self._due = threading.Event()
        self._closing = threading.Event()
        self._newest: Wish | None = None
        self._thread: threading.Thread | None = None

    def connect(self, arm: Arm) -> None:
        """Open the leader, let go of it, and begin to read it.

        Raises `ArmError` for what is wrong with the leader, `ReflexError` for an arm of other joints.
        """
        own, names = self._arm.limits, arm.limits.names
        if (own.names, own.units) != (names, arm.limits.units):
            raise ReflexError(
                f"the leader's joints are {', '.join(own.names)}, and {arm.embodiment.name} is told {', '.join(names)}"
                "; give another teleoperator"
            )
        try:
            self._arm.connect()
        except ArmError as error:
            raise ArmError(f"the leader arm on {self.settings.port}: {error}") from error
        self._closing.clear()
        self._thread = threading.Thread(target=self._read, name="leader", daemon=True)
        self._thread.start()

    def start(self, commanded: NDArray[np.float64], presses: NDArray[np.float64]) -> None:
        """The leader is where it is; the way to it is not its business."""

    def prepare(self) -> None:
        """Let the thread read, while the arm itself is."""
        self._due.set()

    def wish(self, presses: NDArray[np.float64]) -> Wish | None:
        """Where the leader is: what was read in this control step, or in one not long ago."""
        newest = self._newest
        return newest if newest is not None and time.monotonic() - newest.time <= self.settings.max_age else None

    def disconnect(self) -> None:
        """End the thread and close the port. The leader stays limp."""
        self._closing.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None
        self._arm.disconnect()

    def _read(self) -> None:
        was_well = True
        while True:
            self._due.wait()
            self._due.clear()
            if self._closing.is_set():
                return
            try:
                reading = self._arm.observe()
                newest = self._newest
                if newest is not None and np.abs(reading.positions - newest.positions).max() > JUMP:
                    reading = self._arm.observe()
            except ArmError as error:  # the arm holds meanwhile, and goes on when the leader is back
                if was_well:
                    _log.warning("the leader arm: %s", error)
                was_well = False
                continue
            was_well = True
            self._newest = Wish(reading.positions, reading.time)
