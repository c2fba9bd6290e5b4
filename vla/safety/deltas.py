"""The same filter for robots that are told changes: an adapter between changes and the positions that they add up to.

A change moves a command away from where the robot is, as a share of the largest change. So the filter's last position
is put where the robot was measured before every action, and keeps its velocity and its acceleration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.embodiments import POSITION_SCALE, ROTATION_SCALE, Embodiment
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision, Filtered
from vla.safety.filter import ActionFilter
from vla.safety.limits import MotionLimits
from vla.safety.stopping import Array


@dataclass(frozen=True)
class DeltaCommands:
    """What the J numbers of an action change."""

    scale: tuple[float, ...]
    """[J] units that a full-scale change moves the command; 1 for what is a position itself."""
    absolute: tuple[int, ...] = ()
    """Which numbers are positions themselves, such as a gripper's."""

    def positions(self, action: Array, last: Array) -> Array:
        """The positions [J] that an action [J] asks for, from the last ones [J]."""
        wanted: Array = last + action * np.asarray(self.scale)
        wanted[list(self.absolute)] = action[list(self.absolute)]
        return wanted

    def action(self, positions: Array, last: Array) -> Array:
        """Inverse of `positions`, up to rounding."""
        changes: Array = (positions - last) / np.asarray(self.scale)
        changes[list(self.absolute)] = positions[list(self.absolute)]
        return changes


PANDA_COMMANDS = DeltaCommands(scale=(POSITION_SCALE,) * 3 + (ROTATION_SCALE,) * 3 + (1.0,), absolute=(6,))
"""Those of `sim.embodiments.PANDA_EEF`: position (m), rotation (rad) of the hand, and the gripper."""


def delta_limits(
    embodiment: Embodiment, commands: DeltaCommands, low: Sequence[float], high: Sequence[float], ramp: float
) -> MotionLimits:
    """Limits of the positions [J] that changes add up to, for an arm that reaches full speed in `ramp` seconds.

    The greatest velocity is that of full-scale changes. What is a position itself may jump across its range in one
    period, and back in the next. `low` and `high` [J] are in the units that changes have when scaled.
    """
    rate = embodiment.control_frequency
    velocity, acceleration, jerk = [], [], []
    for index, (scale, lowest, highest) in enumerate(zip(commands.scale, low, high, strict=True)):
        jump = (highest - lowest) * (1.0 + 1e-9)
        free = index in commands.absolute
        velocity.append(jump * rate if free else scale * rate)
        acceleration.append(2.0 * jump * rate**2 if free else velocity[-1] / ramp)
        jerk.append(4.0 * jump * rate**3 if free else acceleration[-1] / ramp)
    names = embodiment.action.names
    return MotionLimits(
        names=names,
        units=embodiment.action.units or ("share",) * len(names),
        low=tuple(low),
        high=tuple(high),
        velocity=tuple(velocity),
        acceleration=tuple(acceleration),
        jerk=tuple(jerk),
    )


class DeltaFilter:
    """An `ActionFilter` whose actions are changes."""

    def __init__(self, positions: ActionFilter, commands: DeltaCommands) -> None:
        """`positions` filters what the changes add up to. Raises `ValueError` where the sizes differ."""
        if len(commands.scale) != positions.setup.size:
            raise ValueError(f"{len(commands.scale)} changes do not fit limits of {positions.setup.size} positions")
        self.inner, self.commands = positions, commands

    def start(self, measured: Any) -> None:
        """As `ActionFilter.start`."""
        self.inner.start(measured)

    def filter(self, request: ActionRequest) -> Filtered:
        """The changes [J] that may be sent; those asked for, bit for bit, where nothing is against them.

        Where the request measures positions, the changes start from there.
        """
        self.inner.anchor(self.inner.state.position if request.measured is None else request.measured)
        last = self.inner.state.position
        asked = _read(request.action)
        if asked is None or asked.shape != last.shape:
            filtered = self.inner.filter(request)
        else:
            filtered = self.inner.filter(dataclasses.replace(request, action=self.commands.positions(asked, last)))
        if filtered.decision is Decision.PASS and asked is not None:
            return Filtered(asked, filtered.decision, filtered.reasons)
        return Filtered(self.commands.action(filtered.action, last), filtered.decision, filtered.reasons)


def _read(action: Any) -> Array | None:
    """The action as float64; None for what is not numbers, which the filter itself then refuses."""
    try:
        array = np.asarray(action)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array.astype(np.float64) if array.dtype.kind in "fiu" else None
