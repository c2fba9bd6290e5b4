"""`vla libero pack`: a LIBERO suite in one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vla.errors import writing


@dataclass(frozen=True)
class PackConfig:
    """What to pack, and where to."""

    suite: str
    """libero_spatial, libero_object, libero_goal, libero_10 or libero_90."""
    output: str = "libero_archives"
    """Folder to write <suite>.libero into; LIBERO_ARCHIVES names it where the suite is used."""


def pack_suite(config: PackConfig, on_progress: Callable[[int, int, int], None] = lambda *_: None) -> Path:
    """Write the archive and return its path.

    Raises:
        EnvironmentRequestError: the suite is unknown, or hf-libero, robosuite or the assets are missing.
        ReflexError: the disk is full or not writable.
    """
    from sim.libero.archive import archive_path, pack

    path = archive_path(Path(config.output), config.suite)
    with writing(path):
        pack(config.suite, path, lambda done, total: on_progress(done, total, done))
    return path
