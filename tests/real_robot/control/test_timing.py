"""The fixed rate against the real clock, and the latency log by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from real_robot.control.timing import FixedRate, LatencyLog, latency_rows, percentiles


def test_deadlines_lie_on_a_grid_from_the_start_whatever_the_steps_take() -> None:
    rate = FixedRate(100.0)
    ticks = []
    for number in range(50):
        ticks.append(rate.wait())
        time.sleep(0.001 * (number % 5))
    start = ticks[0].deadline
    for tick in ticks:
        assert tick.deadline == pytest.approx(start + tick.number / 100.0, abs=1e-9)
        assert tick.began >= tick.deadline
    assert ticks[-1].number == len(ticks) - 1 + sum(tick.missed for tick in ticks)


def test_a_step_that_takes_too_long_leaves_out_those_whose_time_passed_and_says_so() -> None:
    rate = FixedRate(50.0)
    first = rate.wait()
    time.sleep(0.065)  # 3.25 periods
    ended = time.monotonic()
    late = rate.wait()
    assert first.number == 0 and late.missed == late.number - 1 >= 3
    assert late.deadline == pytest.approx(first.deadline + late.number * 0.02)
    assert late.deadline >= ended + 0.006, "not at once after the step before, which has just commanded the arm"
    following = rate.wait()
    assert following.number >= 5 and following.deadline == pytest.approx(first.deadline + following.number * 0.02)
    time.sleep(0.017)  # long, and in time: the next one's deadline is near and it runs
    assert rate.wait().missed == 0 or time.monotonic() > following.deadline + 0.02


def test_a_report_has_percentiles_in_milliseconds_and_leaves_out_what_was_not_measured() -> None:
    log = LatencyLog(1000, ("filter", "observe"))
    for value in range(1, 101):
        log.add("filter", value / 1000)
    report = log.report()
    assert set(report) == {"filter"}
    assert report["filter"] == pytest.approx({"count": 100, "p50": 50.5, "p95": 95.05, "p99": 99.01, "worst": 100.0})
    assert latency_rows(report) == [("filter", "100", "50.50", "95.05", "99.01", "100.00")]


def test_what_no_longer_fits_overwrites_the_oldest_and_is_said() -> None:
    log = LatencyLog(3, ("filter",))
    for value in (9.0, 1.0, 2.0, 3.0):
        log.add("filter", value)
    assert sorted(log.kept("filter").tolist()) == [1.0, 2.0, 3.0]
    assert log.report()["filter"]["count"] == 4 and log.report()["filter"]["kept"] == 3


def test_a_block_is_measured_also_when_it_raises() -> None:
    log = LatencyLog(4, ("filter",))
    with pytest.raises(ValueError), log.measure("filter"):
        raise ValueError
    assert log.report()["filter"]["count"] == 1


def test_percentiles_of_one_value() -> None:
    assert percentiles(np.array([2.0])) == {"count": 1, "p50": 2.0, "p95": 2.0, "p99": 2.0, "worst": 2.0}
