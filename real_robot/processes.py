"""Processes of a deployment: which of them run first, and what those that it starts find."""

from __future__ import annotations

import logging
import os
import sys

EMULATOR, LOOP, WATCHDOG = -15, -10, -12
"""Niceness: servos first, since real ones wait for nobody; the watchdog before the loop, which it may have to end."""
_log = logging.getLogger(__name__)


def go_first(niceness: int) -> bool:
    """Have the calling thread, and those it starts from now on, run before others; returns whether this is allowed.

    Usually only root may. Without it a busy machine makes control steps late.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    except PermissionError:
        _log.debug("this user may not raise a process's priority; a busy machine makes it late")
        return False
    return True


def child_environment() -> dict[str, str]:
    """Environment variables with which a Python process imports what this one does, a plug-in beside the user too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
