"""The control loop: observe, take what was decided, filter, command; at a fixed rate, whatever the policy does.

Deciding runs beside it (`real_robot.control.inference`). A step that has no fresh action holds the arm.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import Arm, ArmError
from real_robot.control.inference import InferenceWorker, Request
from real_robot.control.schedulers import ActionSource, DelayForecast, Planned
from real_robot.control.seams import SeamLog
from real_robot.control.sensors import Camera, Seen, look
from real_robot.control.steps import Ending, EpisodeResult, Step
from real_robot.control.timing import FixedRate, LatencyLog, Tick
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision, Filtered

MAX_ARM_ERRORS = 5
"""Control steps in a row in which the arm may fail before the episode ends; a lost status packet is one. Steps that
pass while it is waited for count: an arm that answers nothing is waited for through several."""
MAX_INFERENCE_ERRORS = 3
"""Requests in a row that the policy may fail before the episode ends."""

EXPIRED = "expired"
CAMERA_STALE = "camera_stale"


FilterAction = Callable[[ActionRequest], Filtered]
"""`ActionFilter.filter`. A request without an action asks for a hold."""


class Pulse(Protocol):
    """What the loop tells the watchdog, and what it hears from it (`real_robot.watchdog`)."""

    def beat(self, step: int) -> None:
        """The loop is alive."""

    def order(self) -> Ending | None:
        """The ending that the operator or the watchdog asks for, if any."""


class NoPulse:
    """For a loop that nobody watches: in tests, and in replay without an arm."""

    def beat(self, step: int) -> None:
        """Nobody listens."""

    def order(self) -> Ending | None:
        """Nobody speaks."""
        return None


@dataclass(frozen=True)
class LoopSettings:
    """How fresh things must be."""

    frequency: float
    """Control steps a second."""
    max_camera_age: float
    """Seconds after which a picture is stale and the arm holds."""


class ControlLoop:
    """Runs episodes on one arm. The arm is connected and the filter stands where the arm is."""

    def __init__(
        self,
        arm: Arm,
        cameras: Mapping[str, Camera],
        filter_action: FilterAction,
        source: ActionSource,
        worker: InferenceWorker | None,
        settings: LoopSettings,
        latency: LatencyLog,
        pulse: Pulse | None = None,
        on_step: Callable[[Step], None] = lambda step: None,
        on_gap: Callable[[], None] = lambda: None,
    ) -> None:
        """`worker` is where the policy decides; None where there is none, and `source` asks for nothing. `on_gap` is
        called before a command that follows none in the control step before: the arm's goal stood still meanwhile,
        which the filter must know (`ActionFilter.stand`).
        """
        self._arm, self._cameras, self._filter = arm, cameras, filter_action
        self._source, self._worker, self._settings = source, worker, settings
        self._latency, self._pulse, self._on_step, self._on_gap = latency, pulse or NoPulse(), on_step, on_gap
        self.seams = SeamLog(arm.limits.names, arm.limits.units)
        self._requests = self._first_request = 0
        self._forecast = DelayForecast(settings.frequency)

    def run(
        self,
        instruction: str,
        max_steps: int,
        done: Callable[[], bool] = lambda: False,
        failure: Callable[[], str] = lambda: "",
    ) -> EpisodeResult:
        """One episode of at most `max_steps` control steps; `done` says that the task is, where something knows.

        `failure` says why it cannot go on for a reason that is neither the arm's nor the policy's; empty where it can.
        Raises nothing of the arm's or the policy's: an episode that cannot go on ends as a `FAULT`.
        """
        episode = _Episode(instruction)
        rejected_before = self._source.rejected
        self._source.reset(self._requests)
        self._first_request = self._requests
        self.seams.restart()
        rate = FixedRate(self._settings.frequency)
        while episode.ending is None:
            tick = rate.wait()
            self._pulse.beat(tick.number)
            episode.missed += tick.missed
            if tick.number >= max_steps:
                episode.end(Ending.TIME)
            elif (order := self._pulse.order()) is not None:
                episode.end(order)
            elif why := failure():
                episode.end(Ending.FAULT, why)
            else:
                self._step(tick, episode)
                if episode.ending is None and done():
                    episode.end(Ending.SUCCESS)
        return episode.result(_difference(self._source.rejected, rejected_before))

    def _step(self, tick: Tick, episode: _Episode) -> None:
        began = time.monotonic()
        self._latency.add("wake_late", tick.began - tick.deadline)
        self._source.prepare()
        try:
            with self._latency.measure("observe"):
                reading = self._arm.observe()
                now = time.monotonic()
                seen = look(reading, self._cameras, now, self._settings.max_camera_age)
            observed = time.monotonic()
            self._receive(tick, episode)
            self._ask(tick, seen, episode.instruction)
            scheduled = time.monotonic()
            planned, problem = self._plan(tick, seen)
            planning = time.monotonic()
            request = action_request(planned if problem is None else None, reading.positions, planning)
            if tick.number > episode.next_step:
                self._on_gap()
            filtered = self._filter(request)
            filtering = time.monotonic()
            if filtered.decision is Decision.HOLD:
                self._source.held()
            sent = self._arm.send(filtered.action)
        except ArmError as error:
            episode.arm_failed(error, 1 + int((time.monotonic() - began) * self._settings.frequency))
            return
        episode.next_step = tick.number + 1
        sent_time = time.monotonic()
        self._note(planned if problem is None else None, seen, observed, sent, sent_time)
        for stage, seconds in (
            ("schedule", planning - scheduled), ("filter", filtering - planning), ("bus_write", sent_time - filtering),
        ):  # fmt: skip
            self._latency.add(stage, seconds)
        self._on_step(Step(tick, seen, planned, problem, request, filtered, sent, sent_time, self._source.source))
        episode.stepped(filtered, problem)
        measured = (observed - began) + (planning - scheduled) + (sent_time - planning)
        self._latency.add("overhead", time.monotonic() - began - measured)

    def _receive(self, tick: Tick, episode: _Episode) -> None:
        """Take the policy's answer, if there is one."""
        answer = None if self._worker is None else self._worker.poll()
        if answer is None or answer.request.number < self._first_request:
            return  # the latter was asked in the episode before
        request = answer.request
        self._latency.add("inference", answer.ended - answer.began)
        self._latency.add("queue_wait", answer.began - request.asked + max(0.0, tick.began - answer.ended))
        if answer.chunk is None:
            episode.policy_failed(answer.error or "")
            return
        episode.inference_failures = 0
        if self._source.add(answer.chunk, tick.deadline) is None:
            self._forecast.add(tick.deadline - request.observed)

    def _ask(self, tick: Tick, seen: Seen, instruction: str) -> None:
        """Ask for the next chunk where the strategy wants one, the policy is free and every picture is fresh."""
        if (
            self._worker is None
            or self._worker.pending is not None
            or seen.stale
            or not self._source.wants(tick.deadline, self._forecast.steps)
        ):
            return
        under_way = self._source.under_way(tick.deadline, self._forecast.steps)
        observation = seen.observation(instruction)
        asked = time.monotonic()
        self._worker.ask(Request(self._requests, observation, tick.deadline, asked, under_way))
        self._requests += 1

    def _plan(self, tick: Tick, seen: Seen) -> tuple[Planned | None, str | None]:
        """The action that is due, and why it must not be used, if so."""
        planned = self._source.due(tick.deadline)
        if seen.stale:
            return planned, f"{CAMERA_STALE}:{','.join(seen.stale)}"
        if planned is None:
            return None, self._source.problem
        return planned, EXPIRED if time.monotonic() > planned.deadline else None

    def _note(
        self, used: Planned | None, seen: Seen, observed: float, sent: NDArray[np.float64], sent_time: float
    ) -> None:
        if used is None:
            self.seams.add(None, sent)
        else:
            self.seams.add(used.chunk, used.action)
            self._latency.add("observation_age", sent_time - used.observed)
        if seen.image_times:
            self._latency.add("camera_age", observed - min(seen.image_times.values()))


def action_request(planned: Planned | None, measured: NDArray[np.float64], now: float) -> ActionRequest:
    """What the filter is asked: for the action that is due, or, with None, for a hold."""
    if planned is None:
        return ActionRequest(None, now, observation_time=now, measured=measured)
    return ActionRequest(planned.action, now, planned.observed, planned.deadline, planned.chunk, measured)


class _Episode:
    """Counts of an episode under way."""

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction
        self.ending: Ending | None = None
        self.missed = self.inference_failures = 0
        self.next_step = 0
        """The control step after the last one that commanded the arm."""
        self._detail = ""
        self._arm_failed = False
        self._steps = self._arm_failures = self._inference_errors = 0
        self._decisions = Counter({str(decision): 0 for decision in Decision})
        self._problems: Counter[str] = Counter()

    def end(self, ending: Ending, detail: str = "") -> None:
        """The first reason counts."""
        if self.ending is None:
            self.ending, self._detail = ending, detail

    def stepped(self, filtered: Filtered, problem: str | None) -> None:
        """A control step went through."""
        self._steps += 1
        self._arm_failures = 0
        self._decisions[str(filtered.decision)] += 1
        if problem is not None:
            self._problems[problem.partition(":")[0]] += 1
        if filtered.decision is Decision.STOP:
            self.end(Ending.STOPPED, f"the action filter stopped the arm ({', '.join(filtered.reasons)})")

    def arm_failed(self, error: ArmError, steps: int) -> None:
        """Nothing was sent in this control step, and in those that it took; the servos keep their last command."""
        self._problems["arm_error"] += 1
        self._arm_failures += steps
        if self._arm_failures >= MAX_ARM_ERRORS:
            self._arm_failed = True
            self.end(Ending.FAULT, f"the arm failed in {MAX_ARM_ERRORS} control steps in a row: {error}")

    def policy_failed(self, error: str) -> None:
        """The policy raised; the arm goes on with what it has, then holds."""
        self._inference_errors += 1
        self.inference_failures += 1
        if self.inference_failures >= MAX_INFERENCE_ERRORS:
            self.end(Ending.FAULT, f"the policy failed {MAX_INFERENCE_ERRORS} times in a row: {error}")

    def result(self, rejected: dict[str, int]) -> EpisodeResult:
        """What is kept of it."""
        assert self.ending is not None
        return EpisodeResult(
            self.ending, self._detail, self._steps, self.missed, dict(self._decisions), dict(self._problems), rejected,
            self._inference_errors, self._arm_failed,
        )  # fmt: skip


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
