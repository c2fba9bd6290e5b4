"""What a person drives an arm with, and those that ship with Reflex by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import Arm, ArmError
from vla.errors import ReflexError
from vla.run.plugins import load_object, settings_key, settings_of

TELEOPERATORS = {
    "keyboard": "real_robot.teleoperation.keyboard:Keyboard",
    "leader": "real_robot.teleoperation.leader:Leader",
}
"""Name -> import path. A class has a dataclass `Settings`, one object of which it is made from."""


@dataclass(frozen=True)
class Wish:
    """Where a person wants the arm to be."""

    positions: NDArray[np.float64]
    """[J] in the names and units of the arm's limits."""
    time: float
    """Monotonic seconds at which the person wanted it."""


class Teleoperator(Protocol):
    """A keyboard, a leader arm, or something of one's own. Only `connect` may wait."""

    def connect(self, arm: Arm) -> None:
        """Prepare to drive this arm, which is not connected yet.

        Raises `ArmError` for what is wrong with a device, `ReflexError` for an arm that it cannot drive.
        """

    def start(self, commanded: NDArray[np.float64], presses: NDArray[np.float64]) -> None:
        """The person takes the arm, whose commands stand at `commanded` [J]. `presses` as for `wish`."""

    def prepare(self) -> None:
        """A control step begins: what takes a moment, such as reading a bus, may start now."""

    def wish(self, presses: NDArray[np.float64]) -> Wish | None:
        """The newest wish; None when nobody knows it, and the arm holds.

        `presses` [`JOINTS_WITH_KEYS`] counts the keys that move each joint since the run began: up less down.
        """

    def disconnect(self) -> None:
        """Let go of the device. It does not raise, and can be called twice."""


def make_teleoperator(name: str, settings: Mapping[str, Any]) -> Teleoperator:
    """One that is not connected yet, by its name or import path.

    Raises `ReflexError` for a name or a setting that does not exist, `ArmError` for what the device itself refuses.
    """
    found = load_object(name, TELEOPERATORS, "teleoperator")
    parts = ("connect", "start", "prepare", "wish", "disconnect", "Settings")
    missing = [part for part in parts if not hasattr(found, part)]
    if not isinstance(found, type) or missing:
        raise ReflexError(
            f"teleoperator is {name!r}, which is none: it lacks {', '.join(missing) or 'a class'} (see "
            "real_robot.teleoperation.teleoperator.Teleoperator)"
        )
    try:
        made = settings_of(found, name, {settings_key(name): settings}, "teleoperator.settings")
    except TypeError as error:  # a field without a default was not given
        raise ReflexError(f"teleoperator.settings of {name!r}: {error}") from error
    teleoperator: Teleoperator = found(made)
    return teleoperator


@contextmanager
def connected(name: str | None, settings: Mapping[str, Any], arm: Arm) -> Iterator[Teleoperator | None]:
    """The teleoperator called `name`, connected, to drive `arm`; None where there is no name.

    Raises `ReflexError` for whatever is wrong with the settings or the device.
    """
    if name is None:
        yield None
        return
    try:
        teleoperator = make_teleoperator(name, settings)
        teleoperator.connect(arm)
    except ArmError as error:
        raise ReflexError(f"teleoperator={name}: {error}") from error
    try:
        yield teleoperator
    finally:
        teleoperator.disconnect()
