"""The one exception of Reflex's command-level code, and helpers that turn common failures into it.

A ``ReflexError`` is a message for the person at the keyboard: it says what happened, to which file or setting, and what
to do about it.  The command line prints it as one line and exits with status 2; any other exception is a defect and
shows its traceback.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["CheckFailedError", "ReflexError", "require_module", "restoring", "writing"]


class ReflexError(Exception):
    """A request that cannot be carried out, explained in one sentence the user can act on."""


class CheckFailedError(ReflexError):
    """A check that was carried out to its end and does not hold: the command line exits with status 1."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` raised while writing ``path`` into a ``ReflexError`` that names it.

    A full disk, a missing permission and a read-only file system each get their own advice.  Libraries that report a
    full disk as their own exception (safetensors, torch) are recognised by its text.
    """
    try:
        yield
    except OSError as error:
        raise ReflexError(f"cannot write {path}: {_write_advice(error)}") from error
    except Exception as error:
        if any(sign in str(error) for sign in _FULL_DISK_SIGNS):
            full = OSError(errno.ENOSPC, "No space left on device")
            raise ReflexError(f"cannot write {path}: {_write_advice(full)}") from error
        raise


_FULL_DISK_SIGNS = ("No space left on device", "os error 28", "PytorchStreamWriter failed writing")


def _write_advice(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}; free some space (what was there before is unchanged) and run the command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{reason}; choose a folder you may write to"
    return reason


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn what is raised while a file of a checkpoint is restored into a ``ReflexError`` that names it.

    A damaged or foreign file is reported with many types: by torch, by pickle, and by whoever takes its content.
    """
    try:
        yield
    except Exception as error:
        raise ReflexError(
            f"cannot restore {path} ({error}); delete {path.parent} to resume from the one before"
        ) from error


def require_module(name: str, purpose: str, install: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        ReflexError: it cannot be imported; the message says what needs it (``purpose``) and how to ``install`` it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ReflexError(f"{purpose} needs the Python package {name!r}, which is not installed; {install}") from error
