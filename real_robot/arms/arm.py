"""What an arm must offer to be driven, watched and stopped here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Embodiment
from vla.safety.limits import MotionLimits


class ArmError(Exception):
    """The arm, or the way to it, failed. The message says what happened, to which part, and what to do."""


@dataclass(frozen=True)
class ArmReading:
    """What an arm felt at one moment."""

    state: NDArray[np.float32]
    """[S] in the embodiment's names and units."""
    positions: NDArray[np.float64]
    """[J] measured, in the names and units of the arm's `MotionLimits`."""
    velocities: NDArray[np.float64]
    """[J] measured, in units per second; from differences where the arm does not say."""
    time: float
    """`time.monotonic()` in seconds when the arm was read: the same clock in every process of a machine."""


@runtime_checkable
class Arm(Protocol):
    """One arm. Every method may raise `ArmError`; none waits longer than the arm's own time-out."""

    embodiment: Embodiment
    limits: MotionLimits

    def connect(self) -> None:
        """Open the way to the arm, check that it is the arm that its file describes, and hold it where it is."""

    def connect_to_stop(self) -> None:
        """Open the way to the arm for an emergency: check nothing, configure nothing, move nothing.

        Whatever is wrong with a part of the arm must not keep the rest from being held. `hold`, `stop`, `observe` and
        `disconnect` may follow.
        """

    def observe(self) -> ArmReading:
        """Read where it is."""

    def send(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Command positions [J] and return those that were really sent (clamped to the range of the arm's file).

        Raises `ArmError` for a number that is not finite: then nothing is sent.
        """

    def hold(self) -> None:
        """Stay where it is, under power. A part that does not answer keeps the others from nothing; then it raises."""

    def stop(self, torque_off: bool = False) -> None:
        """Come to rest and stay; with `torque_off`, let go as well, which drops an arm that gravity pulls."""

    def disconnect(self) -> None:
        """Close the way to it, the arm held under power where it is. It does not raise, and can be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
