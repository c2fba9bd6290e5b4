"""Jumps of the action by hand."""

from __future__ import annotations

import numpy as np
import pytest

from real_robot.control.seams import SeamLog


def test_jumps_are_kept_apart_and_by_unit() -> None:
    log = SeamLog(("a", "b", "jaw"), ("deg", "deg", "%"))
    for chunk, action in (
        (None, [0.0, 0.0, 0.0]),
        (0, [1.0, -3.0, 0.0]),  # from holding: a seam of 3 degrees
        (0, [1.5, -3.0, 4.0]),
        (1, [1.5, -5.0, 4.0]),
        (1, [1.5, -5.0, 4.0]),
    ):
        log.add(chunk, np.array(action))
    report = log.report()
    assert report["seam"]["deg"] == pytest.approx({"count": 2, "p50": 2.5, "p95": 2.95, "p99": 2.99, "worst": 3.0})
    assert report["within"]["deg"]["worst"] == 0.5 and report["within"]["%"]["worst"] == 4.0
    log.restart()
    log.add(2, np.zeros(3))
    assert log.report()["seam"]["deg"]["count"] == 2, "the first action of an episode follows none"


def test_without_a_jump_there_is_nothing_to_report() -> None:
    assert SeamLog(("a",), ("deg",)).report() == {"seam": {}, "within": {}}
