"""A policy to serve whose answers say what it saw, and peers of a server, down to the bytes of their frames."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import Observation, ObservationBatch
from sim.embodiments import PANDA_EEF
from vla.data.feature_map import SAME_NAMES
from vla.errors import ReflexError
from vla.policies.observations import greedy_chunk
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling

SIDE = 8
ROBOT = PANDA_EEF.with_image_size(SIDE)
PATIENCE_S = 30.0
"""Of tests that wait for something that happens."""


class EchoPolicy:
    """Its actions are the state's first number.

    Some instructions are special: "fail" raises, "break" is a defect, "diverge" gives NaN, "wait" waits for the gate.
    """

    policy_id = "echo"
    feature_map = SAME_NAMES

    def __init__(self) -> None:
        self.spec = PolicySpec(ROBOT, uses_state=True, chunk_horizon=4, execute_steps=2, unit_steps=())
        self.batches: list[int] = []
        self.gate, self.entered = threading.Event(), threading.Event()

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        assert sampling.greedy
        instructions = observations["instruction"]
        self.batches.append(len(instructions))
        if "fail" in instructions:
            raise ReflexError("the policy does not want to")
        if "break" in instructions:
            raise ZeroDivisionError("a defect")
        if "wait" in instructions:
            self.entered.set()
            assert self.gate.wait(PATIENCE_S)
        if "diverge" in instructions:
            observations["state"] = observations["state"] * np.nan
        actions = np.repeat(observations["state"][:, None, :1], 4, axis=1).repeat(7, axis=2)
        empty = np.zeros((len(actions), 0), np.float32)
        return PolicyOutput(actions / np.float32(1000), empty, empty)

    def select_action(self, observation: Observation) -> NDArray[np.float32]:
        return greedy_chunk(self, observation)

    def save_pretrained(self, folder: Any) -> None:
        raise NotImplementedError


def observation(number: float = 1, instruction: str = "go") -> Observation:
    """One whose answer is `number` thousandths."""
    state = np.zeros(8, np.float32)
    state[0] = number
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    return Observation(images={"image": picture, "wrist_image": picture}, state=state, instruction=instruction)


def fetch(address: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of a plain HTTP request to a server's port."""
    request = urllib.request.Request(address.replace("ws://", "http://") + path, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class RawPeer:
    """A connection that is a websocket, byte by byte, past the first frame."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("ws://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._stream = self.socket.makefile("rb")
        self.send(
            (
                f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        assert self._stream.readline().startswith(b"HTTP/1.1 101")
        while self._stream.readline().strip():
            pass
        assert self.receive()[0] == BINARY

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """What kind of frame the server sends next, and its content; (0, b"") after the end."""
        try:
            head = self._stream.read(2)
            if len(head) < 2:
                return 0, b""
            more = {126: 2, 127: 8}.get(head[1], 0)
            length = int.from_bytes(self._stream.read(more), "big") if more else head[1]
            return head[0] & 15, self._stream.read(length)
        except ConnectionResetError:
            return 0, b""


TEXT, BINARY, CLOSE = 1, 2, 8


def frame(content: bytes, claimed: int | None = None, opcode: int = BINARY) -> bytes:
    """A client's frame with the mask 0, which may claim another length than it has."""
    head = bytes([0x80 | opcode, 0xFF]) + (len(content) if claimed is None else claimed).to_bytes(8, "big")
    return head + b"\0\0\0\0" + content
