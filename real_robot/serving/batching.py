"""Decisions off the event loop: one thread, which takes the requests that wait and decides on them together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.errors import ReflexError

_log = logging.getLogger(__name__)


CLOSING = "the server is shutting down"


class BusyError(ReflexError):
    """As many requests wait as may."""


class LateError(ReflexError):
    """A request waited longer than its deadline."""


class ClosingError(ReflexError):
    """No request is taken any more."""


@dataclass(frozen=True)
class Decided:
    """What came of a request."""

    actions: NDArray[np.float32]
    """[B, H, A] of the request's own observations."""
    queue_s: float
    """Seconds that it waited."""
    infer_s: float
    """Seconds that the policy took."""
    batch: int
    """Observations that were decided on together."""


@dataclass
class _Job:
    observations: ObservationBatch
    whole: bool
    deadline: float
    future: Future[Decided]
    arrived: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        return len(self.observations["instruction"])


class Batcher:
    """Decides on single observations together, as many as wait, and on a batch by itself.

    A batch that a client sent is never joined with anything: the numbers of its decision then depend on nothing but
    itself.
    """

    def __init__(
        self,
        decide: Callable[[ObservationBatch], NDArray[np.float32]],
        *,
        max_batch: int,
        window_s: float,
        queue_limit: int,
        clients: Callable[[], int] = lambda: 0,
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """Start the thread.

        Args:
            decide: observations of B -> actions [B, H, A]; called on the thread only.
            max_batch: most observations that are joined.
            window_s: how long the first request waits for others, from its arrival on.
            queue_limit: most requests that wait.
            clients: how many can have a request waiting at present; once all have, nobody is waited for. 0 is unknown.
            on_batch: told how many rows each decision had and how long it took.
        """
        self._decide, self._max_batch, self._window_s = decide, max_batch, window_s
        self._queue_limit, self._clients, self._on_batch = queue_limit, clients, on_batch
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many requests wait."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether it still decides."""
        return self._thread.is_alive()

    def submit(self, observations: ObservationBatch, whole: bool, deadline: float) -> Future[Decided]:
        """Have it decided by `deadline` (`time.monotonic()`). `whole` keeps others out of its batch.

        The future raises what the policy raises, or `LateError`. Raises `BusyError` or `ClosingError`.
        """
        job = _Job(observations, whole, deadline, Future())
        with self._changed:
            if self._closing:
                raise ClosingError(CLOSING)
            if len(self._waiting) >= self._queue_limit:  # those whose deadline has passed are in nobody's way
                self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
            if len(self._waiting) >= self._queue_limit:
                raise BusyError(
                    f"the server is busy: {len(self._waiting)} requests wait (queue_limit); try again later"
                )
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self, timeout_s: float) -> bool:
        """Take no more requests, decide on those that wait, and end the thread; whether it ended in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while jobs := self._next():
            now = time.monotonic()
            ready = []
            for job in jobs:
                if not job.future.set_running_or_notify_cancel():
                    continue  # whoever asked is gone
                if now > job.deadline:
                    job.future.set_exception(
                        LateError(f"the request waited {now - job.arrived:.1f} s, past its deadline")
                    )
                else:
                    ready.append(job)
            if ready:
                self._answer(ready)

    def _next(self) -> list[_Job]:
        """The jobs to decide on together; none when it is closing and none is left."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if not self._waiting:
                return []
            first = self._waiting[0]
            while not self._is_full() and (left := first.arrived + self._window_s - time.monotonic()) > 0:
                self._changed.wait(left)
            jobs = [self._waiting.popleft()]
            while self._waiting and not jobs[0].whole and len(jobs) < self._max_batch and not self._waiting[0].whole:
                jobs.append(self._waiting.popleft())
            return jobs

    def _is_full(self) -> bool:
        """Whether waiting for others would bring nothing."""
        count = len(self._waiting)
        return self._closing or self._waiting[0].whole or count >= self._max_batch or 0 < self._clients() <= count

    def _answer(self, jobs: list[_Job]) -> None:
        started = time.monotonic()
        rows = sum(job.rows for job in jobs)
        try:
            joined = jobs[0].observations if len(jobs) == 1 else _join([job.observations for job in jobs])
            actions = self._decide(joined)
            if len(actions) != rows:
                raise ReflexError(f"the policy decided for {len(actions)} observations of {rows}")
        except Exception as error:  # noqa: BLE001 (it is the answer to whoever asked)
            if len(jobs) > 1:
                for job in jobs:  # by itself, so that it fails for whoever is the cause and for nobody else
                    self._answer([job])
                return
            if not isinstance(error, ReflexError):
                _log.exception("the policy failed")
            jobs[0].future.set_exception(error)
            return
        seconds = time.monotonic() - started
        self._on_batch(rows, seconds)
        first = 0
        for job in jobs:
            own = actions[first : first + job.rows]
            first += job.rows
            job.future.set_result(Decided(own, started - job.arrived, seconds, rows))


def _join(parts: list[ObservationBatch]) -> ObservationBatch:
    return ObservationBatch(
        images={name: np.concatenate([part["images"][name] for part in parts]) for name in parts[0]["images"]},
        state=np.concatenate([part["state"] for part in parts]),
        instruction=[instruction for part in parts for instruction in part["instruction"]],
    )
