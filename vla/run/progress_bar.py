"""Progress with time left: a bar on a terminal, and a line now and then in the log of a background run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["progress_bar"]

SECONDS_BETWEEN_LINES = 15.0
"""Where there is no terminal: often enough to see that it goes on, seldom enough for a log of hours."""

Update = Callable[[int, str], None]
"""`update(done, note)`: how many of the total are done, and a short text such as "success 84 %"."""


@contextmanager
def progress_bar(label: str, total: int, start: int = 0) -> Iterator[Update]:
    """Show progress on standard error while the block runs; yields what to tell it.

    On a terminal it is a bar. Elsewhere it is a line such as `fine-tuning 120/1500  loss 2.310  45 s, 520 s left`, not
    more often than every `SECONDS_BETWEEN_LINES`.
    """
    if not sys.stderr.isatty():
        yield _Lines(label, total, start).update
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, completed=start, note="")

        def update(done: int, note: str = "") -> None:
            progress.update(task, completed=done, note=note)

        yield update


class _Lines:
    """Progress in lines."""

    def __init__(self, label: str, total: int, start: int) -> None:
        self._label, self._total, self._start = label, total, start
        self._began = self._last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        elapsed = now - self._began
        left = elapsed / max(done - self._start, 1) * (self._total - done)
        parts = [f"{self._label} {done}/{self._total}", note, f"{elapsed:.0f} s, {left:.0f} s left"]
        sys.stderr.write("  ".join(part for part in parts if part) + "\n")
        sys.stderr.flush()
