"""Checkpoint folders that are whole or absent: ``checkpoints/<step>/`` with a manifest, and the pointer ``last``.

A checkpoint is written into a temporary folder, described by ``manifest.json`` (size and SHA-256 of every file),
flushed and renamed; then ``last`` is replaced.  A kill at any moment leaves the previous checkpoint usable.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla.errors import ReflexError, writing
from vla.run.files import TEMPORARY_PREFIX, file_sha256, read_json, replace_folder, sync, write_json, write_text

__all__ = ["MANIFEST", "checkpoint_problem", "list_checkpoints", "newest_checkpoint", "remove_old", "write_checkpoint"]

MANIFEST = "manifest.json"
POINTER = "last"

logger = logging.getLogger(__name__)


def write_checkpoint(folder: Path, step: int, writer: Callable[[Path], None]) -> Path:
    """Write ``folder/<step>/`` by calling ``writer(temporary_folder)``, publish it, and point ``last`` at it.

    Returns:
        The published folder.

    Raises:
        ReflexError: it cannot be written (full disk, no permission); earlier checkpoints and ``last`` are unchanged.
    """
    target = folder / str(step)

    def fill(temporary: Path) -> None:
        writer(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {
            path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path).hex()}
            for path in files
        }
        write_json(temporary / MANIFEST, {"step": step, "files": entries})

    replace_folder(target, fill)
    _point_last(folder, step)
    return target


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Every ``(step, path)`` under ``folder``, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    return sorted((int(path.name), path) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())


def newest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """The newest checkpoint that matches its manifest, or None.  Each one skipped is logged with its reason."""
    for step, path in reversed(list_checkpoints(folder)):
        problem = checkpoint_problem(path)
        if problem is None:
            return step, path
        logger.warning("skipping checkpoint %s: %s", path, problem)
    return None


def checkpoint_problem(path: Path) -> str | None:
    """Why a checkpoint folder cannot be used (missing manifest, missing, short or altered file), or None if it can."""
    try:
        entries: dict[str, dict[str, Any]] = read_json(path / MANIFEST)["files"]
        for name, expected in entries.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
            if file_sha256(file).hex() != expected["sha256"]:
                return f"the content of {name} does not match its checksum"
    except OSError as error:
        return f"{error.filename or path} cannot be read ({error.strerror})"
    except ReflexError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None


def remove_old(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    for _, path in list_checkpoints(folder)[:-keep]:
        with writing(path):
            doomed = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}")
            path.replace(doomed)  # a kill during the deletion must not leave half a checkpoint under its name
            shutil.rmtree(doomed)


def _point_last(folder: Path, step: int) -> None:
    pointer = folder / POINTER
    temporary = folder / f"{TEMPORARY_PREFIX}{POINTER}"
    with writing(pointer):
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(str(step))
        except OSError:  # a file system without symbolic links: a text file with the step in it
            write_text(pointer, f"{step}\n")
            return
        temporary.replace(pointer)
        sync(folder)
