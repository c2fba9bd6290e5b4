"""A process that must not wait for a machine's other work: a control loop, a watchdog, servos made of software."""

from __future__ import annotations

import logging
import os

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
