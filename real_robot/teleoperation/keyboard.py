"""Joints moved by keys: each press moves one a little further, and a key that is kept down repeats.

The keys are read by the watchdog, which owns the terminal, so that stop is heard whatever the loop does; it counts the
presses (`real_robot.watchdog.operator`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import Arm
from real_robot.teleoperation.teleoperator import Wish
from real_robot.watchdog.operator import DOWN, UP
from vla.run.settings import Checks


@dataclass(frozen=True)
class KeyboardSettings:
    """How far a key moves a joint."""

    step: float = 0.01
    """Share of its range by which one press moves a joint."""

    def __post_init__(self) -> None:
        check = Checks(self, "teleoperator.settings.keyboard.")
        check.positive("step")
        check.within(0, 0.1, "step", reason="a share of a joint's range, and a key that is kept down repeats")


class Keyboard:
    """See `Teleoperator`. What is wanted is where the arm's commands were when the person took it, and every press."""

    Settings = KeyboardSettings

    def __init__(self, settings: KeyboardSettings | None = None) -> None:
        self._share = (settings or KeyboardSettings()).step
        self._low = self._high = self._wanted = self._counted = np.zeros(0)

    def connect(self, arm: Arm) -> None:
        """Learn the ranges of the joints. Those beyond the first seven have no keys, and stay."""
        self._low, self._high = np.array(arm.limits.low), np.array(arm.limits.high)

    def start(self, commanded: NDArray[np.float64], presses: NDArray[np.float64]) -> None:
        """Keys move the arm from here on; earlier presses count no more."""
        self._wanted, self._counted = commanded.copy(), presses.copy()

    def prepare(self) -> None:
        """Nothing takes a moment here."""

    def wish(self, presses: NDArray[np.float64]) -> Wish:
        """The newest wish, never beyond the limits: what is pressed there is not owed by the way back."""
        new, self._counted = presses - self._counted, presses.copy()
        moved = min(len(new), len(self._wanted))
        self._wanted[:moved] += (new * self._share)[:moved] * (self._high - self._low)[:moved]
        self._wanted = np.clip(self._wanted, self._low, self._high)
        return Wish(self._wanted.copy(), time.monotonic())

    def disconnect(self) -> None:
        """Nothing is held."""


def key_table(names: tuple[str, ...]) -> str:
    """Which keys move which joint, in words."""
    pairs = zip(names, UP, DOWN, strict=False)
    return ", ".join(f"{name.removesuffix('.pos')} {up}/{down}" for name, up, down in pairs)
