"""What a page says of the watchdog, read from its shared numbers and its log, without asking the control loop."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from real_robot.watchdog.guard import SILENT
from real_robot.watchdog.operator import WORDS
from real_robot.watchdog.pulse import Phase, SharedPulse, WatchdogState
from real_robot.watchdog.settings import WatchdogSettings
from vla.run.jsonl import read_lines

VERDICTS = ("stopped", "not_verified")


class NobodyListens(Exception):
    """An order that reached nobody. The message says what to do."""


class WatchdogView:
    """One run's watchdog, seen from a third process: it and the loop may both be dead."""

    def __init__(self, settings: WatchdogSettings) -> None:
        self._settings = settings
        self._pulse = SharedPulse(settings.pulse)
        self._size = -1
        self._events: list[dict[str, Any]] = []

    def state(self) -> dict[str, Any]:
        """JSON-ready: "state" in a word, ages in seconds, and what it did, if it did anything."""
        now = time.monotonic()
        events = self._read()
        tripped = next((event for event in events if event["event"] == "tripped"), None)
        verdict = next((event for event in events if event["event"] in VERDICTS), None)
        armed = self._pulse.phase is Phase.ARMED and tripped is None
        alive = now - self._pulse.last_alive
        return {
            "state": self._word(tripped, verdict, alive),
            "loop_silent": now - self._pulse.last_beat if armed else None,
            "timeout": self._settings.timeout if self._settings.arm is not None else None,
            "cause": None if tripped is None else tripped["cause"],
            "verdict": None if verdict is None else verdict["event"],
            "reaction": self._settings.reaction,
            "simulated": self._settings.arm is None,
            "log": str(self._settings.log),
        }

    def _word(self, tripped: dict[str, Any] | None, verdict: dict[str, Any] | None, alive: float) -> str:
        if verdict is not None:
            return "stopped" if verdict["event"] == "stopped" else "not verified"
        if tripped is not None:
            return "stopping the arm"
        if self._pulse.state is WatchdogState.STARTING:
            return "starting"
        if self._pulse.phase is Phase.FINISHED:
            return "ended"
        if alive > SILENT:
            return "does not answer"
        return {Phase.STARTING: "ready", Phase.ARMED: "watching", Phase.RESTING: "watching"}.get(
            self._pulse.phase, "arm released"
        )

    def _read(self) -> list[dict[str, Any]]:
        """The log's lines; read again only when it has grown."""
        try:
            size = self._settings.log.stat().st_size
        except FileNotFoundError:
            return self._events
        if size != self._size:
            self._events, self._size = read_lines(self._settings.log), size
        return self._events


def order(pipe: Path | None, word: str) -> None:
    """Write an order of the operator's into the watchdog's pipe. It never waits.

    Raises `NobodyListens` where no watchdog reads it, and `ValueError` for a word that is no order.
    """
    if word not in WORDS:
        raise ValueError(f"{word!r} is no order; they are {', '.join(WORDS)}")
    if pipe is None:
        raise NobodyListens("this run's watchdog has no pipe")
    try:
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO):
            raise
        raise NobodyListens("no watchdog is listening: it has not started yet, or has ended") from error
    try:
        os.write(descriptor, f"{word}\n".encode())
    except (BlockingIOError, BrokenPipeError) as error:
        raise NobodyListens("the watchdog does not read its pipe") from error
    finally:
        os.close(descriptor)
