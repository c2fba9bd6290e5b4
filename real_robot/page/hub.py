"""What a page knows of a deployment, kept in the page's process for whoever looks."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import Counter, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from real_robot.control.timing import STAGES
from real_robot.page.channel import SharedPictures
from real_robot.page.watching import WatchdogView

SHOWN_SECONDS = 10.0
"""What plots show."""
KEPT_LATENCIES = 5000
"""Newest values of each stage that histograms are made of: nearly three minutes at 30 Hz."""
LATENCY_EVERY = 0.5
"""Seconds between two looks at the latencies."""
EDGES = np.geomspace(0.01, 1000.0, 26)
"""Milliseconds between bins of the histograms: five to a factor of ten."""
JPEG_QUALITY = 85


class Hub:
    """The newest of everything. Its methods may be called in any thread."""

    def __init__(self, about: dict[str, Any], watchdog: WatchdogView, pictures: SharedPictures) -> None:
        """`about` is the loop's first message."""
        self.about = about
        self._watchdog, self._pictures = watchdog, pictures
        self._lock = threading.Lock()
        self._steps: deque[dict[str, Any]] = deque(maxlen=round(1.1 * SHOWN_SECONDS * about["frequency"]))
        self._count = self._missed = self._dropped = 0
        self._decisions: Counter[str] = Counter()
        self._latencies = {stage: deque[float](maxlen=KEPT_LATENCIES) for stage in STAGES}
        self._histograms: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._episode: dict[str, Any] | None = None
        self._result: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._jpegs: dict[str, tuple[float, str]] = {}
        self.over = False
        """Nothing follows."""

    @property
    def ended(self) -> bool:
        """Whether the loop said that it had let go of the arm."""
        return self._end is not None

    def add(self, message: dict[str, Any]) -> None:
        """A message of the loop's."""
        with self._lock:
            kind = message["kind"]
            if kind == "episode":
                self._episode = message | {"missed": 0, "steps": 0}
                self._decisions.clear()
            elif kind == "result":
                self._episode = None
                self._result = message
            elif kind == "end":
                self._end = message

    def add_steps(self, steps: list[dict[str, Any]], dropped: int) -> None:
        """Control steps, oldest first, and how many were lost so far."""
        with self._lock:
            self._dropped = dropped
            for step in steps:
                self._add_step(step)

    def _add_step(self, step: dict[str, Any]) -> None:
        for stage, values in step.pop("stages").items():
            self._latencies[stage].extend(values)
        self._missed += step["missed"]
        if self._episode is not None and step["episode"] == self._episode["number"]:
            self._episode["missed"] += step["missed"]
            self._episode["steps"] += 1
            self._decisions[step["decision"]] += 1
        self._steps.append(step)
        self._count += 1

    def update(self, seen: int, pictures_seen: dict[str, float]) -> tuple[dict[str, Any], int]:
        """What is new for a viewer that has seen `seen` steps and pictures of these times, and how many there are now.

        `pictures_seen` is brought up to date. JSON-ready.
        """
        watchdog = self._watchdog.state()
        with self._lock:
            new = min(self._count - seen, len(self._steps))
            steps = [self._steps[place] for place in range(len(self._steps) - new, len(self._steps))]
            return {
                "now": time.monotonic(),
                "steps": steps,
                "pictures": self._new_pictures(pictures_seen),
                "picture_ages": self._picture_ages(),
                "episode": self._episode,
                "result": self._result,
                "end": self._end,
                "over": self.over,
                "rate": control_rate(np.array([step["time"] for step in self._steps], np.float64), time.monotonic()),
                "missed": self._missed,
                "dropped": self._dropped,
                "decisions": dict(self._decisions),
                "latency": self._latency(),
                "watchdog": watchdog,
            }, self._count  # fmt: skip

    def _new_pictures(self, seen: dict[str, float]) -> dict[str, str]:
        found = {}
        for name, *_ in self.about["cameras"]:
            picture = self._pictures.get(name)
            if picture is not None and self._jpegs.get(name, (0.0, ""))[0] != picture[1]:
                self._jpegs[name] = picture[1], jpeg(picture[0])
            if name in self._jpegs and seen.get(name) != self._jpegs[name][0]:
                seen[name], found[name] = self._jpegs[name]
        return found

    def _picture_ages(self) -> dict[str, float | None]:
        times = {name: self._pictures.newest(name) for name, *_ in self.about["cameras"]}
        return {name: None if taken is None else time.monotonic() - taken for name, taken in times.items()}

    def _latency(self) -> list[dict[str, Any]]:
        if time.monotonic() - self._histograms[0] > LATENCY_EVERY:
            found = [histogram(stage, np.array(values)) for stage, values in self._latencies.items() if values]
            self._histograms = time.monotonic(), found
        return self._histograms[1]


def histogram(stage: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """Counts of values [N] (ms, N > 0) between `EDGES`, what lies beyond in the outermost; p50, p99 and worst."""
    counts, _ = np.histogram(np.clip(values, EDGES[0], EDGES[-1]), EDGES)
    p50, p99 = (float(value) for value in np.percentile(values, (50, 99)))
    return {"stage": stage, "p50": p50, "p99": p99, "worst": float(values.max()), "counts": counts.tolist()}


def control_rate(times: NDArray[np.float64], now: float) -> float:
    """Control steps a second, from the times [N] of the newest; what the last two seconds say."""
    recent = times[times > now - 2.0]
    if len(recent) < 2 or recent[-1] <= recent[0]:
        return 0.0
    # Up to the last step while they come; up to now when they have stopped coming.
    spacing = float(recent[-1] - recent[0]) / (len(recent) - 1)
    late = max(0.0, now - float(recent[-1]) - max(spacing, 0.3))
    return (len(recent) - 1) / (float(recent[-1] - recent[0]) + late)


def jpeg(image: NDArray[np.uint8]) -> str:
    """A picture [H, W, 3] as base64 text of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
