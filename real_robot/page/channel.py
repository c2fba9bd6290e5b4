"""From the control loop to the page's process, without ever waiting.

Control steps and pictures lie in memory that both processes map. The loop writes there with no system call and no lock:
a call would let Python's other threads run first, and a lock could be held by a process that hangs. Steps are in a ring
whose oldest are overwritten, which the reader counts. Of each camera only the newest picture is there, and is only
copied while somebody looks. What is rare and must not be lost goes through a socket.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Camera

COPY_EVERY = 0.095
"""Seconds between two copies of a camera's pictures: a page shows ten a second."""
SLOTS, SLOT_BYTES = 256, 4096
"""Of the ring: eight seconds of control steps at 30 Hz."""
LARGEST = 1 << 18
"""Bytes of a message through the socket."""


class Sender:
    """The loop's end of the socket, for a message an episode. It never waits, nor raises where nobody reads."""

    def __init__(self, channel: socket.socket) -> None:
        """`channel` keeps messages apart (SOCK_SEQPACKET)."""
        channel.setblocking(False)
        self._channel = channel
        self.dropped = 0
        """Messages that found no room, after hundreds, or nobody to read them."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand a message over."""
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError:  # the page is gone or hangs: the arm goes on without it
            self.dropped += 1

    def close(self) -> None:
        """The other end reads what is there, and then that nothing follows."""
        self._channel.close()


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message; None when nothing follows. Raises `TimeoutError` when none comes in the socket's time."""
    data = channel.recv(LARGEST)
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    return message


class StepRing:
    """The newest control steps. One process puts, another takes."""

    def __init__(self, descriptor: int) -> None:
        """Map the file, which is made large enough."""
        os.ftruncate(descriptor, SLOTS * SLOT_BYTES + mmap.PAGESIZE)
        self._memory = mmap.mmap(descriptor, SLOTS * SLOT_BYTES + mmap.PAGESIZE)
        self._count: NDArray[np.int64] = np.frombuffer(self._memory, np.int64, 1)
        self._taken = 0
        self.dropped = 0
        """Steps that were overwritten before they were taken, or too long to put."""

    def put(self, step: Mapping[str, Any]) -> None:
        """Write a step over the oldest."""
        data = json.dumps(step).encode()
        number = int(self._count[0])
        start = mmap.PAGESIZE + number % SLOTS * SLOT_BYTES
        if len(data) > SLOT_BYTES - 8:
            data = b""  # its reader counts it as dropped
        head = len(data).to_bytes(4, "little") + zlib.crc32(data).to_bytes(4, "little")
        self._memory[start : start + 8 + len(data)] = head + data
        self._count[0] = number + 1

    def take(self) -> list[dict[str, Any]]:
        """The steps that were put since, oldest first."""
        count = int(self._count[0])
        first = max(self._taken, count - SLOTS + 1)  # the oldest may be written over just now
        self.dropped += first - self._taken
        steps = []
        for number in range(first, count):
            start = mmap.PAGESIZE + number % SLOTS * SLOT_BYTES
            slot = self._memory[start : start + SLOT_BYTES]
            data = slot[8 : 8 + int.from_bytes(slot[:4], "little")]
            if not data or zlib.crc32(data) != int.from_bytes(slot[4:8], "little"):
                self.dropped += 1  # too long, or the writer has come round
                continue
            steps.append(json.loads(data))
        self._taken = count
        return steps

    def close(self) -> None:
        """Unmap the memory."""
        del self._count
        self._memory.close()


class SharedPictures:
    """The newest picture of each camera, and whether anybody looks.

    A picture that was written while it was read is left out; on a processor that reorders writes one may be half new.
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
