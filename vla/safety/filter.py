"""The action filter: every action passes it before a robot, simulated or real, is told anything.

`filter_action` is a pure function of state, request and setup: no clock, no random numbers, no files. Times are
arguments. `ActionFilter` keeps the state and, where asked, a log that gives the same answers again
(`vla.safety.replay`).

What is sent is always within the limits, whatever was asked for. It is not safety-rated: it runs on a computer that
can crash, and a robot that can hurt somebody needs a switch that cuts its power.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.safety.checks import ActionRequest, RequestProblems, check_request, read_positions, seam_jumps
from vla.safety.config import FilterConfig
from vla.safety.decision import Decision, Filtered
from vla.safety.limits import MotionLimits
from vla.safety.log import FilterLog
from vla.safety.setup import FilterSetup, time_to_rest
from vla.safety.stopping import (
    ACCELERATION,
    JERK,
    POSITION,
    PURSUIT,
    VELOCITY,
    Array,
    admissible_bounds,
    follow_positions,
    stopping_path,
    stopping_positions,
)
from vla.safety.workspace import HandModel, keep_inside, make_stop, violated

_LIMITS = (
    (POSITION, "position"),
    (VELOCITY, "velocity"),
    (ACCELERATION, "acceleration"),
    (JERK, "jerk"),
    (PURSUIT, "pursuit"),
)
_STILL = 1e-6
"""Share of the greatest step below which a joint counts as still: rounding of positions lies below, motion above."""
_FARTHEST_START = 0.05
"""Share of a joint's range that an arm may start beyond its limits; a smaller tracking error that is set counts."""


@dataclass(frozen=True)
class FilterState:
    """What the filter remembers. Velocity and acceleration are finite differences of what was sent."""

    position: Array
    """[J] sent last."""
    velocity: Array
    """[J] per second."""
    acceleration: Array
    """[J] per second squared."""
    stopped: tuple[str, ...] = ()
    """Why nothing passes until a reset; empty where it does."""
    chunk_id: int | None = None
    """Of the last action that was used."""
    asked: Array | None = None
    """[J] the last action that was used, as it was asked for; None before the first."""
    followed: NDArray[np.bool_] | None = None
    """[J] whether the last command was what was asked for; None before the first, as if it was."""
    time: float = -math.inf
    """Seconds of the last request."""


def start_state(measured: Any, setup: FilterSetup) -> FilterState:
    """The state of an arm that rests at `measured` positions [J].

    An arm may rest a little beyond its limits, on its stops: then it starts from the nearest position within. Raises
    `ValueError` for positions that are not J finite numbers or that lie too far outside.
    """
    positions = np.asarray(measured, dtype=np.float64)
    if positions.shape != (setup.size,) or not np.isfinite(positions).all():
        raise ValueError(f"the filter starts from {setup.size} finite positions, not {measured!r}")
    low, high = setup.table[0], setup.table[1]
    nearest = np.clip(positions, low, high)
    allowed = _FARTHEST_START * (high - low)
    if setup.config.max_tracking_error is not None:
        allowed = np.minimum(allowed, setup.config.max_tracking_error)
    for joint in np.flatnonzero(np.abs(positions - nearest) > allowed):
        raise ValueError(
            f"{setup.limits.names[joint]} is at {positions[joint]:.6g} {setup.limits.units[joint]}, outside its limits "
            f"{low[joint]:.6g} to {high[joint]:.6g}; move the arm inside by hand, or correct its file"
        )
    return FilterState(nearest, np.zeros(setup.size), np.zeros(setup.size))


def filter_action(state: FilterState, request: ActionRequest, setup: FilterSetup) -> tuple[Filtered, FilterState]:
    """What may be sent for this request, and what to remember. Never raises for what a request holds."""
    problems = check_request(request, state.position, state.time, state.chunk_id, setup)
    stopped = state.stopped or problems.stop
    time = request.now if math.isfinite(request.now) else state.time
    remembered = dataclasses.replace(state, stopped=stopped, time=max(time, state.time))
    if stopped or problems.hold:
        decision = Decision.STOP if stopped else Decision.HOLD
        reasons = tuple(dict.fromkeys((*stopped, *problems.hold)))
        return _braked(remembered, decision, reasons, setup)
    return _moved(remembered, request, problems, setup)


def _moved(
    state: FilterState, request: ActionRequest, problems: RequestProblems, setup: FilterSetup
) -> tuple[Filtered, FilterState]:
    """The answer to an action that nothing forbids altogether."""
    wanted = problems.action
    assert wanted is not None
    seams = seam_jumps(request, wanted, state.chunk_id, state.asked, setup)
    asked = state.position if state.asked is None else state.asked
    followed = np.ones(setup.size, dtype=np.bool_) if state.followed is None else state.followed
    motion = (state.position, state.velocity, state.acceleration, setup.table, setup.period)
    positions, codes = follow_positions(wanted, asked, followed, *motion)
    reasons = _limit_reasons(codes, setup) if codes.any() else ()
    if setup.volumes is not None:
        inside, broken = _keep_hand_inside(state, positions, setup)
        if inside is None:
            return _braked(state, Decision.HOLD, (*reasons, *broken, *seams), setup)
        positions, reasons = inside, (*reasons, *broken)
    decision = Decision.CLIP if reasons else Decision.PASS
    state = dataclasses.replace(
        _commanded(state, positions, setup),
        chunk_id=request.chunk_id,
        asked=wanted,
        followed=positions == wanted,
    )
    return Filtered(positions.copy(), decision, (*reasons, *seams)), state


def _braked(
    state: FilterState, decision: Decision, reasons: tuple[str, ...], setup: FilterSetup
) -> tuple[Filtered, FilterState]:
    positions = stopping_positions(state.position, state.velocity, state.acceleration, setup.table, setup.period)
    state = dataclasses.replace(_commanded(state, positions, setup), followed=np.zeros(setup.size, dtype=np.bool_))
    return Filtered(positions.copy(), decision, reasons), state


def _commanded(state: FilterState, positions: Array, setup: FilterSetup) -> FilterState:
    velocity = (positions - state.position) / setup.period
    acceleration = (velocity - state.velocity) / setup.period
    return dataclasses.replace(state, position=positions, velocity=velocity, acceleration=acceleration)


def _limit_reasons(codes: NDArray[np.int64], setup: FilterSetup) -> tuple[str, ...]:
    return tuple(
        f"{name}:{setup.limits.names[joint]}"
        for joint in np.flatnonzero(codes)
        for bit, name in _LIMITS
        if codes[joint] & bit
    )


def _keep_hand_inside(state: FilterState, positions: Array, setup: FilterSetup) -> tuple[Array | None, tuple[str, ...]]:
    """The nearest positions [J] that keep the hand inside, None where the arm must brake, and what was broken."""
    hand, volumes = setup.hand, setup.volumes
    assert hand is not None and volumes is not None

    def path_after(command: Array) -> Array:
        after = _commanded(state, command, setup)
        return stopping_path(command, after.velocity, after.acceleration, setup.table, setup.period, setup.longest_stop)

    stop = make_stop(path_after(positions), hand, volumes)
    if stop.clearance >= 0.0:
        return positions, ()
    motion = (state.position, state.velocity, state.acceleration, setup.table, setup.period)
    # Outside already: rather there than farther out, so that a hand that was put outside can come back.
    braking = stopping_positions(*motion)
    floor = min(0.0, make_stop(path_after(braking), hand, volumes).clearance)
    if stop.clearance >= floor:
        return positions, ()
    bounds = admissible_bounds(*motion)
    return keep_inside(stop, braking, bounds, path_after, floor, hand, volumes), violated(stop, volumes)


def latch(state: FilterState, reason: str) -> FilterState:
    """The state with a stop that stays; the first reason stays first."""
    return dataclasses.replace(state, stopped=tuple(dict.fromkeys((*state.stopped, reason))))


def anchored(state: FilterState, measured: Any, setup: FilterSetup) -> FilterState:
    """The state with its last position at a measured one [J]; itself where that is not J finite numbers."""
    positions, _ = read_positions(measured, setup)
    if positions is None:
        return state
    nearest = np.clip(positions, setup.table[0], setup.table[1])
    return dataclasses.replace(state, position=nearest, asked=nearest)


class ActionFilter:
    """`filter_action` with its state: one for each robot, called once in every period."""

    def __init__(
        self,
        limits: MotionLimits,
        period: float,
        config: FilterConfig | None = None,
        hand: HandModel | None = None,
        log: FilterLog | None = None,
    ) -> None:
        """`period` is seconds between two actions; `hand` is needed for a workspace and keep-out volumes.

        Raises `ValueError` or `ReflexError` where these do not fit together. Compiles what is not yet compiled.
        """
        self.setup = FilterSetup(limits, period, config or FilterConfig(), hand)
        self._state: FilterState | None = None
        self._log = log
        if log is not None:
            log.open(self.setup)
        self._compile()

    def _compile(self) -> None:
        """Run everything once, so that the first action of an arm is not the slowest."""
        middle = 0.5 * (self.setup.table[0] + self.setup.table[1])
        still = np.zeros(self.setup.size)
        motion = (middle, still, still, self.setup.table, self.setup.period)
        follow_positions(middle, middle, np.ones(self.setup.size, dtype=np.bool_), *motion)
        admissible_bounds(*motion)
        stopping_positions(*motion)
        stopping_path(*motion, 1)

    def start(self, measured: Any) -> None:
        """Begin, or begin again after a stop, with an arm that rests at these positions [J].

        Raises `ValueError` for positions that no arm can start from; then the state is what it was.
        """
        self._state = start_state(measured, self.setup)
        if self._log is not None:
            self._log.add_start(self._state.position)

    def anchor(self, measured: Any) -> None:
        """Count further commands from these positions [J], without a change of velocity or acceleration.

        For robots that are told changes. Positions beyond the limits count as at them, and what is not J finite
        numbers changes nothing: the next request says so. Raises `RuntimeError` before the first `start`.
        """
        self._state = anchored(self.state, measured, self.setup)
        if self._log is not None:
            self._log.add_anchor(self._state.position)

    def stand(self) -> None:
        """The last command stood still for a period or longer, because none followed it: the arm starts from a stand.

        Without this, what is sent next would continue a motion that the arm no longer makes. Raises `RuntimeError`
        before the first `start`.
        """
        still = np.zeros(self.setup.size)
        self._state = dataclasses.replace(self.state, velocity=still, acceleration=still)
        if self._log is not None:
            self._log.add_stand()

    def filter(self, request: ActionRequest) -> Filtered:
        """What may be sent now. Raises `RuntimeError` before the first `start`."""
        filtered, self._state = filter_action(self.state, request, self.setup)
        if self._log is not None:
            self._log.add(request, filtered)
        return filtered

    def stop(self, reason: str) -> None:
        """From now on every answer is a stop, until `start`. Raises `RuntimeError` before the first `start`."""
        self._state = latch(self.state, reason)
        if self._log is not None:
            self._log.add_stop(reason)

    @property
    def state(self) -> FilterState:
        """What the filter remembers. Raises `RuntimeError` before the first `start`."""
        if self._state is None:
            raise RuntimeError("the action filter was not started: call start() with the measured positions")
        return self._state

    @property
    def stopped(self) -> tuple[str, ...]:
        """Why nothing passes; empty where it does."""
        return self.state.stopped

    @property
    def at_rest(self) -> bool:
        """Whether the commands stand still."""
        step = self.setup.table[4]
        still = np.abs(self.state.velocity) <= _STILL * step * self.setup.period
        return bool(np.all(still & (np.abs(self.state.acceleration) <= _STILL * step)))

    @property
    def time_to_rest(self) -> float:
        """Seconds within which a hold or a stop has the arm's commands at rest, from any motion."""
        return float(time_to_rest(self.setup.limits, self.setup.period).max())
