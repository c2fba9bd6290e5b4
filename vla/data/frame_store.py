"""Room for all frames of a dataset: in memory while they are few, else in a file that the system pages in and out.

The file has no name from the moment it is made, so that its room is free again when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Camera
from vla.errors import ReflexError, writing

GIBIBYTE = 1024**3
IN_MEMORY = 2 * GIBIBYTE
"""Bytes of frames up to which they stay in memory."""
MEMORY_INFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
GROUPS = (
    (".", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit, what is taken, and of it the copies of files, which the kernel gives up first: by the two generations
of the kernel's control groups."""
DISK_RESERVE = GIBIBYTE
"""Bytes of a disk that are left to others."""


def allocate_frames(
    num_frames: int, cameras: Sequence[Camera], in_memory: int = IN_MEMORY, folder: Path | None = None
) -> dict[str, NDArray[np.uint8]]:
    """An array [num_frames, H, W, 3] for each camera, not yet filled.

    Up to `in_memory` bytes of all of them are in memory, if that much is free; more are in a nameless file in `folder`,
    or where `temporary_folder` says.
    Raises `ReflexError`, with the arithmetic, when the machine has no room for them.
    """
    shapes = {camera.name: (num_frames, camera.height, camera.width, 3) for camera in cameras}
    needed = sum(math.prod(shape) for shape in shapes.values())
    free = free_memory()
    if needed <= in_memory and (free is None or needed <= free):
        return {name: np.empty(shape, np.uint8) for name, shape in shapes.items()}
    folder = folder or temporary_folder()
    room = max(0, shutil.disk_usage(folder).free - DISK_RESERVE)
    if needed > room:
        memory = "" if free is None else f" of {_gibibytes(free)} free"
        raise ReflexError(
            f"{_arithmetic(num_frames, cameras, needed)}. Up to {_gibibytes(in_memory)} may be in memory{memory}, and "
            f"{folder} has room for {_gibibytes(room)}; choose fewer tasks or episodes (tasks, episodes_per_task), "
            "fewer cameras or smaller pictures, or set TMPDIR to a folder on a larger disk"
        )
    return {name: _on_disk(shape, folder) for name, shape in shapes.items()}


def free_memory() -> int | None:
    """Bytes that this process may still take, of the machine's or its container's; None where nobody says."""
    found = []
    if MEMORY_INFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMORY_INFO.read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    found += [free for names in GROUPS if (free := _free_in_container(*names)) is not None]
    return min(found, default=None)


def _free_in_container(folder: str, limit: str, taken: str, cached: str) -> int | None:
    try:
        allowed = (CONTAINER / folder / limit).read_text().strip()
        if allowed == "max":
            return None
        lines = dict(line.split() for line in (CONTAINER / folder / "memory.stat").read_text().splitlines())
        used = int((CONTAINER / folder / taken).read_text()) - int(lines.get(cached, 0))
    except OSError:
        return None
    return max(0, int(allowed) - used)


def temporary_folder() -> Path:
    """TMPDIR where it is set; else /var/tmp, which unlike /tmp is a disk everywhere; else what Python suggests."""
    usual = Path("/var/tmp")
    if "TMPDIR" not in os.environ and os.access(usual, os.W_OK):
        return usual
    return Path(tempfile.gettempdir())


def _on_disk(shape: tuple[int, ...], folder: Path) -> NDArray[np.uint8]:
    size = math.prod(shape)
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, size)
        mapped = mmap.mmap(file.fileno(), size)  # with a handle of its own: the file lives as long as the array
    # Minibatches are drawn at random. Reading ahead of each frame pushes others out: where memory holds half of them, a
    # batch then takes sixteen times as long.
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.uint8).reshape(shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room now: on a disk that fills later, writing to mapped memory would kill the process."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot
            raise
        file.truncate(size)


def _arithmetic(num_frames: int, cameras: Sequence[Camera], needed: int) -> str:
    each = " + ".join(f"{camera.height} x {camera.width} x 3" for camera in cameras)
    return f"{num_frames:,} frames of {each} bytes need {_gibibytes(needed)}"


def _gibibytes(count: int) -> str:
    return f"{count / GIBIBYTE:.1f} GiB" if count >= GIBIBYTE / 10 else f"{count / 1024**2:.1f} MiB"
