"""When a call may be made: a rate that is not exceeded, waits that grow, and what a server says about both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""
LONGEST_WAIT = 60.0
"""Seconds that doubling leads to."""


def back_off(attempt: int, spread: float, first: float = FIRST_WAIT) -> float:
    """Seconds to wait after attempt number `attempt` (from 1) failed.

    first * 2^(attempt - 1), at most `LONGEST_WAIT`, times a factor in [0.5, 1] that `spread` in [0, 1] chooses, so that
    clients that failed together do not come back together.
    """
    exponent = min(attempt - 1, 30)  # beyond, the bound holds anyway
    return min(first * 2.0**exponent, LONGEST_WAIT) * (0.5 + 0.5 * spread)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number or an HTTP date (RFC 9110); None where it says neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(seconds, 0.0) if seconds < float("inf") else None


class Pace:
    """Calls of several threads, not closer together than a rate allows, and none while a server wants a pause."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`per_minute` None: no rate of our own."""
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when the next call may be made."""
        while True:
            with self._lock:
                now = self._clock()
                if now >= self._next:
                    self._next = now + self._interval
                    return
                seconds = self._next - now
            self._sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Let no call begin for so long: the server said that there were too many."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)
