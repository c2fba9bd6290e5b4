"""The way from where an arm is to where something is to begin: before a replay, at the start, and for parking."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vla.errors import ReflexError, require_module
from vla.safety.limits import MotionLimits
from vla.safety.stopping import Array
from vla.safety.workspace import HandModel, Volumes, make_stop, violated

_MARGIN = 1e-9
"""Share by which the plan stays below the limits, so that the rounding of its samples does not exceed them."""


def plan_approach(
    start: Any,
    goal: Any,
    limits: MotionLimits,
    period: float,
    speed: float = 1.0,
    hand: HandModel | None = None,
) -> Array:
    """Positions [N, J], one for each period, from rest at `start` [J] to rest at `goal` [J], the last of them.

    All joints arrive together, in the least time for which velocity, acceleration and jerk stay within the limits
    (Berscheid and Kroeger 2021, "Jerk-limited real-time trajectory generation with arbitrary target states": ruckig).
    So do the finite differences of the samples, which are averages of them. `speed`, a share of full speed, stretches
    the time: 0.5 takes twice as long. N is 0 where `goal` is `start`.

    With a `hand` the way is checked against the limits' workspace and keep-out volumes, not planned around them.

    Raises:
        ReflexError: a pose is not J finite numbers, the goal lies outside the limits, `speed` is not above 0 and at
            most 1, the hand would leave its workspace, or ruckig is not installed.
    """
    first, last = _pose(start, limits, "start"), _pose(goal, limits, "goal")
    for joint in np.flatnonzero((last < np.asarray(limits.low)) | (last > np.asarray(limits.high))):
        raise ReflexError(
            f"the goal of the approach has {limits.names[joint]} at {last[joint]:.6g} {limits.units[joint]}; "
            f"its limits are {limits.low[joint]:.6g} to {limits.high[joint]:.6g}"
        )
    if not 0.0 < speed <= 1.0:
        raise ReflexError(f"speed is {speed!r}; it must be above 0 and at most 1, a share of full speed")
    if np.array_equal(first, last):
        return np.zeros((0, len(first)))
    path = _sampled(first, last, limits, period, speed)
    _check_hand(path, limits, hand)
    return path


def _sampled(first: Array, last: Array, limits: MotionLimits, period: float, speed: float) -> Array:
    ruckig = require_module("ruckig", "a smooth approach", "pip install 'reflex-vla[robots]'")
    wanted = ruckig.InputParameter(len(first))
    wanted.current_position, wanted.target_position = first.tolist(), last.tolist()
    share = 1.0 - _MARGIN
    wanted.max_velocity = [share * speed * value for value in limits.velocity]
    wanted.max_acceleration = [share * speed**2 * value for value in limits.acceleration]
    wanted.max_jerk = [share * speed**3 * value for value in limits.jerk]
    trajectory = ruckig.Trajectory(len(first))
    try:
        result = ruckig.Ruckig(len(first)).calculate(wanted, trajectory)
    except ruckig.RuckigError as error:
        raise ReflexError(f"ruckig plans no approach from {first.tolist()} to {last.tolist()}: {error}") from error
    if result != ruckig.Result.Working:
        raise ReflexError(f"ruckig plans no approach from {first.tolist()} to {last.tolist()}: {result}")
    count = max(math.ceil(trajectory.duration / period), 1)
    path = np.array([trajectory.at_time((step + 1) * period)[0] for step in range(count)])
    path[-1] = last
    return path


def _pose(values: Any, limits: MotionLimits, which: str) -> Array:
    pose = np.asarray(values, dtype=np.float64)
    if pose.shape != (len(limits.names),) or not np.isfinite(pose).all():
        raise ReflexError(f"the {which} of an approach must be {len(limits.names)} finite positions, not {values!r}")
    return pose


def _check_hand(path: Array, limits: MotionLimits, hand: HandModel | None) -> None:
    volumes = Volumes.of(limits)
    if volumes is None or hand is None:
        return
    way = make_stop(path, hand, volumes)
    if way.clearance < 0.0:
        row = int(way.distances.min(axis=1).argmin())
        place = ", ".join(f"{value:.3f}" for value in way.points[row])
        raise ReflexError(
            f"the approach would bring the hand to ({place}) m, {-way.clearance:.3f} m beyond "
            f"{', '.join(violated(way, volumes))}; start from another pose, or approach by way of one in between"
        )
