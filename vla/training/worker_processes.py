"""Independent jobs over worker processes that may die: what a dead worker had is done again, and said."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sim.pool_process import WORKER_ENVIRONMENT
from vla.errors import ReflexError

MAX_FRUITLESS_DEATHS = 5
"""How often workers may die with not a single job done in between."""

_log = logging.getLogger(__name__)

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


@dataclass
class JobRunner(Generic[Job, Result]):
    """Runs jobs in processes. Spawned, because a forked process must not share a GL context."""

    function: Callable[[Job, bool], Result]
    """Does one job in a worker; the flag says that a worker died doing it before. Importable by name."""
    initializer: Callable[..., None]
    """Prepares a worker. Importable by name."""
    arguments: tuple[Any, ...]
    """Of the initialiser."""
    num_workers: int
    lost: set[Job] = field(default_factory=set)
    """Jobs that a worker died doing."""

    def run(self, outstanding: Callable[[], Sequence[Job]], on_result: Callable[[Job, Result], None]) -> None:
        """Do jobs until `outstanding()` names none; a result may add to them.

        Workers are started anew when one dies. Raises `ReflexError` when they die again and again with nothing done.
        """
        deaths = 0
        done = 0

        def count(job: Job, result: Result) -> None:
            nonlocal deaths, done
            deaths, done = 0, done + 1
            on_result(job, result)

        while True:
            try:
                self._run_until_death(outstanding, count)
                return
            except BrokenProcessPool as error:
                deaths += 1
                if deaths > MAX_FRUITLESS_DEATHS:
                    raise ReflexError(
                        f"worker processes died {deaths} times with nothing done in between (out of memory, or a "
                        "missing GL library: see the lines above, and vla doctor); what was done before is kept: run "
                        "the same command again, with fewer num_workers"
                    ) from error
                _log.warning("a worker process died; after %d jobs done, new workers do again what it had", done)

    def _run_until_death(
        self, outstanding: Callable[[], Sequence[Job]], on_result: Callable[[Job, Result], None]
    ) -> None:
        executor = ProcessPoolExecutor(
            self.num_workers,
            multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.initializer, self.arguments),
        )
        running: dict[Future[Result], Job] = {}
        try:
            while True:
                # Few at a time: whatever is handed out when a worker dies counts as lost with it.
                known = set(running.values())
                for job in outstanding():
                    if len(running) >= 2 * self.num_workers:
                        break
                    if job not in known:
                        running[executor.submit(self.function, job, job in self.lost)] = job
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()
                    on_result(running.pop(future), result)
        except BrokenProcessPool:
            # A result that arrived before the death counts; only what never came back is lost.
            for future, job in running.items():
                if future.done() and future.exception() is None:
                    on_result(job, future.result())
                else:
                    self.lost.add(job)
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(initializer: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Prepare this process as every worker is; the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(WORKER_ENVIRONMENT)
    initializer(*arguments)
