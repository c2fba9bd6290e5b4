"""Waits, by a clock that only sleeping moves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.offline.labels.pacing import LONGEST_WAIT, Pace, back_off, retry_after

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_waits_double_up_to_a_bound() -> None:
    assert [back_off(attempt, 1.0) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]
    assert back_off(3, 0.0) == 2.0
    assert back_off(1, 1.0, first=0.5) == 0.5


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_waits_are_bounded_and_never_nothing(attempt: int, spread: float) -> None:
    assert 0 < back_off(attempt, spread) <= LONGEST_WAIT


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("Fri, 27 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 27 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_what_a_server_says_about_waiting(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


def test_a_rate_is_kept() -> None:
    clock = Clock()
    pace = Pace(30, clock, clock.sleep)
    moments = []
    for _ in range(4):
        pace.wait()
        moments.append(clock.now)
    assert moments == pytest.approx([100, 102, 104, 106])


def test_a_pause_holds_everybody_and_a_shorter_one_does_not_shorten_it() -> None:
    clock = Clock()
    pace = Pace(None, clock, clock.sleep)
    pace.wait()
    pace.wait()
    assert clock.now == 100  # no rate of our own
    pace.pause(9)
    pace.pause(2)
    pace.wait()
    assert clock.now == pytest.approx(109)
