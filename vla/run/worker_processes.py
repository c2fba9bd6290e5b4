"""Independent jobs over worker processes that may die: what a dead worker had is done again, and said."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from sim.pool.process import WorkerProcess, receive, shut_down
from vla.errors import ReflexError

MAX_FRUITLESS_DEATHS = 5
"""How often workers may die with not a single job done in between, for each of them."""

_log = logging.getLogger(__name__)

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


class JobWorker(Protocol):
    """Does jobs, one after another."""

    def run(self, job: Any, restarted: bool) -> Any:
        """Do one job and return its result; `restarted` says that a worker died doing it before."""

    def close(self) -> None:
        """Free what it holds."""


def run_jobs(
    make: Callable[..., JobWorker],
    arguments: tuple[Any, ...],
    num_workers: int,
    jobs: Iterable[Job],
    on_result: Callable[[Job, Result], Sequence[Job] | None],
) -> None:
    """Do jobs in processes of their own; `on_result(job, result)` may return jobs to do next.

    `make(*arguments)`, importable by name, makes the `JobWorker` of each process; with 0 workers there is one, in this
    process. A worker process that dies is started anew and does its job again; the others go on meanwhile. Raises what
    a job raises, and `ReflexError` when workers die again and again with nothing done.
    """
    waiting = deque(jobs)
    if num_workers == 0:
        _run_here(make(*arguments), waiting, on_result)
        return
    count = min(num_workers, len(waiting))
    workers = [WorkerProcess(index, _JobHandler, (make, arguments)) for index in range(count)]
    running: dict[WorkerProcess, Job] = {}
    lost: set[Job] = set()
    deaths = done = 0
    try:
        while waiting or running:
            # A job to each worker that has none: what is handed out when a worker dies counts as lost with it.
            for worker in workers:
                if waiting and worker not in running:
                    running[worker] = job = waiting.popleft()
                    worker.send([(job, job in lost)])
            for worker, answers in receive(list(running)):
                if isinstance(answers, str):
                    deaths += 1
                    _give_up_after(deaths, count)
                    _log.warning(
                        "a worker process died (it %s); after %d jobs done, a new one does its job again", answers, done
                    )
                    waiting.appendleft(running.pop(worker))
                    lost.add(waiting[0])
                    worker.start()
                    continue
                for result, error in answers:
                    if error is not None:
                        raise error
                    deaths, done = 0, done + 1
                    waiting.extendleft(on_result(running.pop(worker), result) or ())
    finally:
        shut_down(workers)


def _run_here(worker: JobWorker, waiting: deque[Job], on_result: Callable[[Job, Result], Sequence[Job] | None]) -> None:
    try:
        while waiting:
            job = waiting.popleft()
            waiting.extendleft(on_result(job, worker.run(job, False)) or ())
    finally:
        worker.close()


def _give_up_after(deaths: int, num_workers: int) -> None:
    if deaths > MAX_FRUITLESS_DEATHS * num_workers:
        raise ReflexError(
            f"worker processes died {deaths} times with nothing done in between (out of memory, or a missing GL "
            "library: see the lines above, and vla doctor); what was done before is kept: run the same command "
            "again, with fewer num_workers"
        )


class _JobHandler:
    """Does jobs in a worker process; an exception is raised again in the parent, with the worker's traceback noted."""

    def __init__(self, make: Callable[..., JobWorker], arguments: tuple[Any, ...]) -> None:
        self._make, self._arguments = make, arguments
        self._worker: JobWorker | None = None

    def handle(self, command: tuple[Any, bool]) -> tuple[Any, Exception | None]:
        try:
            if self._worker is None:
                self._worker = self._make(*self._arguments)
            return self._worker.run(*command), None
        except Exception as error:  # noqa: BLE001 - it is raised again where the answer is read
            error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
            return None, error

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
