"""JSON Lines files that are appended to while a run goes on and survive a kill at any byte."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vla.errors import ReflexError, writing
from vla.run.files import write_bytes

__all__ = ["append_lines", "drop_torn_line", "keep_lines", "read_lines", "write_lines"]


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace the file by one JSON object per line, atomically.  Non-finite numbers become ``null``."""
    write_bytes(path, _lines(records).encode("utf-8"))


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append one JSON object per line and flush them to the operating system.

    NaN and infinities become ``null``: JSON has no form for them, and a diverging loss must still be recorded.

    Raises:
        ReflexError: the disk is full or the file cannot be written.
    """
    text = _lines(records)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read every complete line; a last line without its newline was torn by a kill and is left out.

    Raises:
        ReflexError: a complete line is not a JSON object; the message gives its number.
    """
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReflexError(f"cannot read {path}: {error.strerror or error}") from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ReflexError(f"line {number} of {path} is not JSON ({error}); delete that line and resume") from error
        if not isinstance(record, dict):
            raise ReflexError(f"line {number} of {path} is not a JSON object; delete that line and resume")
        records.append(record)
    return records


def drop_torn_line(path: Path) -> None:
    """Remove a last line that a kill cut short, atomically; complete files are left as they are."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite the file with only the lines for which ``keep`` holds, atomically, byte-identical otherwise.

    Raises:
        ReflexError: a complete line is not a JSON object, or the file cannot be written.
    """
    records = read_lines(path)
    if not path.exists():
        return
    content = path.read_bytes()
    lines = content.split(b"\n")[: len(records)]
    kept = b"".join(line + b"\n" for line, record in zip(lines, records, strict=True) if keep(record))
    if kept != content:
        write_bytes(path, kept)


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(_finite(record), allow_nan=False) + "\n" for record in records)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
