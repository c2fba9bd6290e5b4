"""One joint's limits in closed form: which next position is admissible, and how the joint comes to rest.

A joint's commands are positions at every period T. Its velocity, acceleration and jerk are their finite differences,

    v_k = (p_k - p_{k-1}) / T,    a_k = (v_k - v_{k-1}) / T,    j_k = (a_k - a_{k-1}) / T,

so a command is the choice of the next acceleration. `stopping_acceleration` is the fastest stop: the discrete
time-optimal control of a double integrator (Han 2009, "From PID to active disturbance rejection control", fhan), with
a bounded acceleration. A command is admissible if itself and the whole fastest stop after it are within the limits.
The stop after a step of the fastest stop is the rest of the same stop, so a joint that was admissible once can always
stop within its limits. A higher next position makes every later position of the stop higher too (the order of two
joints that stop is kept), so admissible positions are an interval, and the nearest one is found by bisection.

Everything here is compiled, in float64, without reordering of sums: equal inputs give equal bits.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POSITION, VELOCITY, ACCELERATION, JERK, PURSUIT = 1, 2, 4, 8, 16
"""What changed a command: bits of the codes of `follow_positions`. The last is the way back to the asked motion."""

LOW, HIGH, TOP_SPEED, TOP_ACCELERATION, STEP = 0, 1, 2, 3, 4
"""Rows of a table [9, J] of limits: lowest and highest position, greatest velocity and acceleration, and the greatest
change of the acceleration in one period (jerk times period)."""
POSITION_SLACK, VELOCITY_SLACK, ACCELERATION_SLACK, STEP_SLACK = 5, 6, 7, 8
"""The other rows: what rounding may add to each."""

_BISECTIONS = 45
_REST = 1e-12
"""Share of the greatest step below which a velocity or an acceleration is rounding."""


@numba.njit(cache=True)
def ramp_gain(acceleration: float, step: float, period: float) -> float:
    """The change of the velocity from the period with this acceleration on, if it then returns to 0 at once."""
    shares = abs(acceleration) / step
    further = max(math.ceil(shares) - 1.0, 0.0)
    gain = period * step * ((further + 1.0) * shares - 0.5 * further * (further + 1.0))
    return gain if acceleration >= 0.0 else -gain


@numba.njit(cache=True)
def landing_acceleration(velocity: float, step: float, period: float) -> float:
    """The next acceleration from which velocity and acceleration reach 0 together: `ramp_gain` of it is -velocity."""
    shares = abs(velocity) / (period * step)
    further = math.floor(0.5 * (math.sqrt(1.0 + 8.0 * shares) - 1.0))
    acceleration = step * (shares / (further + 1.0) + 0.5 * further)
    return -acceleration if velocity >= 0.0 else acceleration


@numba.njit(cache=True)
def stopping_acceleration(velocity: float, acceleration: float, top: float, step: float, period: float) -> float:
    """The next acceleration of the fastest stop."""
    wanted = landing_acceleration(velocity, step, period)
    return min(max(wanted, max(acceleration - step, -top)), min(acceleration + step, top))


@numba.njit(cache=True)
def _at_rest(velocity: float, acceleration: float, step: float, period: float) -> bool:
    return abs(velocity) <= _REST * step * period and abs(acceleration) <= _REST * step


@numba.njit(cache=True)
def _stays_inside(
    position: float,
    velocity: float,
    acceleration: float,
    low: float,
    high: float,
    top: float,
    step: float,
    period: float,
) -> bool:
    """Whether this position and all those of the fastest stop from here lie in [low, high]."""
    while low <= position <= high:
        if _at_rest(velocity, acceleration, step, period):
            return True
        acceleration = stopping_acceleration(velocity, acceleration, top, step, period)
        velocity += acceleration * period
        position += velocity * period
    return False


@numba.njit(cache=True)
def _next_inside(
    position: float,
    velocity: float,
    acceleration: float,
    low: float,
    high: float,
    top: float,
    step: float,
    period: float,
) -> bool:
    """The same after one period with this acceleration."""
    velocity += acceleration * period
    position += velocity * period
    return _stays_inside(position, velocity, acceleration, low, high, top, step, period)


@numba.njit(cache=True)
def _limit_rates(
    wanted: float, velocity: float, acceleration: float, fastest: float, top: float, step: float, period: float
) -> tuple[float, int]:
    """The nearest next acceleration within jerk, acceleration and velocity, and the limit that binds (0: none)."""
    if wanted > 0.0:
        bounds = (acceleration + step, top, landing_acceleration(velocity - fastest, step, period))
    else:
        bounds = (step - acceleration, top, -landing_acceleration(velocity + fastest, step, period))
    size, code = abs(wanted), 0
    for bound, name in zip(bounds, (JERK, ACCELERATION, VELOCITY)):  # noqa: B905 (numba knows no strict)
        if size > bound:
            size, code = bound, name
    nearest = size if wanted > 0.0 else -size
    # The other side of the jerk: an acceleration cannot be let go of at once either.
    if nearest < acceleration - step:
        return acceleration - step, JERK
    if nearest > acceleration + step:
        return acceleration + step, JERK
    return nearest, code


@numba.njit(cache=True)
def _is_admissible(
    wanted: float, position: float, velocity: float, acceleration: float, limits: Array, period: float
) -> bool:
    """Whether a next position, and the fastest stop after it, are within the limits and what rounding may add."""
    low, high, fastest, top, step = limits[0], limits[1], limits[2], limits[3], limits[4]
    next_velocity = (wanted - position) / period
    next_acceleration = (next_velocity - velocity) / period
    peak = velocity + ramp_gain(next_acceleration, step, period)
    return (
        low <= wanted <= high
        and abs(next_acceleration - acceleration) <= step + limits[8]
        and abs(next_acceleration) <= top + limits[7]
        and abs(next_velocity) <= fastest + limits[6]
        and abs(peak) <= fastest + limits[6]
        and _stays_inside(
            wanted, next_velocity, next_acceleration, low - limits[5], high + limits[5], top, step, period
        )
    )


@numba.njit(cache=True)
def _nearest_admissible(
    wanted: float, position: float, velocity: float, acceleration: float, limits: Array, period: float
) -> tuple[float, int]:
    """The admissible position nearest to one that is not, and the limits that bind."""
    low, high, fastest, top, step = limits[0], limits[1], limits[2], limits[3], limits[4]
    inner, outer = low - limits[5], high + limits[5]
    asked = ((wanted - position) / period - velocity) / period
    nearest, code = _limit_rates(asked, velocity, acceleration, fastest, top, step, period)
    if not low <= wanted <= high:
        code |= POSITION
    if not _next_inside(position, velocity, nearest, inner, outer, top, step, period):
        code |= POSITION
        good, bad = stopping_acceleration(velocity, acceleration, top, step, period), nearest
        for _ in range(_BISECTIONS):
            middle = 0.5 * (good + bad)
            if _next_inside(position, velocity, middle, inner, outer, top, step, period):
                good = middle
            else:
                bad = middle
        nearest = good
    # Refused, and yet no bound says why: rounding beside the greatest velocity.
    return position + (velocity + nearest * period) * period, code or VELOCITY


@numba.njit(cache=True)
def _meets(
    wanted: float, speed: float, position: float, velocity: float, acceleration: float, limits: Array, period: float
) -> bool:
    """Whether an arm that goes to `wanted` now can stay with an asked motion that goes on at this speed."""
    next_velocity = (wanted - position) / period
    next_acceleration = (next_velocity - velocity) / period
    correction = (speed - next_velocity) / period
    step = limits[4]
    meets: bool = abs(correction) <= min(step, limits[3]) and abs(correction - next_acceleration) <= step
    return meets


@numba.njit(cache=True)
def _overshoot(
    chosen: float, gap: float, velocity: float, speed: float, top: float, step: float, period: float
) -> float:
    """How far beyond a motion at `speed`, which is `gap` ahead, the fastest stop after this acceleration ends.

    Everything is seen from that motion, so that its end is where both go on together.
    """
    acceleration = chosen
    velocity += acceleration * period - speed
    distance = (velocity + speed) * period - gap
    while not _at_rest(velocity, acceleration, step, period):
        acceleration = stopping_acceleration(velocity, acceleration, top, step, period)
        velocity += acceleration * period
        distance += velocity * period
    return distance


@numba.njit(cache=True)
def _pursue(
    wanted: float, speed: float, position: float, velocity: float, acceleration: float, limits: Array, period: float
) -> float:
    """The next position of the fastest way to a motion through `wanted` at this speed that does not overshoot it."""
    top, step, gap = limits[3], limits[4], wanted - position
    low, high = max(acceleration - step, -top), min(acceleration + step, top)
    below = _overshoot(low, gap, velocity, speed, top, step, period)
    above = _overshoot(high, gap, velocity, speed, top, step, period)
    chosen = low if below >= 0.0 else high
    # The root of a growing function: regula falsi, where an end that stays counts half (Dowell and Jarratt 1971).
    if below < 0.0 < above:
        side = 0
        for _ in range(_BISECTIONS):
            chosen = low - below * (high - low) / (above - below)
            here = _overshoot(chosen, gap, velocity, speed, top, step, period)
            if abs(here) <= _REST * step * period * period or high - low <= _REST * step:
                break
            if here > 0.0:
                high, above = chosen, here
                below = 0.5 * below if side == 1 else below
                side = 1
            else:
                low, below = chosen, here
                above = 0.5 * above if side == -1 else above
                side = -1
    landed: float = position + (velocity + chosen * period) * period
    return landed


@numba.njit(cache=True)
def _limit_joint(
    wanted: float,
    asked: float,
    followed: bool,
    position: float,
    velocity: float,
    acceleration: float,
    limits: Array,
    period: float,
) -> tuple[float, int]:
    """See `follow_positions`, for one joint."""
    admissible = _is_admissible(wanted, position, velocity, acceleration, limits, period)
    if followed:
        if admissible:
            return wanted, 0
        return _nearest_admissible(wanted, position, velocity, acceleration, limits, period)
    fastest = limits[2]
    goal = min(max(wanted, limits[0]), limits[1])
    before = min(max(asked, limits[0]), limits[1])
    speed = min(max((goal - before) / period, -fastest), fastest)
    if admissible and _meets(goal, speed, position, velocity, acceleration, limits, period):
        return wanted, 0
    goal = _pursue(goal, speed, position, velocity, acceleration, limits, period)
    if _is_admissible(goal, position, velocity, acceleration, limits, period):
        return goal, PURSUIT if limits[0] <= wanted <= limits[1] else PURSUIT | POSITION
    return _nearest_admissible(goal, position, velocity, acceleration, limits, period)


@numba.njit(cache=True)
def follow_positions(
    wanted: Array,
    asked: Array,
    followed: NDArray[np.bool_],
    position: Array,
    velocity: Array,
    acceleration: Array,
    limits: Array,
    period: float,
) -> tuple[Array, NDArray[np.int64]]:
    """What to send [J] when `wanted` [J] is asked for, and the limits that bind [J]; each joint by itself.

    A joint that `followed` [J], whose last command was what was asked, goes to the wanted position, bit for bit, if it
    is admissible, and else to the admissible one nearest to it. A joint that did not follow is on its way to the asked
    motion, whose speed is that from the position `asked` [J] before to the wanted one. It goes there as fast as the
    limits allow without overshooting: the nearest positions alone would, again and again, because a joint that reaches
    a position at speed cannot stay there. `limits` [9, J] is `limit_table`'s.
    """
    positions, codes = np.empty_like(position), np.zeros(position.shape[0], dtype=np.int64)
    for joint in range(position.shape[0]):
        positions[joint], codes[joint] = _limit_joint(
            wanted[joint],
            asked[joint],
            followed[joint],
            position[joint],
            velocity[joint],
            acceleration[joint],
            limits[:, joint],
            period,
        )
    return positions, codes


@numba.njit(cache=True)
def admissible_bounds(
    position: Array, velocity: Array, acceleration: Array, limits: Array, period: float
) -> tuple[Array, Array]:
    """The lowest and the highest admissible positions ([J], [J])."""
    lowest, highest = np.empty_like(position), np.empty_like(position)
    for joint in range(position.shape[0]):
        motion = (position[joint], velocity[joint], acceleration[joint], limits[:, joint], period)
        lowest[joint], _ = _nearest_admissible(-np.inf, *motion)
        highest[joint], _ = _nearest_admissible(np.inf, *motion)
    return lowest, highest


@numba.njit(cache=True)
def stopping_positions(position: Array, velocity: Array, acceleration: Array, limits: Array, period: float) -> Array:
    """The next positions [J] of the fastest stop."""
    positions = np.empty_like(position)
    for joint in range(position.shape[0]):
        chosen = stopping_acceleration(
            velocity[joint], acceleration[joint], limits[TOP_ACCELERATION, joint], limits[STEP, joint], period
        )
        positions[joint] = position[joint] + (velocity[joint] + chosen * period) * period
    return positions


@numba.njit(cache=True)
def stopping_path(
    position: Array, velocity: Array, acceleration: Array, limits: Array, period: float, longest: int
) -> Array:
    """All positions [N, J] of the fastest stop, N at most `longest`, these first and those at rest last."""
    path = np.empty((longest + 1, position.shape[0]))
    path[0] = position
    v, a = velocity.copy(), acceleration.copy()
    for row in range(longest):
        moving = False
        for joint in range(position.shape[0]):
            top, step = limits[TOP_ACCELERATION, joint], limits[STEP, joint]
            if not _at_rest(v[joint], a[joint], step, period):
                moving = True
                a[joint] = stopping_acceleration(v[joint], a[joint], top, step, period)
                v[joint] += a[joint] * period
            else:
                v[joint], a[joint] = 0.0, 0.0
            path[row + 1, joint] = path[row, joint] + v[joint] * period
        if not moving:
            return path[: row + 1]
    return path
