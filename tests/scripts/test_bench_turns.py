"""Timing in turns."""

from scripts.bench.timing import time_in_turns


def test_blocks_take_turns_after_a_warm_up_of_each() -> None:
    calls: list[str] = []
    durations = time_in_turns([lambda: calls.append("a"), lambda: calls.append("b")], seconds=0.0)
    assert "".join(calls) == "ab" + "ab" * 3
    assert [len(spent) for spent in durations] == [3, 3]
