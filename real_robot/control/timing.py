"""A fixed rate without drift, and how long each part of a control step took.

Every time is `time.monotonic()` in seconds, the clock that all processes of a machine share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

APART = 1.0 / 3.0
"""Share of a period that must lie between a control step that ended too late and the next one's deadline. One that is
nearer is left out: it would follow at once on the command before, and the arm would make two steps' motion in one."""
SPIN = 0.001
"""Seconds before a deadline at which sleeping ends and looking at the clock begins: sleep wakes up to so much late."""

STAGES = (
    "camera_age", "observe", "inference", "queue_wait", "schedule", "filter", "bus_write", "overhead", "wake_late",
    "observation_age",
)  # fmt: skip
"""What `LatencyLog` measures.

camera_age: of the oldest picture, when it was used. observe: reading the arm and the newest pictures. inference: a
decision of the policy, in its own thread. queue_wait: an observation waiting for that thread, and the chunk for the
next control step. schedule: which action is due. filter: the action filter. bus_write: sending to the arm. overhead:
the rest of a control step. wake_late: how much after its deadline a control step began. observation_age: of what the
sent action was decided from, when it was sent.
"""


@dataclass(frozen=True)
class Tick:
    """One control step's place in time."""

    number: int
    """From 0. Steps whose time passed while another ran are left out."""
    deadline: float
    """When it was to begin."""
    began: float
    """When it began."""
    missed: int
    """How many steps before this one were left out, because the one before took too long."""


class FixedRate:
    """Control steps at `start + number / frequency`: each deadline is computed from the start, so none drifts."""

    def __init__(self, frequency: float, spin: float = SPIN) -> None:
        """`frequency` in Hz; `spin` in seconds, see `SPIN`."""
        self.period = 1.0 / frequency
        self._frequency, self._spin = frequency, spin
        self._start: float | None = None
        self._next = 0

    def wait(self) -> Tick:
        """Sleep until the next step is due. The first one is due now."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        passed = (now - self._start) * self._frequency
        is_late = passed > self._next + 1e-9
        missed = math.ceil(passed + APART) - self._next if is_late else 0
        number = self._next + missed
        deadline = self._start + number / self._frequency
        if deadline - now > self._spin:
            time.sleep(deadline - now - self._spin)
        while (began := time.monotonic()) < deadline:
            pass
        self._next = number + 1
        return Tick(number, deadline, began, missed)


class LatencyLog:
    """Durations of stages, in arrays that are allocated once, so that measuring costs a control step nothing.

    When more values come than there is room for, the oldest are overwritten, and the report says so.
    """

    def __init__(self, capacity: int, stages: Sequence[str] = STAGES) -> None:
        """`capacity`: values kept of each stage."""
        self._values = {stage: np.full(capacity, np.nan) for stage in stages}
        self._counts = dict.fromkeys(stages, 0)

    def add(self, stage: str, seconds: float) -> None:
        """Note one duration. Raises `KeyError` for a stage that is not measured."""
        values, count = self._values[stage], self._counts[stage]
        values[count % len(values)] = seconds
        self._counts[stage] = count + 1

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long the block takes, also when it raises."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - began)

    def kept(self, stage: str) -> NDArray[np.float64]:
        """The values of a stage that are kept, in seconds, in no order."""
        return self._values[stage][: min(self._counts[stage], len(self._values[stage]))]

    def since(self, stage: str, count: int) -> tuple[list[float], int]:
        """The values of a stage after its first `count`, in seconds and in order, as far as they are kept; and how many
        there are now."""
        values, total = self._values[stage], self._counts[stage]
        first = max(count, total - len(values))
        return [float(values[place % len(values)]) for place in range(first, total)], total

    def report(self) -> dict[str, dict[str, float]]:
        """Stage -> count, and p50, p95, p99 and worst in milliseconds. Stages without a value are left out."""
        return {stage: percentiles(1e3 * self.kept(stage), count) for stage, count in self._counts.items() if count}


def percentiles(values: NDArray[np.float64], count: int | None = None) -> dict[str, float]:
    """p50, p95, p99 and worst of values [N], N > 0; `count` is how many there were, when some were not kept."""
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    found: dict[str, float] = {"count": len(values) if count is None else count}
    if found["count"] > len(values):
        found["kept"] = len(values)
    return {**found, "p50": p50, "p95": p95, "p99": p99, "worst": float(values.max())}


def latency_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a table: stage, count, p50, p95, p99 and worst in ms."""
    return [
        (
            stage.replace("_", " "),
            f"{values['count']:.0f}",
            *(f"{values[name]:.2f}" for name in ("p50", "p95", "p99", "worst")),
        )
        for stage, values in report.items()
    ]
