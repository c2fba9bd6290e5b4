"""Atomic writes: a reader sees the old content or the new content, never a part, whenever the writer dies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla.errors import ReflexError, writing

__all__ = [
    "TEMPORARY_PREFIX",
    "file_sha256",
    "read_json",
    "read_json_object",
    "remove_temporaries",
    "replace_folder",
    "sync",
    "write_bytes",
    "write_json",
    "write_text",
]

TEMPORARY_PREFIX = ".writing-"
"""Names of unfinished files and folders begin with this, so that what a kill leaves behind can be removed."""

REPLACED_PREFIX = ".replaced-"
"""A folder moved aside while its successor takes its name; put back if the successor never arrived."""


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}")


def file_sha256(path: Path) -> bytes:
    """The SHA-256 of a file, of which a part at a time is in memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: temporary file in the same folder, fsync, ``os.replace``.

    Raises:
        ReflexError: the file cannot be written (full disk, no permission); the previous content is unchanged.
    """
    temporary = _temporary_beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Replace ``path`` by UTF-8 text, atomically.  Raises ``ReflexError`` as ``write_bytes`` does."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by indented JSON, atomically.

    Raises:
        ReflexError: the file cannot be written, or ``content`` holds something JSON has no form for (NaN included).
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ReflexError(f"cannot write {path}: the content is not JSON ({error})") from error
    write_text(path, text + "\n")


def read_json(path: Path, remedy: str = "restore it or delete it") -> Any:
    """Read a JSON file.

    Raises:
        ReflexError: the file is missing, unreadable or not JSON; the message ends with ``remedy``, what to do about it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReflexError(f"{path} is missing; {remedy}") from error
    except OSError as error:
        raise ReflexError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error
    except ValueError as error:
        raise ReflexError(f"{path} is not valid JSON ({error}); {remedy}") from error


def read_json_object(path: Path, remedy: str = "restore it or delete it") -> dict[str, Any]:
    """Read a JSON file that holds an object.  Raises ``ReflexError`` as ``read_json`` does, and for other content."""
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise ReflexError(f"{path} does not hold a JSON object; {remedy}")
    return content


def replace_folder(path: Path, fill: Callable[[Path], None], flush: bool = True) -> None:
    """Publish a folder atomically: ``fill`` writes into a temporary folder beside ``path``, which is then renamed.

    An existing ``path`` is moved aside first and deleted afterwards; after a kill between the two renames
    ``remove_temporaries`` puts it back.

    Args:
        path: the folder's final name.
        fill: writes its content.
        flush: fsync every file before the rename, so that a power cut cannot leave a folder of empty files.  Without
            it only a kill is survived.

    Raises:
        ReflexError: the folder cannot be written; the previous folder is unchanged.
    """
    temporary = _temporary_beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            fill(temporary)
            if flush:
                _sync_tree(temporary)
            if path.exists():
                _swap(temporary, path)
            else:
                temporary.replace(path)
            if flush:
                sync(path.parent)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    """Put a folder in the place of an existing one: a folder cannot be renamed over one that is not empty."""
    aside = path.with_name(REPLACED_PREFIX + path.name)
    if aside.exists():
        shutil.rmtree(aside)
    path.replace(aside)
    try:
        temporary.replace(path)
    except OSError:
        aside.replace(path)
        raise
    shutil.rmtree(aside)


def remove_temporaries(folder: Path) -> None:
    """Clear up what killed writers left directly inside ``folder``.

    Only call it where no other process is writing.
    """
    if not folder.is_dir():
        return
    with writing(folder):
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        for aside in folder.glob(f"{REPLACED_PREFIX}*"):
            original = aside.with_name(aside.name.removeprefix(REPLACED_PREFIX))
            if original.exists():
                shutil.rmtree(aside)
            else:
                aside.replace(original)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's directory entries, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
