"""What every speed study does: repeat, time, and take the median."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 8
"""Control steps of a decision."""


@dataclass(frozen=True)
class Measurement:
    """One row."""

    name: str
    """What was measured, and what is counted."""
    value: float
    """Median over the blocks."""
    unit: str
    """Of the value."""
    blocks: int
    """Timed blocks behind the median."""


def time_blocks(
    block: Callable[[], Any], seconds: float, synchronise: Callable[[], None] = lambda: None
) -> list[float]:
    """Seconds of each repetition of `block` after one warm-up, until `seconds` are used up; at least three."""
    (durations,) = time_in_turns([block], seconds, synchronise)
    return durations


def time_in_turns(
    blocks: Sequence[Callable[[], Any]],
    seconds: float,
    synchronise: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """As `time_blocks` for each of some blocks, which take turns: a machine that slows down slows all of them.

    `clock` measures a block; `time.process_time` leaves out what other processes take.
    """
    for block in blocks:
        block()
        synchronise()
    durations: list[list[float]] = [[] for _ in blocks]
    end = time.perf_counter() + seconds * len(blocks)
    while len(durations[0]) < 3 or time.perf_counter() < end:
        for block, spent in zip(blocks, durations, strict=True):
            start = clock()
            block()
            synchronise()
            spent.append(clock() - start)
    return durations


def per_second(name: str, count: float, unit: str, durations: Sequence[float]) -> Measurement:
    """A rate from blocks that each did `count` things."""
    return Measurement(name, count / statistics.median(durations), f"{unit}/s", len(durations))


def milliseconds(name: str, count: float, unit: str, durations: Sequence[float]) -> Measurement:
    """A time per thing from blocks that each did `count` of them."""
    return Measurement(name, 1000 * statistics.median(durations) / count, f"ms/{unit}", len(durations))


def describe_machine() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
