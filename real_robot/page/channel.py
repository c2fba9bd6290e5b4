"""From the control loop to the page's process, without ever waiting.

Messages go through a socket of the kernel, whose buffer has room for a few seconds of control steps; one that finds no
room is dropped and counted. Pictures are too large for that: the newest of each camera lies in memory that both
processes map, and is only copied there while somebody looks.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Camera

COPY_EVERY = 0.095
"""Seconds between two copies of a camera's pictures: a page shows ten a second."""
MOST_KEPT = 100
"""Messages that must not be lost and wait for room."""
LARGEST = 1 << 18
"""Bytes of a message."""


class Sender:
    """The loop's end of the socket. No method waits, and none raises when the other end is gone or asleep."""

    def __init__(self, channel: socket.socket) -> None:
        """`channel` keeps messages apart (SOCK_SEQPACKET)."""
        channel.setblocking(False)
        self._channel = channel
        self._waiting: deque[bytes] = deque(maxlen=MOST_KEPT)
        self.dropped = 0
        """Messages that found no room."""

    def send(self, message: Mapping[str, Any], keep: bool = False) -> None:
        """Hand a message over; one to `keep` is tried again before later ones, others are dropped and counted."""
        while self._waiting:
            if not self._sent(self._waiting[0]):
                break
            self._waiting.popleft()
        data = json.dumps(message).encode()
        if not self._waiting and self._sent(data):
            return
        if keep:
            self._waiting.append(data)
        else:
            self.dropped += 1

    def _sent(self, data: bytes) -> bool:
        try:
            self._channel.send(data)
        except OSError:  # no room, or nobody there: either way the loop goes on, and `dropped` says so
            return False
        return True

    def close(self) -> None:
        """The other end reads what is there, and then that nothing follows."""
        self._channel.close()


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message; None when nothing follows."""
    data = channel.recv(LARGEST)
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    return message


class SharedPictures:
    """The newest picture of each camera, and whether anybody looks.

    There is no lock, so neither process can keep the other waiting. A picture that was written while it was read is
    left out; on a processor that reorders writes one may be half new.
    """

    def __init__(self, descriptor: int, cameras: Sequence[Camera]) -> None:
        """Map the file, which is made large enough."""
        self._sizes = {camera.name: (camera.height, camera.width, 3) for camera in cameras}
        lengths = {name: -(-(_HEAD + int(np.prod(size))) // _HEAD) * _HEAD for name, size in self._sizes.items()}
        total = _HEAD + sum(lengths.values())
        os.ftruncate(descriptor, total)
        self._memory = mmap.mmap(descriptor, total)
        self._watched: NDArray[np.int64] = np.frombuffer(self._memory, np.int64, 1)
        self._heads: dict[str, NDArray[np.float64]] = {}
        self._images: dict[str, NDArray[np.uint8]] = {}
        start = _HEAD
        for name, size in self._sizes.items():
            self._heads[name] = np.frombuffer(self._memory, np.float64, 3, start)
            flat = np.frombuffer(self._memory, np.uint8, int(np.prod(size)), start + _HEAD)
            self._images[name] = flat.reshape(size)
            start += lengths[name]

    @property
    def watched(self) -> bool:
        """Whether anybody looks."""
        return bool(self._watched[0])

    @watched.setter
    def watched(self, watched: bool) -> None:
        self._watched[0] = watched

    def put(self, name: str, image: NDArray[np.uint8], time: float) -> None:
        """The newest picture [H, W, 3] and when it was taken. Other sizes than the camera's are left out."""
        head = self._heads[name]
        head[_NEWEST] = time
        if not self.watched or time - head[_COPIED] < COPY_EVERY or image.shape != self._sizes[name]:
            return
        head[_SEQUENCE] += 1.0  # odd: being written
        self._images[name][:] = image
        head[_COPIED] = time
        head[_SEQUENCE] += 1.0

    def get(self, name: str) -> tuple[NDArray[np.uint8], float] | None:
        """A copy of the newest picture that was put while somebody looked, and when it was taken."""
        head = self._heads[name]
        before = float(head[_SEQUENCE])
        image, time = self._images[name].copy(), float(head[_COPIED])
        if not before or before % 2 or before != head[_SEQUENCE]:
            return None
        return image, time

    def newest(self, name: str) -> float | None:
        """When the newest picture was taken, copied or not; None before the first."""
        return float(self._heads[name][_NEWEST]) or None

    def close(self) -> None:
        """Unmap the memory."""
        self._heads.clear()
        self._images.clear()
        del self._watched
        self._memory.close()


_HEAD = 64
"""Bytes before a picture; a whole number of cache lines, so that arrays are aligned."""
_SEQUENCE, _COPIED, _NEWEST = range(3)
