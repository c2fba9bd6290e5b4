"""Ctrl-C while an arm moves: the episode ends and the arm comes to rest before the command does."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from real_robot.control.loop import Pulse
from real_robot.control.steps import Ending


class Interruptible:
    """A pulse whose order is also Ctrl-C. A context manager: outside its block Ctrl-C is what it was.

    The first Ctrl-C is an order to end, so that no command to the arm is cut in two; a second one raises
    `KeyboardInterrupt` at once. Python delivers signals to the main thread only: elsewhere there is nothing to catch.
    """

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._before: Any = None
        self.interrupted = False
        """Whether Ctrl-C was pressed."""

    def beat(self, step: int) -> None:
        """The loop is alive."""
        self._pulse.beat(step)

    def order(self) -> Ending | None:
        """The ending that is asked for: the operator's after a Ctrl-C, unless a stop is asked for."""
        order = self._pulse.order()
        return Ending.OPERATOR if self.interrupted and order is not Ending.STOPPED else order

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
