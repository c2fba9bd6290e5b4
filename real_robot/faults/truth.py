"""What an arm did, from the emulator's own physics: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.calibration import Calibration
from sim.so101.scene import SUBSTEPS, TIMESTEP

Array = NDArray[np.float64]
PERIOD = SUBSTEPS * TIMESTEP
"""Seconds of a control step: limits are of differences one control step apart."""
HELD_WITHIN = 3.0
"""Degrees or per cent between a goal that holds a joint where it is and the joint, which moves on while it is told."""


@dataclass(frozen=True)
class Truth:
    """The joints of an emulated arm at every physics step, and the goals that its servos were told."""

    times: Array
    """[N] monotonic seconds, one physics step apart."""
    positions: Array
    """[N, J] in the arm's units."""
    velocities: Array
    """[N, J] per second."""
    powered: NDArray[np.bool_]
    """[N, J] whether each servo had torque."""
    command_times: Array
    """[C] monotonic seconds."""
    commands: Array
    """[C, J] goals in the arm's units."""

    @classmethod
    def of_trace(cls, trace: Mapping[str, NDArray[Any]], calibration: Calibration) -> Truth:
        """From `SO101Emulator.trace`."""
        commands = trace["commands"]
        goals = np.array([calibration.to_positions(steps) for steps in commands[:, 1:]], np.float64)
        return cls(
            trace["times"],
            trace["positions"].astype(np.float64),
            trace["velocities"],
            trace["powered"],
            commands[:, 0],
            goals.reshape(len(commands), len(calibration.names)),
        )

    def save(self, path: Path) -> None:
        """Write the arrays as an .npz file."""
        np.savez_compressed(path, **vars(self))

    def fastest(self, since: float) -> Array:
        """[J] the greatest velocity of each joint while it was powered, at any moment, per second."""
        counts = self.powered & (self.times >= since)[:, None]
        peaks: Array = np.where(counts, np.abs(self.velocities), 0.0).max(axis=0, initial=0.0)
        return peaks

    def peak_velocities(self, since: float) -> Array:
        """[J] the greatest difference of each powered joint's positions one control step apart, per second."""
        return self._peak_differences(since, (1.0, -1.0))

    def peak_jerks(self, since: float) -> Array:
        """[J] the greatest third difference of each powered joint's positions one control step apart, per s^3."""
        return self._peak_differences(since, (1.0, -3.0, 3.0, -1.0))

    def _peak_differences(self, since: float, signs: tuple[float, ...]) -> Array:
        """Rates as the limits mean them, at every physics step, so that it does not matter when control steps began."""
        order = len(signs) - 1
        places = np.flatnonzero(self.times >= since)
        places = places[places >= order * SUBSTEPS]
        before = [places - count * SUBSTEPS for count in range(order + 1)]
        difference = sum(sign * self.positions[place] for sign, place in zip(signs, before, strict=True))
        powered = np.all([self.powered[place] for place in before], axis=0)
        peaks: Array = np.where(powered, np.abs(difference), 0.0).max(axis=0, initial=0.0) / PERIOD**order
        return peaks

    def moves_until(self, since: float, still_below: Array) -> float:
        """When a powered joint was last as fast as `still_below` [J]; `since` where none was after it."""
        moving = self.powered & (np.abs(self.velocities) >= still_below) & (self.times >= since)[:, None]
        places = np.flatnonzero(moving.any(axis=1))
        return float(self.times[places[-1]]) if len(places) else since

    def unrecorded(self, recorded: Sequence[Sequence[float]], tolerance: Array, due: int) -> int:
        """How many commands the servos were told that are not among those recorded [R, J], in their order, and how many
        of the first `due` of those they were not told.

        A command that only holds the arm, each joint where it is or where it was told before, belongs to no control
        step and does not count.
        """
        found = count = 0
        before = np.full(self.positions.shape[1], np.inf)
        for time, command in zip(self.command_times, self.commands, strict=True):
            if found < len(recorded) and np.all(np.abs(command - recorded[found]) <= tolerance):
                found += 1
            else:
                place = min(int(np.searchsorted(self.times, time)), len(self.times) - 1)
                where = np.abs(command - self.positions[place]) <= HELD_WITHIN
                count += not np.all(where | (np.abs(command - before) <= tolerance))
            before = command
        return count + max(0, due - found)
