"""A layer over the calls that change which files exist, which records their order and can end the process between two.

A test sees what a power cut or a kill would find: what was flushed to the disk before it got its final name, and what
is there after a kill at each moment.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """What a killed process raises: no handler of errors catches it."""


class FileCalls:
    """Records ("fsync" | "replace" | "rename" | "unlink" | "rmtree", path, ...), paths relative to `root`.

    The random part of temporary names is left out. From call number `kill_at` on, every call raises `Killed` and does
    nothing, so that no clean-up runs either.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, kill_at: int | None = None) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._root, self._kill_at = root.resolve(), kill_at
        monkeypatch.setattr(os, "fsync", self._recorded("fsync", lambda descriptor: None))  # slow, and tells nothing
        monkeypatch.setattr(shutil, "rmtree", self._recorded("rmtree", shutil.rmtree))
        for name in ("replace", "rename", "unlink"):
            monkeypatch.setattr(Path, name, self._recorded(name, getattr(Path, name)))

    def at(self, *call: str) -> int:
        """The position of a call that happened exactly once."""
        assert self.calls.count(call) == 1, (call, self.calls)
        return self.calls.index(call)

    def _recorded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            paths = arguments[:2] if name in ("replace", "rename") else arguments[:1]
            self.calls.append((name, *(self._shown(path) for path in paths)))
            if self._kill_at is not None and len(self.calls) > self._kill_at:
                raise Killed
            return function(*arguments, **options)

        return call

    def _shown(self, target: Path | int) -> str:
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
        return re.sub(r"(\.writing-[^/]+)-[0-9a-f]{8}\b", r"\1", os.path.relpath(path, self._root))
