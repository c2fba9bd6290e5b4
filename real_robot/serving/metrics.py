"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
PREFIX = "reflex_"
MEANINGS = {
    "requests_total": ("counter", "requests that arrived"),
    "errors_total": ("counter", "requests answered with an error"),
    "queue_depth": ("gauge", "requests waiting"),
    "connections": ("gauge", "open connections"),
    "batch_size": ("histogram", "observations decided on together"),
    "request_seconds": ("histogram", "from a request's arrival to its answer"),
    "inference_seconds": ("histogram", "of the policy, for a batch"),
}
"""Name -> kind and meaning."""


class Histogram:
    """Counts of values up to each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """In Prometheus' format, without the name: each bucket holds all values up to its bound."""
        total, shown = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            shown.append(f'_bucket{{le="{bound}"}} {total}')
        return [*shown, f"_sum {self._sum:.6f}", f"_count {total}"]


class Metrics:
    """The counts of one server; its event loop and its inference thread both write them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._errors: Counter[str] = Counter()
        self._batches, self._latency, self._inference = Histogram(SIZES), Histogram(SECONDS), Histogram(SECONDS)

    def request(self) -> None:
        """A request has arrived."""
        with self._lock:
            self._requests += 1

    def answered(self, seconds: float) -> None:
        """A request was answered with actions, so long after it arrived."""
        with self._lock:
            self._latency.observe(seconds)

    def error(self, kind: str) -> None:
        """A request was answered with an error of this kind: malformed, full, deadline, policy or draining."""
        with self._lock:
            self._errors[kind] += 1

    def batch(self, rows: int, seconds: float) -> None:
        """The policy decided on so many observations at once."""
        with self._lock:
            self._batches.observe(rows)
            self._inference.observe(seconds)

    def render(self, queue_depth: int, connections: int) -> str:
        """All of it as text, with what is true now."""
        with self._lock:
            values = {
                "requests_total": [str(self._requests)],
                "errors_total": [f'{{kind="{kind}"}} {count}' for kind, count in sorted(self._errors.items())],
                "queue_depth": [str(queue_depth)],
                "connections": [str(connections)],
                "batch_size": self._batches.lines(),
                "request_seconds": self._latency.lines(),
                "inference_seconds": self._inference.lines(),
            }
        lines: list[str] = []
        for name, (kind, meaning) in MEANINGS.items():
            lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]
            lines += [f"{PREFIX}{name}{value if value[0] in '_{' else f' {value}'}" for value in values[name]]
        return "\n".join(lines) + "\n"
