"""What an action filter was asked and what it answered, so that anybody can ask it again.

A log begins with the filter's limits, period and settings. `vla.safety.replay` asks a filter again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.safety.checks import ActionRequest
from vla.safety.decision import Filtered
from vla.safety.setup import FilterSetup
from vla.safety.stopping import Array

Row = dict[str, Any]
"""JSON-ready, with an "event": open, start, anchor, stand, action or stop."""


@dataclass(frozen=True)
class _Action:
    request: ActionRequest
    filtered: Filtered


class FilterLog:
    """Everything that went into a filter and came out, in order. Turned into rows only where somebody reads them."""

    def __init__(self) -> None:
        self._events: list[Row | _Action] = []

    def open(self, setup: FilterSetup) -> None:
        """A filter begins to write here."""
        self._events.append({"event": "open", "digest": setup.digest(), **setup.to_dict()})

    def add_start(self, measured: Array) -> None:
        """The filter started from these positions [J]."""
        self._events.append({"event": "start", "measured": write_array(measured)})

    def add_anchor(self, positions: Array) -> None:
        """The filter counts from these positions [J] on."""
        self._events.append({"event": "anchor", "measured": write_array(positions)})

    def add_stand(self) -> None:
        """The filter's last command stood still."""
        self._events.append({"event": "stand"})

    def add_stop(self, reason: str) -> None:
        """Somebody stopped the filter."""
        self._events.append({"event": "stop", "reason": reason})

    def add(self, request: ActionRequest, filtered: Filtered) -> None:
        """One request and its answer. Arrays are copied, so the caller may use theirs again."""
        self._events.append(_Action(_copied(request), filtered))

    def rows(self) -> Iterator[Row]:
        """Everything so far, JSON-ready: numbers that are not finite are words, and every float is exact."""
        for event in self._events:
            yield action_row(event.request, event.filtered) if isinstance(event, _Action) else event

    def take(self) -> list[Row]:
        """The rows since the last `take`, which are forgotten here: for a file that grows while a robot works."""
        rows = list(self.rows())
        self._events.clear()
        return rows

    def columns(self) -> dict[str, NDArray[Any]]:
        """The N actions as arrays, e.g. for the columns of a recording.

        "asked" and "sent" float64 [N, J] (asked is NaN where the action could not be read as J numbers), "decision"
        and "reasons" (joined by ";") text [N], "time", "observation_time" and "deadline" float64 [N], and "chunk_id"
        int64 [N] (-1 for none).
        """
        actions = [event for event in self._events if isinstance(event, _Action)]
        requests = [action.request for action in actions]
        answers = [action.filtered for action in actions]
        size = answers[0].action.size if answers else 0
        return {
            "asked": np.array([_numbers(request.action, size) for request in requests]).reshape(-1, size),
            "sent": np.array([answer.action for answer in answers]).reshape(-1, size),
            "decision": np.array([answer.decision.value for answer in answers], dtype=np.str_),
            "reasons": np.array([";".join(answer.reasons) for answer in answers], dtype=np.str_),
            "time": np.array([request.now for request in requests], dtype=np.float64),
            "observation_time": np.array([request.observation_time for request in requests], dtype=np.float64),
            "deadline": np.array([request.deadline for request in requests], dtype=np.float64),
            "chunk_id": np.array([-1 if r.chunk_id is None else r.chunk_id for r in requests], dtype=np.int64),
        }


def action_row(request: ActionRequest, filtered: Filtered) -> Row:
    """One request and its answer, JSON-ready."""
    return {
        "event": "action",
        "action": write_array(request.action),
        "measured": None if request.measured is None else write_array(request.measured),
        "now": _write(float(request.now)),
        "observation_time": _write(float(request.observation_time)),
        "deadline": _write(float(request.deadline)),
        "chunk_id": None if request.chunk_id is None else int(request.chunk_id),
        "units": None if request.units is None else list(request.units),
        "sent": write_array(filtered.action),
        "decision": filtered.decision.value,
        "reasons": list(filtered.reasons),
    }


def write_array(value: Any) -> Row:
    """An array, JSON-ready and exact: {"dtype", "shape", "values"}; no values for what is not numbers."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return {"dtype": None, "shape": [], "values": None}
    if array.dtype.kind not in "fiub":
        return {"dtype": array.dtype.str, "shape": list(array.shape), "values": None}
    wide = array.astype(np.float64) if array.dtype.kind == "f" else array
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": [_write(v) for v in wide.ravel().tolist()]}


def read_array(row: Mapping[str, Any]) -> Any:
    """Inverse of `write_array`; for what is not numbers, something that the filter refuses for the same reason."""
    if row["dtype"] is None:
        return [[0.0], [0.0, 0.0]]
    if row["values"] is None:
        return np.zeros(row["shape"], dtype=row["dtype"])
    values = [float(value) if isinstance(value, str) else value for value in row["values"]]
    return np.array(values, dtype=row["dtype"]).reshape(row["shape"])


def _copied(request: ActionRequest) -> ActionRequest:
    """The request with arrays of its own. What cannot be copied as an array is kept as it is described in a row."""

    def copied(value: Any) -> Any:
        return value.copy() if isinstance(value, np.ndarray) else read_array(write_array(value))

    return ActionRequest(
        copied(request.action),
        request.now,
        request.observation_time,
        request.deadline,
        request.chunk_id,
        None if request.measured is None else copied(request.measured),
        request.units,
    )


def _numbers(value: Any, size: int) -> Array:
    array = np.asarray(value) if isinstance(value, np.ndarray) else np.zeros(0)
    usable = array.shape == (size,) and array.dtype.kind in "fiu"
    return array.astype(np.float64) if usable else np.full(size, np.nan)


def _write(value: float) -> float | str:
    """A number, or a word for what JSON has no form for."""
    return value if math.isfinite(value) else str(float(value))
