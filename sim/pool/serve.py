"""The entry of every worker process: take commands from a socket, run them in order, answer each one.

What runs them is made in the worker by a function that the first message names; see `Handler`.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, Protocol

ANSWER_SECONDS = 5.0
"""A worker busy for longer sends what it has, so that it is not taken for dead."""

CHECK_SECONDS = 1.0
"""How often a worker looks whether its parent still exists."""

EXIT_GRACE_SECONDS = 5.0
"""How long a worker may go on with its present command after its parent went away."""


class Handler(Protocol):
    """What a worker process does."""

    def handle(self, command: Any) -> Any:
        """Run one command; returns the answer, or None where there is none."""

    def close(self) -> None:
        """Free what it holds; called when the parent wants no more."""


def main(descriptor: int) -> None:
    """Serve commands from the socket `descriptor` until the parent closes it or dies.

    The first message is `(make, arguments)`: `make(*arguments)` gives the `Handler`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = Connection(descriptor)
    batches: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    stopping = threading.Event()
    # A process forked from the parent can hold its end of the socket open after the parent's death.
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    handler: Handler | None = None
    try:
        make, arguments = connection.recv()
        handler = make(*arguments)
        # A thread of its own reads, so that a parent that sends never waits for a worker that sends, and so that the
        # parent's death is noticed while a command hangs.
        threading.Thread(target=_read_commands, args=(connection, batches, stopping), daemon=True).start()
        connection.send([])  # ready
        while not stopping.is_set():
            _answer(connection, handler, batches.get(), stopping)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent went away: nobody is left to tell
    if handler is not None:
        handler.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # interpreter teardown would destroy GL contexts in an arbitrary order, noisily


def _answer(connection: Connection, handler: Handler, batch: list[Any], stopping: threading.Event) -> None:
    """Run commands in order; their answers go out in one message, or more when they take long."""
    answers: list[Any] = []
    last_sent = time.monotonic()
    for command in batch:
        if stopping.is_set():
            return
        answer = handler.handle(command)
        if answer is not None:
            answers.append(answer)
        if time.monotonic() - last_sent > ANSWER_SECONDS:
            connection.send(answers)
            answers, last_sent = [], time.monotonic()
    connection.send(answers)


def _read_commands(connection: Connection, batches: queue.SimpleQueue[list[Any]], stopping: threading.Event) -> None:
    try:
        while True:
            batches.put(connection.recv())
    except (EOFError, OSError):
        stopping.set()
        batches.put([])
    time.sleep(EXIT_GRACE_SECONDS)
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent has ended, however that was: a killed parent closes nothing."""
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os._exit(0)
