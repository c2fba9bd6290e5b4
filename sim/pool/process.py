"""One worker process of the environment pool, seen from the parent: start it, send to it, end it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from sim.pool.worker import Command

START_SECONDS = 60.0
"""How long a new worker may take to import what it needs, however short the pool's own timeout."""

DEATH_SECONDS = 1.0
"""A dying process closes its socket a moment before its exit status can be read."""

CLOSE_SECONDS = 2.0
"""How long `close` waits for a worker to end by itself, and again after SIGTERM, before the next harsher means."""

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
    "import json, sys; parent_path, arguments = json.loads(sys.argv[1]); sys.path[:] = parent_path; "
    "from sim.pool.worker import main; main(*arguments)"
)


class WorkerProcess:
    """One worker process and its socket."""

    def __init__(self, index: int, arguments: Sequence[Any]) -> None:
        self.index = index
        self.restarts = 0
        self._arguments = list(arguments)
        self.start()

    def start(self) -> None:
        """Start a fresh interpreter. Neither the parent's main module nor its GL state is carried into it."""
        ours, theirs = socket.socketpair()
        with theirs:
            specification = json.dumps([[str(entry) for entry in sys.path], [theirs.fileno(), *self._arguments]])
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, specification],
                env={**os.environ, **WORKER_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a Ctrl-C at the terminal reaches the parent only
            )
        self.connection = Connection(ours.detach())
        self.ready = False
        self.deadline = 0.0

    def expect_answer(self, timeout: float) -> None:
        """Count `timeout` seconds (more for a worker that is still starting) from now until it is taken for dead."""
        self.deadline = time.monotonic() + (timeout if self.ready else max(timeout, START_SECONDS))

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands. A dead worker is noticed when its reply is awaited, in one place only."""
        if not commands:
            return
        try:
            self.connection.send(commands)
        except OSError:
            _log.debug("worker %d is gone; noticed while sending", self.index)

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
