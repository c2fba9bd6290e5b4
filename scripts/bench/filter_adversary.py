"""Random and adversarial sequences of requests against the action filter, and what must hold of every answer.

Limits are random (range, speed, acceleration, jerk, period, number of joints), and so is what is asked: numbers that
are not finite, steps, oscillation at the limits, encoder wraps, late and old chunks, clocks that jump, wrong shapes,
motions within the limits and at their edge, operators who stop. What is checked of each answer is in `Violations`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from vla.safety.checks import ActionRequest
from vla.safety.config import FilterConfig
from vla.safety.decision import Decision, Filtered
from vla.safety.filter import ActionFilter, FilterState
from vla.safety.limits import MotionLimits
from vla.safety.log import FilterLog
from vla.safety.replay import replay
from vla.safety.setup import TOLERANCE, time_to_rest
from vla.safety.stopping import Array

PERIODS = (0.1, 1 / 15, 1 / 30, 0.02, 0.005, 0.001)
KINDS = (
    "not_finite", "step", "huge", "oscillation", "wrap", "late", "old_chunk", "clock", "shape", "kind", "noise",
    "admissible", "edge", "tracking", "operator",
)  # fmt: skip
REFUSED = ("not_finite", "late", "old_chunk", "clock", "shape", "kind", "tracking", "operator")
"""Kinds that must be held or stopped."""


@dataclass
class Violations:
    """Counts of answers that must not be."""

    beyond_limits: int = 0
    """A position, velocity, acceleration or jerk of what was sent, beyond its limit and the stated tolerance."""
    pass_changed: int = 0
    """An action that passed, with other bits."""
    admissible_changed: int = 0
    """An action within the limits, after which the joint can stop within them, that was changed, though the joint had
    followed until then."""
    clipped_too_much: int = 0
    """A clipped joint that had followed until then, whose answer could have been nearer to what was asked."""
    unsafe_used: int = 0
    """An action that is not finite, late, or misshapen, and was neither held nor stopped."""
    too_long_to_rest: int = 0
    """A hold that took longer to come to rest than `time_to_rest` says, or moved again."""
    replay_differs: int = 0
    """An answer that asking again does not give, bit for bit."""

    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, entry.name) for entry in fields(self))


@dataclass
class Findings:
    """What a run found."""

    sequences: int = 0
    steps: int = 0
    decisions: dict[str, int] = field(default_factory=lambda: {decision.value: 0 for decision in Decision})
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    joints_checked: int = 0
    clips_checked: int = 0
    """First clips of a joint, each compared with the nearest admissible position."""
    worst_excess: float = 0.0
    """The greatest share by which a limit was exceeded, less what the rounding of positions explains."""
    slowest_rest: float = 0.0
    """The greatest time to rest, as a share of the bound."""
    violations: Violations = field(default_factory=Violations)


def random_limits(generator: np.random.Generator, joints: int) -> MotionLimits:
    """Limits of between slow, heavy joints and nervous ones, in units of between metres and degrees."""
    unit = 10.0 ** generator.uniform(-1.0, 2.0, joints)
    low, high = -unit * generator.uniform(0.2, 1.0, joints), unit * generator.uniform(0.2, 1.0, joints)
    velocity = unit * 10.0 ** generator.uniform(-1.0, 1.0, joints)
    acceleration = velocity * 10.0 ** generator.uniform(0.0, 2.0, joints)
    jerk = acceleration * 10.0 ** generator.uniform(0.3, 2.5, joints)
    names = tuple(f"joint_{index}" for index in range(joints))
    fields_of = {"low": low, "high": high, "velocity": velocity, "acceleration": acceleration, "jerk": jerk}
    values: dict[str, Any] = {name: tuple(map(float, numbers)) for name, numbers in fields_of.items()}
    return MotionLimits(names, ("rad",) * joints, **values)


def stops_within(joint: int, position: float, state: FilterState, limits: MotionLimits, period: float) -> float:
    """By what share of the limits a command of one joint, or the stop after it, exceeds them; at most 0 is admissible.

    Written anew, in plain Python and without closed forms: the stop lets go of its speed as fast as acceleration and
    jerk let it, which is found by trying how much it may brake now and still not turn around.
    """
    top, jerk = limits.acceleration[joint], limits.jerk[joint]
    low, high, fastest = limits.low[joint], limits.high[joint], limits.velocity[joint]
    v = (position - float(state.position[joint])) / period
    a = (v - float(state.velocity[joint])) / period
    excess = max((abs(a - float(state.acceleration[joint])) / (jerk * period)) - 1.0, abs(a) / top - 1.0)
    p, still = position, 1e-9 * jerk * period
    while True:
        excess = max(excess, abs(v) / fastest - 1.0, (low - p) / (high - low), (p - high) / (high - low))
        if excess > 0.0 or (abs(v) <= still * period and abs(a) <= still):
            return excess
        a = _brake(v, a, top, jerk, period)
        v += a * period
        p += v * period


def _brake(v: float, a: float, top: float, jerk: float, period: float) -> float:
    """The next acceleration of the fastest stop, by bisection on the velocity at which letting go of it would end."""
    low, high = max(a - jerk * period, -top), min(a + jerk * period, top)
    if _end(v, low, jerk, period) >= 0.0:
        return low
    if _end(v, high, jerk, period) <= 0.0:
        return high
    for _ in range(60):
        middle = 0.5 * (low + high)
        if _end(v, middle, jerk, period) > 0.0:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


def _end(v: float, a: float, jerk: float, period: float) -> float:
    """The velocity when the acceleration, `a` in the next period, has been let go of."""
    while a != 0.0:
        v += a * period
        a = math.copysign(max(abs(a) - jerk * period, 0.0), a)
    return v


@dataclass
class _Player:
    """One sequence."""

    generator: np.random.Generator
    findings: Findings
    limits: MotionLimits
    period: float
    log: FilterLog
    filter: ActionFilter
    time: float = 0.0
    chunk: int = 0
    before: FilterState | None = None

    def request(self, kind: str) -> ActionRequest:
        """What is asked next."""
        generator, state = self.generator, self.filter.state
        low, high = np.asarray(self.limits.low), np.asarray(self.limits.high)
        onwards, size = state.position + state.velocity * self.period, state.position.size
        most = np.asarray(self.limits.jerk) * self.period**3
        self.time += self.period
        actions: dict[str, Callable[[], Any]] = {
            "not_finite": lambda: np.where(np.arange(size) <= generator.integers(size), _odd(generator), onwards),
            "edge": lambda: onwards + state.acceleration * self.period**2 + most * generator.uniform(-1.1, 1.1, size),
            "step": lambda: generator.uniform(low, high),
            "huge": lambda: generator.choice([-1.0, 1.0], size) * 10.0 ** generator.uniform(0, 308, size),
            "oscillation": lambda: np.where(generator.integers(2) == 0, low, high),
            "wrap": lambda: onwards + generator.choice([-1.0, 1.0]) * (high - low),
            "shape": lambda: np.zeros(generator.integers(0, 3) * (size + 1)),
            "kind": lambda: generator.choice(np.array([None, "text"], dtype=object), size),
            "noise": lambda: onwards + generator.normal(size=size) * (high - low) * 10.0 ** generator.uniform(-6, 0),
        }
        changes: dict[str, list[dict[str, Any]]] = {
            "late": [{"deadline": self.time - 0.01}, {"observation_time": self.time - 9.0}],
            "old_chunk": [{"chunk_id": -1}],
            "clock": [{"now": math.nan}, {"now": -1.0}, {"observation_time": self.time + 5.0}],
            "tracking": [{"measured": state.position + sign * (high - low)} for sign in (-1.0, 1.0)],
        }
        values = {"now": self.time, "observation_time": self.time, "chunk_id": self.chunk, "measured": state.position}
        change = generator.choice(np.array(changes.get(kind, [{}]), dtype=object))
        return ActionRequest(actions.get(kind, lambda: onwards)(), **{**values, **change})

    def step(self, kind: str) -> None:
        """Ask and check."""
        if kind == "operator":
            self.filter.stop("operator")
        self.before = self.filter.state
        request = self.request(kind)
        filtered = self.filter.filter(request)
        self.findings.steps += 1
        self.findings.kinds[kind] += 1
        self.findings.decisions[filtered.decision.value] += 1
        self._check(kind, request, filtered)

    def _check(self, kind: str, request: ActionRequest, filtered: Filtered) -> None:
        violations, before = self.findings.violations, self.before
        assert before is not None
        excess = sent_excess(before, self.filter.state, self.limits, self.period)
        self.findings.worst_excess = max(self.findings.worst_excess, excess)
        violations.beyond_limits += excess > TOLERANCE
        refused = filtered.decision in (Decision.HOLD, Decision.STOP)
        if kind in REFUSED and not (kind == "old_chunk" and before.chunk_id in (None, -1)):
            violations.unsafe_used += not refused
        if filtered.decision is Decision.PASS:
            violations.pass_changed += filtered.action.tobytes() != np.asarray(request.action, np.float64).tobytes()
        if not refused:
            joint = int(self.generator.integers(len(self.limits.names)))
            self._check_joint(joint, float(request.action[joint]), float(filtered.action[joint]), before)

    def _check_joint(self, joint: int, asked: float, sent: float, before: FilterState) -> None:
        violations = self.findings.violations
        self.findings.joints_checked += 1
        if asked == sent or not (before.followed is None or before.followed[joint]):
            return
        self.findings.clips_checked += 1
        if stops_within(joint, asked, before, self.limits, self.period) <= 0.0:
            violations.admissible_changed += 1
        # A little nearer to what was asked: a millionth of what the jerk can move in a period.
        nudge = 1e-6 * self.limits.jerk[joint] * self.period**3 + 1e-12 * abs(sent)
        nearer = sent + math.copysign(min(nudge, abs(asked - sent)), asked - sent)
        violations.clipped_too_much += stops_within(joint, nearer, before, self.limits, self.period) <= 0.0

    def finish(self) -> None:
        """Hold until rest, and ask everything again."""
        findings, bound = self.findings, float(time_to_rest(self.limits, self.period).max())
        taken = 0
        while not self.filter.at_rest and taken * self.period <= bound:
            self.step("not_finite")
            taken += 1
        findings.violations.too_long_to_rest += not self.filter.at_rest
        findings.slowest_rest = max(findings.slowest_rest, taken * self.period / bound)
        rows = json.loads(json.dumps(list(self.log.rows())))
        findings.violations.replay_differs += len(replay(rows).differences)


def _odd(generator: np.random.Generator) -> float:
    return float(generator.choice([np.nan, np.inf, -np.inf]))


def sent_excess(before: FilterState, after: FilterState, limits: MotionLimits, period: float) -> float:
    """By what share the last command exceeds a limit, less what rounding of float64 positions adds."""
    low, high = np.asarray(limits.low), np.asarray(limits.high)
    rounding = 4.0 * np.spacing(np.maximum(np.abs(low), np.abs(high)))
    jerk = (after.acceleration - before.acceleration) / period

    def share(values: Array, limit: tuple[float, ...], order: int) -> float:
        return float(((np.abs(values) - 2.0**order * rounding / period**order) / np.asarray(limit)).max()) - 1.0

    outside = np.maximum(low - after.position, after.position - high) / (high - low)
    return max(
        float(outside.max()),
        share(after.velocity, limits.velocity, 1),
        share(after.acceleration, limits.acceleration, 2),
        share(jerk, limits.jerk, 3),
    )


def play(findings: Findings, seed: int, steps: int) -> None:
    """One sequence of `steps` requests and the hold after it. Equal seeds give equal sequences."""
    generator = np.random.default_rng(seed)
    limits = random_limits(generator, int(generator.integers(1, 8)))
    period, log = float(generator.choice(PERIODS)), FilterLog()
    span = [high - low for low, high in zip(limits.low, limits.high, strict=True)]
    config = FilterConfig(
        max_seam_jump=[0.1 * width for width in span],
        max_tracking_error=[0.5 * width for width in span],
        on_tracking_error="hold",
    )
    player = _Player(generator, findings, limits, period, log, ActionFilter(limits, period, config, log=log))
    player.filter.start(generator.uniform(limits.low, limits.high))
    # An operator's stop ends a sequence: most have none. Others stay with one kind for some steps.
    kinds = [kind for kind in KINDS if kind != "operator"]
    kind = "admissible"
    for step in range(steps):
        if generator.random() < 0.3:
            kind = str(generator.choice(kinds))
        player.chunk += step % 8 == 0
        player.step("operator" if generator.random() < 0.003 else kind)
    player.finish()
    findings.sequences += 1
