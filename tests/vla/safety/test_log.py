"""Logs of a filter, and asking it again."""

import json
import math
from typing import Any

import numpy as np
import pytest

from tests.vla.safety.robots import one_joint
from vla.errors import ReflexError
from vla.run.jsonl import append_lines, read_lines
from vla.safety.checks import ActionRequest
from vla.safety.config import FilterConfig
from vla.safety.filter import ActionFilter
from vla.safety.log import FilterLog, read_array, write_array
from vla.safety.replay import replay


def recorded() -> FilterLog:
    log = FilterLog()
    action_filter = ActionFilter(one_joint(), 1.0, FilterConfig(max_tracking_error=[5.0]), log=log)
    action_filter.start([0.1])
    buffer = np.array([0.3])
    action_filter.filter(ActionRequest(buffer, 0.0, 0.0, chunk_id=1, measured=np.array([0.1]), units=("rad",)))
    buffer[0] = 7.0  # the caller's array is the caller's
    for step, action in enumerate([[4.0], [math.nan], "text", [[1.0], [1.0, 2.0]], np.array([9], dtype=np.int16)]):
        action_filter.filter(ActionRequest(action, 1.0 + step, 1.0 + step, deadline=math.inf))
    action_filter.stand()
    action_filter.anchor([0.2])
    action_filter.stop("operator")
    action_filter.filter(ActionRequest([0.0], np.float32(9.0), math.nan, chunk_id=np.int64(4)))
    return log


def test_a_log_in_a_file_replays_bit_for_bit(tmp_path: Any) -> None:
    append_lines(tmp_path / "filter.jsonl", recorded().rows())
    again = replay(read_lines(tmp_path / "filter.jsonl"))
    assert again.actions == 7
    assert again.differences == ()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            lambda row: row["sent"]["values"].__setitem__(0, np.nextafter(row["sent"]["values"][0], 1.0)),
            "action 1: sent",
        ),
        (lambda row: row.__setitem__("decision", "pass"), "action 1: decision"),
        (lambda row: row["reasons"].clear(), "action 1: reasons"),
    ],
)
def test_one_bit_that_differs_is_found(change: Any, difference: str) -> None:
    rows = json.loads(json.dumps(list(recorded().rows())))
    change([row for row in rows if row["event"] == "action"][1])
    assert replay(rows).differences == (difference,)


def test_changed_limits_and_what_is_no_log_are_refused() -> None:
    rows = json.loads(json.dumps(list(recorded().rows())))
    with pytest.raises(ReflexError, match="does not begin with the filter's limits"):
        replay(rows[1:])
    lacking = [*rows[:2], {key: value for key, value in rows[2].items() if key != "now"}]
    with pytest.raises(ReflexError, match="'now' at action 0"):
        replay(lacking)
    rows[0]["limits"]["jerk"] = [2.0]
    with pytest.raises(ReflexError, match="were changed since"):
        replay(rows)


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, np.nan, -np.inf, -0.0]),
        np.array([[1e-45, 3.4e38]], dtype=np.float32),
        np.array([2**63 - 1], dtype=np.int64),
        np.zeros((0, 3)),
        np.array(1.5, dtype=np.float16),
    ],
)
def test_arrays_are_exact(array: Any) -> None:
    again = read_array(json.loads(json.dumps(write_array(array), allow_nan=False)))
    assert again.dtype == array.dtype and again.shape == array.shape
    assert again.tobytes() == array.tobytes()


def test_columns_for_a_recording() -> None:
    columns = recorded().columns()
    assert columns["sent"].shape == columns["asked"].shape == (7, 1)
    assert columns["asked"][0, 0] == 0.3 and np.isnan(columns["asked"][3, 0])
    assert columns["decision"].tolist() == ["pass", "clip", "hold", "hold", "hold", "clip", "stop"]
    assert columns["reasons"][2] == "not_finite:joint"
    assert columns["chunk_id"].tolist() == [1, -1, -1, -1, -1, -1, 4]
    assert columns["time"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0]


def test_rows_are_taken_once() -> None:
    log = recorded()
    assert [row["event"] for row in log.take()][:3] == ["open", "start", "action"]
    assert log.take() == []
