"""A worker process, seen from the parent: start it, send to it, hear from it or of its death, end it."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pickle import UnpicklingError
from typing import Any

from sim.pool.serve import Handler

START_SECONDS = 60.0
"""How long a new worker may take to import what it needs, however short its timeout."""

DEATH_SECONDS = 1.0
"""A dying process closes its socket a moment before its exit status can be read."""

CLOSE_SECONDS = 2.0
"""How long `shut_down` waits for workers to end by themselves, and again after SIGTERM, before the next harsher means.
"""

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",  # llvmpipe rasterises in the calling thread
}
"""One thread per worker: with a worker per core, more only take turns. Read by libraries when they load."""

_log = logging.getLogger(__name__)

_BOOTSTRAP = (
    "import json, sys; descriptor, sys.path[:] = json.loads(sys.argv[1]); "
    "from sim.pool.serve import main; main(descriptor)"
)


class WorkerProcess:
    """One worker process and its socket."""

    def __init__(
        self, index: int, make: Callable[..., Handler], arguments: Sequence[Any], timeout: float = math.inf
    ) -> None:
        """`make(*arguments)` gives what handles the commands, in the worker; it is importable by name. A worker that
        is silent for `timeout` seconds while an answer is awaited counts as dead."""
        self.index = index
        self.restarts = 0
        self._handler = (make, tuple(arguments))
        self.timeout = timeout
        self.start()

    def start(self) -> None:
        """Start a fresh interpreter. Neither the parent's main module nor its GL state is carried into it."""
        ours, theirs = socket.socketpair()
        with theirs:
            specification = json.dumps([theirs.fileno(), [str(entry) for entry in sys.path]])
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, specification],
                env={**os.environ, **WORKER_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a Ctrl-C at the terminal reaches the parent only
            )
        self.connection = Connection(ours.detach())
        self.ready = False
        self.expect_answer()
        self.send(self._handler)

    def expect_answer(self) -> None:
        """Count the timeout (longer for a worker that is still starting) from now until it is taken for dead."""
        self.deadline = time.monotonic() + (self.timeout if self.ready else max(self.timeout, START_SECONDS))

    def send(self, commands: Sequence[Any]) -> None:
        """Send commands. A dead worker is noticed when its answer is awaited, in one place only."""
        if not commands:
            return
        try:
            self.connection.send(commands)
        except OSError:
            _log.debug("worker %d is gone; noticed while sending", self.index)

    def receive(self) -> list[Any] | str:
        """Its next answers (none: it is ready), or in words how it ended."""
        try:
            answers: list[Any] = self.connection.recv()
        except (EOFError, OSError, UnpicklingError):
            return self.kill(DEATH_SECONDS)
        except BaseException:
            # An interrupt in the middle of a message: the rest of the stream makes no sense any more.
            self.kill()
            raise
        self.ready = True
        self.expect_answer()
        return answers

    def kill(self, patience: float = 0.0) -> str:
        """End the process after `patience` seconds to end by itself; returns in words how it ended."""
        self.connection.close()
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "was ended"
        return f"died of {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"

    @property
    def overdue(self) -> bool:
        """Whether it has been silent for too long."""
        return time.monotonic() > self.deadline and not self.connection.poll()


def receive(workers: Sequence[WorkerProcess]) -> Iterator[tuple[WorkerProcess, list[Any] | str]]:
    """Wait until some of the workers answer, die or keep silent for too long.

    Yields each of these with its answers, or in words how it ended; the process of such a one is gone.
    """
    by_connection = {worker.connection: worker for worker in workers}
    remaining = min(worker.deadline for worker in workers) - time.monotonic()
    for connection in wait(list(by_connection), None if math.isinf(remaining) else max(0.0, remaining)):
        worker = by_connection[connection]  # type: ignore[index]  # wait() returns members of what it was given
        yield worker, worker.receive()
    for worker in workers:
        if worker.overdue:
            worker.kill()
            yield worker, f"gave no answer for {worker.timeout:g} s"


def shut_down(workers: Sequence[WorkerProcess]) -> None:
    """End all workers: close their sockets and wait, then SIGTERM, then SIGKILL. Never blocks for long."""
    for worker in workers:
        worker.connection.close()  # the worker reads the end of its stream and leaves
    for end in (lambda process: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        deadline = time.monotonic() + CLOSE_SECONDS
        for worker in workers:
            if worker.process.poll() is None:
                end(worker.process)
        for worker in workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.debug("worker %d is still there", worker.index)
