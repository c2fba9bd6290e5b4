"""The cache: what it counts, what it remembers, and what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.errors import ReflexError
from vla.offline.labels.budget import Budget, Cost
from vla.offline.labels.ledger import CapReachedError, Ledger, call_key
from vla.offline.preferences import Status

RECKONED = Cost(1, 100, 2.0)
ASKED = {"stage": "answer", "model": "m"}


def outcome(status: Status = Status.OK, tokens: int = 30, money: float = 0.5) -> dict[str, object]:
    return {
        "status": status,
        "text": "first",
        "model": "m",
        "input_tokens": tokens - 10,
        "output_tokens": 10,
        "money": money,
        "probability_second": 0.25,
    }


def test_a_call_is_reckoned_until_it_is_known_what_it_cost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "calls.jsonl", Budget())
    call = ledger.begin("k", ASKED, 1, RECKONED)
    assert ledger.spent == RECKONED and ledger.reply("k") is None
    ledger.end(call, "k", "answer", outcome())
    assert ledger.spent == Cost(1, 30, 0.5)
    assert (ledger.seen["answer"].calls, ledger.seen["answer"].largest_input) == (1, 20)
    ledger.close()
    again = Ledger(tmp_path / "calls.jsonl", Budget())
    assert again.spent == Cost(1, 30, 0.5) and again.lost == 0
    reply = again.reply("k")
    assert reply is not None and (reply.text, reply.model, reply.probability_second) == ("first", "m", 0.25)


def test_a_call_under_way_at_a_kill_counts_as_reckoned_and_has_no_reply(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    ledger = Ledger(path, Budget())
    call = ledger.begin("a", ASKED, 1, RECKONED)
    ledger.begin("b", ASKED, 1, RECKONED)
    ledger.end(call, "a", "answer", outcome())
    ledger.close()
    again = Ledger(path, Budget())
    assert (again.spent, again.lost) == (Cost(2, 130, 2.5), 1)
    assert again.reply("a") is not None and again.reply("b") is None
    assert again.begin("b", ASKED, 1, RECKONED) == "3"


@given(st.integers(0, 2000))
@settings(max_examples=40, deadline=None)
def test_a_file_cut_at_any_byte_is_read_and_no_whole_line_is_lost(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "calls.jsonl"
    ledger = Ledger(path, Budget())
    for key in "abc":
        ledger.end(ledger.begin(key, ASKED, 1, RECKONED), key, "answer", outcome())
    ledger.close()
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    again = Ledger(path, Budget())
    lines = [json.loads(line) for line in content.split(b"\n")[:-1]]
    received = sum(line["event"] == "received" for line in lines)
    assert sum(again.reply(key) is not None for key in "abc") == received
    assert again.spent.calls == len(lines) - received
    again.end(again.begin("d", ASKED, 1, RECKONED), "d", "answer", outcome())
    again.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("budget", "cap", "made"),
    [
        (Budget(max_calls=2), "budget.max_calls=2", 2),
        (Budget(max_tokens=250), "budget.max_tokens=250", 2),
        (Budget(max_money=4.0, price_input=1.0), "budget.max_money=4.0", 2),
        (Budget(max_calls=0), "budget.max_calls=0", 0),
    ],
)
def test_calls_under_way_are_held_against_the_caps(tmp_path: Path, budget: Budget, cap: str, made: int) -> None:
    ledger = Ledger(tmp_path / "calls.jsonl", budget)
    for number in range(made):
        ledger.begin(str(number), ASKED, 1, RECKONED)
    lines = (tmp_path / "calls.jsonl").read_text()
    with pytest.raises(CapReachedError, match=cap):
        ledger.begin("more", ASKED, 1, RECKONED)
    assert (tmp_path / "calls.jsonl").read_text() == lines


def test_what_failed_has_no_reply_and_what_was_refused_has(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "calls.jsonl", Budget())
    for status in Status:
        ledger.end(ledger.begin(status, ASKED, 1, RECKONED), status, "answer", outcome(status))
    assert {status for status in Status if ledger.reply(status)} == {Status.OK, Status.REFUSED, Status.UNPARSABLE}
    assert ledger.seen["answer"].calls == 3


def test_a_cache_is_open_in_one_process_only(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    ledger = Ledger(path, Budget())
    with pytest.raises(ReflexError, match=r"another process is writing into .*calls\.jsonl"):
        Ledger(path, Budget())
    ledger.close()
    path.write_bytes(b'{"torn')  # a file that is rewritten on opening is held as well
    ledger = Ledger(path, Budget())
    with pytest.raises(ReflexError, match="another process"):
        Ledger(path, Budget())
    ledger.close()


@pytest.mark.parametrize(
    "line", ['{"event": "sent"}', '{"a": 1}', '{"event": "received", "call": "7", "status": "ok"}']
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ReflexError, match=r"line 1 of .*calls\.jsonl is not of a cache of answers"):
        Ledger(path, Budget())
    assert path.read_text() == line + "\n"
    with pytest.raises(ReflexError, match="line 1"):  # and not locked
        Ledger(path, Budget())


def test_a_key_depends_on_everything_that_is_asked() -> None:
    asked = {"goal": "g", "images": ["a", "b"], "model": "m", "decoding": {"temperature": 0.0}}
    others = [
        asked | {"goal": "h"},
        asked | {"images": ["b", "a"]},
        asked | {"model": "n"},
        asked | {"decoding": {"temperature": 1.0}},
    ]
    assert len({call_key(one) for one in (asked, *others)}) == 5
    assert call_key(dict(reversed(asked.items()))) == call_key(asked)
