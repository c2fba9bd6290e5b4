"""What an emulated arm truly did, physics step by physics step, for whoever judges what drove it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.so101.embodiment import JOINTS, from_radians

SCALE = from_radians(np.ones(len(JOINTS))) - from_radians(np.zeros(len(JOINTS)))
"""Degrees, and per cent of the gripper, in a radian."""
_SIZE = len(JOINTS)


class Trace:
    """The newest steps of the joints, and every goal that all servos were told at once, since `clear`."""

    def __init__(self, steps: int) -> None:
        """`steps`: how many steps are kept; 0 keeps nothing."""
        self._steps = np.zeros((steps, 1 + 3 * _SIZE))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._count = 0
        self._commands: list[list[float]] = []

    def add(
        self, time: float, angles: NDArray[np.float64], speeds: NDArray[np.float64], powered: NDArray[np.bool_]
    ) -> None:
        """A physics step: monotonic seconds, radians [6] and radians a second [6], whether each servo has torque."""
        if len(self._steps):
            row = self._steps[self._count % len(self._steps)]
            row[0], row[1:7], row[7:13], row[13:] = time, angles, speeds, powered
            self._count += 1

    def add_goals(self, time: float, goals: list[int]) -> None:
        """Goals [6] in the servos' steps, and when they arrived (monotonic seconds)."""
        if len(self._steps):
            self._commands.append([time, *goals])

    def save(self, path: Path) -> None:
        """Write an .npz file, oldest first: times [N], positions and velocities [N, 6] in degrees and per cent, powered
        [N, 6], and commands [C, 7], each a time and six goals. It takes milliseconds: the servos wait meanwhile.
        """
        if self._count <= len(self._steps):
            rows = self._steps[: self._count]
        else:
            rows = np.roll(self._steps, -(self._count % len(self._steps)), axis=0)
        np.savez(
            path,
            times=rows[:, 0],
            positions=from_radians(rows[:, 1:7]),
            velocities=rows[:, 7:13] * SCALE,
            powered=rows[:, 13:] > 0,
            commands=np.array(self._commands, np.float64).reshape(-1, 1 + _SIZE),
        )
