"""An arm of one machine that any process can open: its servos live in a file, and one process lets them move.

Like a serial port it belongs to one process at a time, and the servos go on to their last goal when that one dies.
"""

from __future__ import annotations

import fcntl
import mmap
import threading
import time
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError, ArmReading
from sim.so101.embodiment import SO101
from tests.real_robot.control.simulated import LIMITS

SPEED = 120.0
"""Units per second of every servo on its way to its goal."""


class Servos:
    """Six servos: goal, position, velocity and torque, eight bytes each."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * 24))
        with path.open("r+b") as file:
            values = np.frombuffer(mmap.mmap(file.fileno(), 8 * 24), np.float64)
        self.goals, self.positions, self.velocities, self.torque = values[:6], values[6:12], values[12:18], values[18:]


class Plant:
    """Lets the servos move, in a thread of the test's process, and remembers the fastest joint at each moment."""

    def __init__(self, path: Path) -> None:
        self.servos = Servos(path)
        self.servos.torque[:] = 1.0
        self.speeds: list[tuple[float, float]] = []
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        while self._running:
            time.sleep(0.002)
            now = time.monotonic()
            powered = self.servos.torque > 0
            way = np.where(powered, self.servos.goals - self.servos.positions, 0.0)
            step = np.clip(way, -SPEED * (now - last), SPEED * (now - last))
            self.servos.positions[:] += step
            self.servos.velocities[:] = step / (now - last)
            self.speeds.append((now, float(np.abs(self.servos.velocities).max())))
            last = now

    def rests_since(self) -> float:
        """When it last moved."""
        return max((moment for moment, speed in self.speeds if speed > 0.5), default=0.0)

    def close(self) -> None:
        self._running = False
        self._thread.join()


class SharedArm:
    """A handle of the servos."""

    def __init__(self, path: str) -> None:
        self.embodiment, self.limits = SO101, LIMITS
        self._path = Path(path)
        self._lock: IO[str] | None = None
        self._servos = Servos(self._path)

    def connect(self) -> None:
        lock = self._path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise ArmError("another process has the arm") from error
        self._lock = lock

    def connect_to_stop(self) -> None:
        self.connect()

    def observe(self) -> ArmReading:
        self._check()
        positions = self._servos.positions.copy()
        velocities = self._servos.velocities.copy()
        return ArmReading(positions.astype(np.float32), positions, velocities, time.monotonic())

    def send(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        self._check()
        self._servos.goals[:] = positions
        return positions

    def hold(self) -> None:
        self._check()
        self._servos.goals[:] = self._servos.positions

    def stop(self, torque_off: bool = False) -> None:
        self.hold()
        if torque_off:
            self._servos.torque[:] = 0.0

    def torque_enabled(self) -> tuple[bool, ...]:
        self._check()
        return tuple(bool(value) for value in self._servos.torque)

    def disconnect(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _check(self) -> None:
        if self._lock is None:
            raise ArmError("not connected")

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()
