"""A network that is slow, falls silent, or loses its server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from real_robot.faults.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[tuple[int, list[socket.socket]]]:
    """A server that says again what it hears: its port, and its connections."""
    listener, opened = socket.create_server(("127.0.0.1", 0)), list[socket.socket]()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            opened.append(connection)
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            connection.sendall(data)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], opened
    listener.close()


def ask(connection: socket.socket, text: bytes) -> float:
    """Seconds until it is said again."""
    began = time.monotonic()
    connection.sendall(text)
    heard = b""
    while len(heard) < len(text):
        heard += connection.recv(4096)
    assert heard == text
    return time.monotonic() - began


def test_it_forwards_late_and_in_order(echo: tuple[int, list[socket.socket]]) -> None:
    with Proxy(echo[0]) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5.0) as client:
        assert ask(client, b"at once") < 0.15
        proxy.latency = 0.2
        assert 0.2 <= ask(client, b"x" * 100_000) < 1.0
        proxy.latency = 0.0
        assert ask(client, b"at once again") < 0.15


def test_a_silent_one_closes_nothing_and_loses_nothing(echo: tuple[int, list[socket.socket]]) -> None:
    with Proxy(echo[0]) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 0.2) as client:
        ask(client, b"first")
        proxy.silent = True
        client.sendall(b"later")
        with pytest.raises(TimeoutError):
            client.recv(10)
        proxy.silent = False
        client.settimeout(5.0)
        assert client.recv(10) == b"later"


def test_a_server_that_closes_is_noticed(echo: tuple[int, list[socket.socket]]) -> None:
    with Proxy(echo[0]) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5.0) as client:
        ask(client, b"first")
        echo[1][0].shutdown(socket.SHUT_RDWR)
        assert client.recv(10) == b""
