"""What is wrong with a request to move, before its motion is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.safety.setup import FilterSetup
from vla.safety.stopping import Array


@dataclass(frozen=True)
class ActionRequest:
    """One action that somebody wants to send, and what it is based on. Nothing in it is trusted."""

    action: Any
    """[J] positions in the names and units of the limits; an array of any shape and kind is answered."""
    now: float
    """Seconds; any clock that only goes forwards."""
    observation_time: float
    """Seconds of the same clock when the observation was made that this action answers."""
    deadline: float = math.inf
    """Seconds of the same clock after which this action must not be sent."""
    chunk_id: int | None = None
    """Counts the chunks of a policy, upwards; None for actions without chunks."""
    measured: Any = None
    """[J] measured positions; None where nobody measures."""
    units: tuple[str, ...] | None = None
    """Units that the sender believes the action to have, compared with those of the limits; None: not compared."""


@dataclass(frozen=True)
class RequestProblems:
    """What `check_request` found."""

    action: Array | None
    """[J] as float64; None where it cannot be read as that."""
    hold: tuple[str, ...]
    """Reasons not to use this action."""
    stop: tuple[str, ...]
    """Reasons not to use any further one."""


def check_request(
    request: ActionRequest, position: Array, last_time: float, last_chunk: int | None, setup: FilterSetup
) -> RequestProblems:
    """Shape, kind, finite numbers, units, times, chunks and tracking, in this order.

    `position` [J] was sent last, at `last_time`, from chunk `last_chunk`.
    """
    action, hold = read_positions(request.action, setup)
    if request.units is not None and tuple(request.units) != setup.limits.units:
        hold += _differing_units(request.units, setup)
    hold += _check_times(request, last_time, last_chunk, setup)
    tracking, lost = _check_tracking(request.measured, position, setup)
    if tracking and setup.config.on_tracking_error == "stop":
        return RequestProblems(action, hold + lost, tracking)
    return RequestProblems(action, hold + lost + tracking, ())


def read_positions(value: Any, setup: FilterSetup) -> tuple[Array | None, tuple[str, ...]]:
    """J finite numbers as float64, or None and what is wrong with them. Never raises."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, tensors on a device
        return None, (f"kind:{type(error).__name__}",)
    if array.shape != (setup.size,):
        return None, (f"shape:{list(array.shape)}",)
    if array.dtype.kind not in "fiu":
        return None, (f"kind:{array.dtype}",)
    action = array.astype(np.float64)
    finite = np.isfinite(action)
    if not finite.all():
        return None, tuple(f"not_finite:{setup.limits.names[joint]}" for joint in np.flatnonzero(~finite))
    return action, ()


def _differing_units(units: tuple[str, ...], setup: FilterSetup) -> tuple[str, ...]:
    if len(units) != setup.size:
        return (f"units:{len(units)}",)
    names, known = setup.limits.names, setup.limits.units
    return tuple(f"units:{name}" for name, own, given in zip(names, known, units, strict=True) if own != given)


def _check_times(
    request: ActionRequest, last_time: float, last_chunk: int | None, setup: FilterSetup
) -> tuple[str, ...]:
    reasons: tuple[str, ...] = ()
    if not math.isfinite(request.now) or request.now < last_time:
        return ("clock:now",)  # a time that goes back cannot say how old anything is
    if not 0.0 <= request.now - request.observation_time <= setup.config.max_age:
        reasons += ("stale:observation",) if request.observation_time <= request.now else ("clock:observation",)
    if not request.now <= request.deadline:
        reasons += ("stale:deadline",)
    if last_chunk is not None and request.chunk_id is not None and request.chunk_id < last_chunk:
        reasons += ("stale:chunk",)
    return reasons


def _check_tracking(measured: Any, position: Array, setup: FilterSetup) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Joints that are not where they were told to be, and measurements that cannot be read."""
    if measured is None or setup.config.max_tracking_error is None:
        return (), ()
    values, problems = read_positions(measured, setup)
    if values is None:
        return (), tuple(f"measured:{problem}" for problem in problems)
    far = np.abs(values - position) > np.asarray(setup.config.max_tracking_error)
    return tuple(f"tracking:{setup.limits.names[joint]}" for joint in np.flatnonzero(far)), ()


def seam_jumps(
    request: ActionRequest, action: Array, last_chunk: int | None, asked: Array | None, setup: FilterSetup
) -> tuple[str, ...]:
    """Joints whose action jumps from that of the chunk before, beyond what the settings call smooth."""
    greatest = setup.config.max_seam_jump
    if greatest is None or asked is None or request.chunk_id is None or request.chunk_id == last_chunk:
        return ()
    jumped = np.abs(action - asked) > np.asarray(greatest)
    return tuple(f"seam:{setup.limits.names[joint]}" for joint in np.flatnonzero(jumped))
