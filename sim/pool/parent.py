"""Worker processes that do not outlive the process they work for."""

from __future__ import annotations

import os
import threading
import time

CHECK_SECONDS = 1.0
"""How often a worker looks whether its parent still exists."""


def end_with_parent() -> None:
    """End this process soon after its parent has ended, however that was: a killed parent closes nothing."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os._exit(0)
