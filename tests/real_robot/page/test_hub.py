"""What the page shows of the loop's numbers and of the watchdog."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from real_robot.control.timing import LatencyLog
from real_robot.page.hub import EDGES, control_rate, histogram
from real_robot.page.watching import WatchdogView
from real_robot.watchdog.pulse import Phase, WatchdogState
from tests.real_robot.page.pages import served, step
from vla.run.jsonl import append_lines


def test_the_rate_is_that_of_the_last_two_seconds_and_falls_when_steps_stop_coming() -> None:
    times = 100.0 + np.arange(90) / 30.0
    assert control_rate(times, float(times[-1])) == pytest.approx(30.0)
    assert control_rate(times, float(times[-1]) + 0.2) == pytest.approx(30.0), "an update comes between two steps"
    assert control_rate(times, float(times[-1]) + 1.3) < 15.0
    assert control_rate(times, float(times[-1]) + 3.0) == 0.0
    assert control_rate(times[:1], 100.0) == 0.0 and control_rate(np.full(3, 100.0), 100.0) == 0.0
    slow = 100.0 + np.arange(60) / 15.0
    assert control_rate(slow, float(slow[-1])) == pytest.approx(15.0)


def test_a_histogram_counts_every_value_those_beyond_its_edges_too() -> None:
    values = np.array([0.0, 0.001, 1.0, 1.1, 50.0, 5000.0])
    found = histogram("filter", values)
    assert sum(found["counts"]) == 6 and found["counts"][0] == 2 and found["counts"][-1] == 1
    assert found["counts"][np.searchsorted(EDGES, 1.05) - 1] == 2
    assert found["worst"] == 5000.0 and found["p50"] == pytest.approx(1.05)


def test_latencies_are_taken_once_in_order_and_as_far_as_they_are_kept() -> None:
    log = LatencyLog(4, ("filter",))
    assert log.since("filter", 0) == ([], 0)
    for value in (1.0, 2.0, 3.0):
        log.add("filter", value)
    assert log.since("filter", 1) == ([2.0, 3.0], 3)
    for value in (4.0, 5.0, 6.0):
        log.add("filter", value)
    assert log.since("filter", 1) == ([3.0, 4.0, 5.0, 6.0], 6)
    assert log.since("filter", 6) == ([], 6)


def test_missed_steps_are_an_episodes_and_all_episodes(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        for number, missed in ((0, 2), (1, 1)):
            page.hub.add({"kind": "episode", "number": number})
            late = step(time.monotonic(), episode=number - 1)  # of the episode before, read after this one began
            changed = step(time.monotonic(), episode=number, missed=missed, decision="clip", reasons=["velocity:a.pos"])
            page.hub.add_steps([late, changed], dropped=number)
            update, _ = page.hub.update(0, {})
            assert update["episode"]["missed"] == missed and update["decisions"] == {"clip": 1}
            page.hub.add({"kind": "result", "number": number, "ending": "time"})
        assert update["missed"] == 3 and update["dropped"] == 1


def test_the_watchdog_is_seen_without_the_loop(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        view, pulse = WatchdogView(page.settings), page.pulse
        assert view.state()["state"] == "starting"
        pulse.alive()
        pulse.state = WatchdogState.READY
        assert view.state()["state"] == "ready" and view.state()["loop_silent"] is None
        pulse.beat(7)
        pulse.phase = Phase.ARMED
        time.sleep(0.05)
        assert view.state()["state"] == "watching" and 0.05 <= view.state()["loop_silent"] < 5.0
        append_lines(page.settings.log, [{"event": "ready"}, {"event": "tripped", "cause": "the operator"}])
        assert view.state()["state"] == "stopping the arm" and view.state()["cause"] == "the operator"
        append_lines(page.settings.log, [{"event": "not_verified"}])
        assert view.state()["state"] == "not verified" and view.state()["verdict"] == "not_verified"


def test_a_watchdog_without_a_sign_of_life_does_not_answer(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        page.pulse.state = WatchdogState.READY
        page.pulse.phase = Phase.ARMED  # and it was last alive at 0
        assert WatchdogView(page.settings).state()["state"] == "does not answer"
        page.pulse.phase = Phase.FINISHED
        assert WatchdogView(page.settings).state()["state"] == "ended"
