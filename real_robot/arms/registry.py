"""Arms by name: those that ship with Reflex, and one's own by import path or entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from real_robot.arms.arm import Arm
from vla.errors import ReflexError
from vla.run.plugins import load_object, settings_key, settings_of

ARMS = {
    "so101": "real_robot.arms.so101:SO101Arm",
    "franka": "real_robot.arms.franka:FrankaArm",
    "simulated": "real_robot.arms.simulated:SimulatedArm",
}
"""Name -> import path. A class has a dataclass `Settings`, one object of which it is made from."""


def arm_class(name: str, setting: str = "robot") -> type[Any]:
    """The class of the arm called `name`, or of "package.module:Class" or an entry point.

    `setting` is what messages call it. Raises `ReflexError` when there is none, or it is no arm.
    """
    found = load_object(name, ARMS, setting)
    missing = [
        part
        for part in ("connect", "connect_to_stop", "observe", "send", "hold", "stop", "disconnect", "Settings")
        if not hasattr(found, part)
    ]
    if not isinstance(found, type) or missing:
        raise ReflexError(
            f"{setting} is {name!r}, which is no arm: it lacks {', '.join(missing) or 'a class'} (see "
            "real_robot.arms.arm.Arm)"
        )
    return found


def arm_settings(more: Mapping[str, Any], port: str | None, calibration: str | None) -> dict[str, Any]:
    """What an arm is made of, from the settings that commands give names of their own and the rest."""
    given = {"port": port, "calibration": calibration}
    return {**more, **{name: value for name, value in given.items() if value is not None}}


def make_arm(name: str, settings: Mapping[str, Any], setting: str = "robot") -> Arm:
    """An arm, not connected yet, made of settings by name.

    Raises `ReflexError` for a name or a setting that does not exist, `ArmError` for what the arm itself refuses.
    """
    found = arm_class(name, setting)
    try:
        made = settings_of(found, name, {settings_key(name): settings}, f"{setting}.settings")
    except TypeError as error:  # a field without a default was not given
        raise ReflexError(f"{setting}.settings of {name!r}: {error}") from error
    arm: Arm = found(made)
    return arm
