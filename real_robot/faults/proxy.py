"""A network between a robot and its policy server that can be slow, or fall silent without closing."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from typing import Self

_CHUNK = 65536
_LOOK_EVERY = 0.005
"""Seconds between looks at whether it is still silent."""


class Proxy:
    """Forwards connections of a port of its own to another one of this machine. A context manager."""

    def __init__(self, target: int) -> None:
        """`target`: the server's port."""
        self.latency = 0.0
        """Seconds by which the server's bytes come later."""
        self.silent = False
        """Whether nothing is forwarded and nothing is closed: a connection of which only one half is left."""
        self._target, self._sockets, self._closed = target, list[socket.socket](), False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        """Where clients connect."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        for opened in (self._listener, *self._sockets):
            _shut(opened)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                continue  # the server is gone, or this proxy is
            self._sockets += [client, server]
            later: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for work, parts in ((self._forward, (client, server)), (self._listen, (server, later)),
                                (self._speak, (later, client))):  # fmt: skip
                threading.Thread(target=work, args=parts, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        """What the client says, at once."""
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._wait_while_silent()
                sink.sendall(data)
        _shut(sink)

    def _listen(self, server: socket.socket, later: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        """What the server says, with the time at which it is passed on; nothing means that it closed."""
        data = b"something"
        while data:
            try:
                data = server.recv(_CHUNK)
            except OSError:
                data = b""
            later.put((time.monotonic() + self.latency, data))

    def _speak(self, later: queue.SimpleQueue[tuple[float, bytes]], client: socket.socket) -> None:
        with suppress(OSError):
            while (entry := later.get())[1]:
                time.sleep(max(0.0, entry[0] - time.monotonic()))
                self._wait_while_silent()
                client.sendall(entry[1])
        _shut(client)

    def _wait_while_silent(self) -> None:
        while self.silent and not self._closed:
            time.sleep(_LOOK_EVERY)


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()
