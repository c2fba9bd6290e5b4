"""How far the action jumps from one control step to the next: where chunks meet, and within them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from real_robot.control.timing import percentiles

CAPACITY = 100_000


class SeamLog:
    """Changes of the action that is due, before the filter, kept apart by whether a new chunk began with it.

    A strategy is smooth where the two look alike. Joints of each unit are reported by themselves.
    """

    def __init__(self, names: Sequence[str], units: Sequence[str], capacity: int = CAPACITY) -> None:
        """`capacity`: jumps kept of each kind; later ones overwrite the oldest."""
        self._units = {unit: np.flatnonzero(np.array(units) == unit) for unit in dict.fromkeys(units)}
        self._jumps = {kind: np.full((capacity, len(names)), np.nan) for kind in ("seam", "within")}
        self._counts = {"seam": 0, "within": 0}
        self._last: NDArray[np.float64] | None = None
        self._chunk: int | None = None

    def restart(self) -> None:
        """An episode begins: its first action follows none."""
        self._last = self._chunk = None

    def add(self, chunk: int | None, action: NDArray[np.float64]) -> None:
        """The action [J] of a control step and the chunk that it comes from; None with what holds the arm."""
        if self._last is not None and chunk is not None:
            kind = "within" if chunk == self._chunk else "seam"
            rows, count = self._jumps[kind], self._counts[kind]
            np.abs(action - self._last, out=rows[count % len(rows)])
            self._counts[kind] = count + 1
        self._last = action
        if chunk is not None:
            self._chunk = chunk

    def report(self) -> dict[str, Any]:
        """Kind -> unit -> count, p50, p95, p99 and worst of the largest change of a joint, in that unit."""
        return {
            kind: {
                unit: percentiles(rows[:, places].max(axis=1), self._counts[kind])
                for unit, places in self._units.items()
                if (rows := self._jumps[kind][: min(self._counts[kind], len(self._jumps[kind]))]).size
            }
            for kind in self._jumps
        }
