"""The cache of answers: every call is written down before it is made and after it was answered.

A JSON Lines file that is only appended to, each line flushed to the disk before anything else happens:

- `sent`, before a call: its key, what was asked, and what it is reckoned to cost;
- `received`, after it: the reply or what went wrong, tokens, money, seconds.

An answer that has a `received` line is never asked for again. A `sent` line without one was under way when the process
died: it may have been paid for, so it is counted against the caps as reckoned, and the question is asked again. Keys
are hashes of everything that an answer depends on (`call_key`), so one cache can serve many runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.errors import ReflexError, writing
from vla.offline.labels.budget import Budget, Cost, Seen
from vla.offline.preferences import Status
from vla.run.files import sync
from vla.run.jsonl import append_lines, drop_torn_line, read_lines
from vla.run.run_folder import lock

FINAL = (Status.OK, Status.REFUSED, Status.UNPARSABLE)
"""The model replied: it would say the same again."""


class CapReachedError(Exception):
    """Another call would go beyond a cap; the message names it."""


def call_key(asked: Mapping[str, Any]) -> str:
    """SHA-256 of what is asked: pictures, goal, prompt, model, decoding, picture size, order and stage."""
    return hashlib.sha256(json.dumps(dict(asked), sort_keys=True).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Recorded:
    """A reply in the cache."""

    status: Status
    """Of the call: `UNPARSABLE` only for a last call."""
    text: str
    model: str
    """Who said to have answered."""
    probability_second: float | None


class Ledger:
    """The cache, open for writing by this process alone. Safe to use from several threads."""

    def __init__(self, path: Path, budget: Budget) -> None:
        """Open it, or begin it.

        Raises:
            ReflexError: another process has it open, a line is damaged, or it cannot be written.
        """
        self.path, self.budget = path, budget
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self._descriptor: int | None = lock(path)
        drop_torn_line(path)
        if path.stat().st_ino != os.fstat(self._descriptor).st_ino:  # it was rewritten, and the lock is of the old file
            os.close(self._descriptor)
            self._descriptor = lock(path)
        self._mutex = threading.Lock()
        self._replies: dict[str, Recorded] = {}
        self._open: dict[str, Cost] = {}
        self.spent = Cost()
        """By all calls so far; those under way as reckoned."""
        self.seen: dict[str, Seen] = {}
        """By stage, what answered calls took."""
        self.lost = 0
        """Calls of earlier processes of which nothing is known but that they began."""
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def reply(self, key: str) -> Recorded | None:
        """The reply to what has this key, if it was received."""
        with self._mutex:
            return self._replies.get(key)

    def begin(self, key: str, asked: Mapping[str, Any], attempt: int, reckoned: Cost) -> str:
        """Write down that a call is about to be made; returns its number.

        Raises:
            CapReachedError: with the calls under way it could go beyond a cap. Nothing is written.
        """
        with self._mutex:
            after = self.spent + reckoned
            if cap := after.cap_exceeded(self.budget):
                raise CapReachedError(cap)
            call = str(self.spent.calls + 1)
            self._append(
                {
                    "event": "sent",
                    "call": call,
                    "key": key,
                    **asked,
                    "attempt": attempt,
                    "tokens": reckoned.tokens,
                    "money": reckoned.money,
                    "at": time.time(),
                }
            )
            self.spent = after
            self._open[call] = reckoned
            return call

    def end(self, call: str, key: str, stage: str, outcome: Mapping[str, Any]) -> None:
        """Write down what came of a call; `outcome` has status, text, model and so on, as `_received` reads them."""
        line = {"event": "received", "call": call, "key": key, "stage": stage, **outcome, "at": time.time()}
        with self._mutex:
            self._append(line)
            self._received(line)

    def close(self) -> None:
        """Let another process have the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, line: dict[str, Any]) -> None:
        append_lines(self.path, [line])
        with writing(self.path):
            sync(self.path)

    def _load(self) -> None:
        for number, line in enumerate(read_lines(self.path), start=1):
            try:
                if line["event"] == "sent":
                    reckoned = Cost(1, int(line["tokens"]), float(line["money"]))
                    self.spent += reckoned
                    self._open[line["call"]] = reckoned
                else:
                    self._received(line)
            except (KeyError, TypeError, ValueError) as error:
                raise ReflexError(
                    f"line {number} of {self.path} is not of a cache of answers ({error}); choose another cache, or "
                    "delete that line"
                ) from error
        self.lost = len(self._open)
        self._open.clear()

    def _received(self, line: Mapping[str, Any]) -> None:
        """Replace what a call was reckoned to cost by what it cost, and remember its reply."""
        status = Status(line["status"])
        reckoned = self._open.pop(line["call"])
        self.spent += Cost(1, int(line["input_tokens"] + line["output_tokens"]), float(line["money"])) - reckoned
        if status not in FINAL:
            return
        if line["input_tokens"]:  # a filter that let nothing through to the model counts nothing
            self.seen.setdefault(line["stage"], Seen()).add(int(line["input_tokens"]), int(line["output_tokens"]))
        self._replies[line["key"]] = Recorded(status, line["text"], line["model"], line.get("probability_second"))
