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

from sim.pool.parent import end_with_parent
from sim.pool.process import WORKER_ENVIRONMENT
from vla.errors import ReflexError

MAX_FRUITLESS_DEATHS = 5
"""How often workers may die with not a single job done in between, for each of them."""

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

        A worker that dies is started anew and does its job again; the others go on meanwhile. Raises `ReflexError` when
        workers die again and again with nothing done.
        """
        # An executor for each worker: one that loses a process gives up all that it has.
        workers = [self._start() for _ in range(self.num_workers)]
        running: dict[Future[Result], tuple[int, Job]] = {}
        deaths = done = 0
        try:
            while True:
                self._hand_out(workers, running, outstanding())
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    index, job = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool as error:
                        deaths += 1
                        self.lost.add(job)
                        self._give_up_after(deaths, error)
                        _log.warning("a worker process died; after %d jobs done, a new one does its job again", done)
                        workers[index] = self._start()
                        continue
                    deaths, done = 0, done + 1
                    on_result(job, result)
        finally:
            for worker in workers:
                worker.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_start_worker, initargs=(self.initializer, self.arguments))

    def _hand_out(
        self, workers: list[ProcessPoolExecutor], running: dict[Future[Result], tuple[int, Job]], jobs: Sequence[Job]
    ) -> None:
        """A job to each worker that has none: what is handed out when a worker dies counts as lost with it."""
        busy, known = {index for index, _ in running.values()}, {job for _, job in running.values()}
        free = [index for index in range(len(workers)) if index not in busy]
        for job in jobs:
            if not free:
                return
            if job not in known:
                index = free.pop(0)
                try:
                    future = workers[index].submit(self.function, job, job in self.lost)
                except BrokenProcessPool:  # it died with nothing to do
                    workers[index] = self._start()
                    future = workers[index].submit(self.function, job, job in self.lost)
                running[future] = index, job

    def _give_up_after(self, deaths: int, error: BrokenProcessPool) -> None:
        if deaths > MAX_FRUITLESS_DEATHS * self.num_workers:
            raise ReflexError(
                f"worker processes died {deaths} times with nothing done in between (out of memory, or a missing GL "
                "library: see the lines above, and vla doctor); what was done before is kept: run the same command "
                "again, with fewer num_workers"
            ) from error


def _start_worker(initializer: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Prepare this process as every worker is; the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()  # an executor's workers wait for jobs for ever: they hold the queue's other end themselves
    os.environ.update(WORKER_ENVIRONMENT)
    initializer(*arguments)
