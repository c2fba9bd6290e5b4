"""Progress where there is no terminal: a line now and then, by hand."""

from __future__ import annotations

import pytest

import vla.run.progress_bar
from vla.run.progress_bar import progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed, to be set."""
    now = [100.0]
    monkeypatch.setattr(vla.run.progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("fine-tuning", 1500, start=100) as show:
        for second in range(1, 41):
            clock[0] = 100.0 + second
            show(100 + 10 * second, f"loss {second}.0")
    assert capsys.readouterr().err.splitlines() == [
        "fine-tuning 250/1500  loss 15.0  15 s, 125 s left",  # 150 in 15 s, 1250 to go
        "fine-tuning 400/1500  loss 30.0  30 s, 110 s left",
    ]


def test_a_short_one_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("evaluating", 3) as show:
        for done in (1, 2, 3):
            clock[0] += 4.0
            show(done, "")
    assert capsys.readouterr() == ("", "")


def test_nothing_done_yet_is_no_division_by_zero(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("rollouts", 8, start=2) as show:
        clock[0] += 15.0
        show(2, "")
    assert capsys.readouterr().err == "rollouts 2/8  15 s, 90 s left\n"
