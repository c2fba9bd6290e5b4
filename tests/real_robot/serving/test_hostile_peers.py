"""Peers that break the rules: the server lives, and whoever keeps them is answered meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real_robot.serving.server import ServerSettings, serving
from sim.contract import stack_observations
from tests.real_robot.serving.peers import (
    BINARY,
    CLOSE,
    PATIENCE_S,
    TEXT,
    EchoPolicy,
    RawPeer,
    fetch,
    frame,
    observation,
)
from vla.policies.remote.codec import encode
from vla.policies.remote.policy import RemotePolicy

REQUEST = encode(dict(observation(5)))
HEAD = 12
"""Bytes that a frame with this length and the mask begin with."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    limits = ServerSettings(port=0, batch_window_ms=0, max_message_megabytes=0.1, max_connections=200)
    with serving(EchoPolicy(), limits) as served:
        yield served


@pytest.fixture(scope="module")
def good(address: str) -> Iterator[RemotePolicy]:
    policy = RemotePolicy.open(f"{address}?patience_s=0&timeout_s=10")
    yield policy
    policy.close()


def is_served(good: RemotePolicy) -> bool:
    return bool(good.act(stack_observations([observation(8)])).actions[0, 0, 0] == np.float32(0.008))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(REQUEST) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(REQUEST)),
)
def test_each_request_with_wrong_bytes_gets_one_answer(
    address: str, good: RemotePolicy, edits: list[tuple[int, int]], length: int
) -> None:
    message = bytearray(REQUEST)
    for place, value in edits:
        message[place] = value
    with RawPeer(address) as peer:
        for content in (bytes(message), bytes(message[:length]), REQUEST):
            peer.send(frame(content))
            kind, answer = peer.receive()
            assert kind in (TEXT, BINARY)
            if kind == TEXT:
                assert answer and b"\n" not in answer and b"Traceback" not in answer
        assert kind == BINARY  # the connection was usable throughout
    assert is_served(good)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_bytes_that_are_no_frames(address: str, good: RemotePolicy, data: bytes, greeted: bool) -> None:
    host, port = address.removeprefix("ws://").rsplit(":", 1)
    if greeted:
        with RawPeer(address) as peer:
            peer.send(data)
    else:
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as stranger:
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            stranger.recv(1000)
    assert is_served(good)


def test_half_a_frame_holds_up_nobody(address: str, good: RemotePolicy) -> None:
    whole = frame(REQUEST)
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context(RawPeer(address)).send(whole[: HEAD + number * 20])
        for _ in range(5):
            assert is_served(good)
    with RawPeer(address) as slow:
        for part in (whole[:5], whole[5:50], whole[50:]):
            slow.send(part)
            assert is_served(good)
        kind, answer = slow.receive()
        assert kind == BINARY and b"actions" in answer


@pytest.mark.parametrize("claimed", [200_000, 1 << 40, (1 << 63) - 1, 1 << 63])
def test_a_frame_that_says_it_is_huge_is_not_waited_for(address: str, good: RemotePolicy, claimed: int) -> None:
    with RawPeer(address) as peer:
        peer.send(frame(b"", claimed=claimed))
        kind, reason = peer.receive()
    assert kind == CLOSE and int.from_bytes(reason[:2], "big") in (1009, 1002)  # too big, or no such length
    assert is_served(good)


def test_who_reads_no_answers_holds_up_nobody(address: str, good: RemotePolicy) -> None:
    with RawPeer(address) as peer:
        for _ in range(300):
            peer.send(frame(REQUEST))
        assert is_served(good)


def test_bombs_do_not_become_memory(address: str, good: RemotePolicy) -> None:
    lists = b"\xdc\xff\xff" + b"\x90" * 65535
    with RawPeer(address) as peer:
        for bomb in (
            lists,
            b"\x91" * 90_000,
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
        ):
            peer.send(frame(bomb))
            kind, answer = peer.receive()
            assert kind == TEXT and (b"not msgpack" in answer or b"dictionaries and lists" in answer)
    assert is_served(good)


def test_they_were_counted(address: str, good: RemotePolicy) -> None:
    assert is_served(good)
    status, text = fetch(address, "/metrics")
    assert status == 200 and 'reflex_errors_total{kind="malformed"}' in text
    assert 'kind="policy"' not in text  # nothing that peers sent was a defect here
