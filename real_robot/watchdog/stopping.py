"""Bringing an arm to rest with a handle of one's own, and making sure of it by reading back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from real_robot.arms.arm import Arm, ArmError
from real_robot.watchdog.settings import Reaction
from vla.errors import ReflexError

REST = 0.02
"""A joint rests below this share of its greatest velocity."""
RESTING_READS = 4
"""Readings in a row, `READ_EVERY` apart, in which all joints rest."""
READ_EVERY = 0.02
"""Seconds."""
REST_WITHIN = 3.0
"""Seconds after which an arm that does not rest is reported as not stopped."""
OPEN_WITHIN = 3.0
"""Seconds in which the way to the arm must open: a port may stay taken for a moment after its owner died."""


@runtime_checkable
class ReportsTorque(Protocol):
    """An arm that says whether its motors are powered."""

    def torque_enabled(self) -> tuple[bool, ...]:
        """[J] read from the arm."""


@dataclass(frozen=True)
class Stopped:
    """What came of it."""

    verified: bool
    """The arm was read back, rests, and its torque is as commanded."""
    details: dict[str, Any]
    """JSON-ready: what was read."""


def bring_to_rest(make: Callable[[], Arm], reaction: Reaction) -> Stopped:
    """Open the arm, command the reaction and read back. Nothing is raised of the arm's: what failed is reported."""
    details: dict[str, Any] = {"reaction": reaction, "failures": []}
    began = time.monotonic()
    arm = None
    while arm is None and time.monotonic() - began < OPEN_WITHIN:
        try:
            arm = make()
            arm.connect_to_stop()
        except (ArmError, ReflexError) as error:
            arm = None
            _note(details, f"connect: {error}")
            time.sleep(0.05)
    if arm is None:
        return Stopped(False, details)
    details["opened_after"] = time.monotonic() - began
    try:
        return _command_and_verify(arm, reaction, details, began)
    finally:
        arm.disconnect()


def _command_and_verify(arm: Arm, reaction: Reaction, details: dict[str, Any], began: float) -> Stopped:
    commanded = resting = False
    reads = 0
    while not (commanded and resting) and time.monotonic() - began < OPEN_WITHIN + REST_WITHIN:
        try:
            if not commanded:
                _command(arm, reaction)
                commanded = True
                details["commanded_after"] = time.monotonic() - began
            reading = arm.observe()
        except ArmError as error:
            _note(details, str(error))
            reads = 0
            continue
        shares = np.abs(reading.velocities) / np.asarray(arm.limits.velocity)
        reads = reads + 1 if shares.max() < REST else 0
        details["positions"], details["velocities"] = reading.positions.tolist(), reading.velocities.tolist()
        resting = reads >= RESTING_READS
        if not resting:
            time.sleep(READ_EVERY)
    details["rests_after"] = time.monotonic() - began if resting else None
    return Stopped(commanded and resting and _torque_is_right(arm, reaction, details), details)


def _note(details: dict[str, Any], failure: str) -> None:
    """Each failure once: an arm that is gone is tried many times."""
    if failure not in details["failures"]:
        details["failures"].append(failure)


def _command(arm: Arm, reaction: Reaction) -> None:
    if reaction == "hold":
        arm.hold()
    else:
        arm.stop(torque_off=reaction == "torque_off")


def _torque_is_right(arm: Arm, reaction: Reaction, details: dict[str, Any]) -> bool:
    if not isinstance(arm, ReportsTorque):
        details["torque"] = "not reported by this arm"
        return True
    try:
        enabled = arm.torque_enabled()
    except ArmError as error:
        _note(details, f"torque: {error}")
        return False
    details["torque"] = list(enabled)
    return not any(enabled) if reaction == "torque_off" else all(enabled)
