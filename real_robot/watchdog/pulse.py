"""A few numbers that the control loop and the watchdog share: who is alive, in which phase, and what is asked for.

They are in a small file that both map into memory, eight bytes each, which the processor writes whole. No lock: a
process that dies or freezes can therefore never keep the other waiting.
"""

from __future__ import annotations

import mmap
import os
import time
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Phase(IntEnum):
    """Where the control loop is."""

    STARTING = 0
    """The arm is not under its control; nothing is watched."""
    ARMED = 1
    """It beats at every control step, or else the watchdog trips."""
    RELEASED = 2
    """It has stopped the arm and closed its way to it: on an order, or at the end."""
    FINISHED = 3
    """It ended as it should, with the arm held or parked; the watchdog ends too."""
    FAILED = 4
    """It could not stop the arm and has closed its way to it: the watchdog shall try."""
    RESTING = 5
    """It holds an arm at rest and does something else, such as writing an episode: a silence is forgiven for longer."""


class WatchdogState(IntEnum):
    """Where the watchdog is."""

    STARTING = 0
    READY = 1
    TRIPPED = 2


class Order(IntEnum):
    """What the loop is asked to do."""

    NONE = 0
    END_EPISODE = 1
    SUCCESS = 2
    STOP = 3
    TAKE_OVER = 4
    """A person drives from now on."""
    GIVE_BACK = 5
    """The policy drives from now on."""
    CHANGE_HANDS = 6
    """Whichever of the two it is not now."""


JOINTS_WITH_KEYS = 7
"""Joints that a keyboard has a pair of keys for."""
_BEAT, _STEP, _PHASE, _ORDER, _ALIVE, _STATE, _PERSON = range(7)
_PRESSES = slice(8, 8 + JOINTS_WITH_KEYS)
_SIZE = 8 * 16


class SharedPulse:
    """Both sides' view of the numbers. Every time is monotonic seconds."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Map the file; with `create`, make it first, all zero."""
        if create:
            path.write_bytes(bytes(_SIZE))
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._values: NDArray[np.float64] = np.frombuffer(self._memory, np.float64)

    # what the loop says

    def beat(self, step: int) -> None:
        """The loop is alive, in this control step."""
        self._values[_STEP] = step
        self._values[_BEAT] = time.monotonic()

    @property
    def last_beat(self) -> float:
        """When the loop was last alive."""
        return float(self._values[_BEAT])

    @property
    def step(self) -> int:
        """The loop's control step then."""
        return int(self._values[_STEP])

    @property
    def phase(self) -> Phase:
        """Where the loop is."""
        return Phase(int(self._values[_PHASE]))

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._values[_PHASE] = phase

    # what the watchdog says

    def alive(self) -> None:
        """The watchdog is."""
        self._values[_ALIVE] = time.monotonic()

    @property
    def last_alive(self) -> float:
        """When the watchdog was last alive."""
        return float(self._values[_ALIVE])

    @property
    def state(self) -> WatchdogState:
        """Where the watchdog is."""
        return WatchdogState(int(self._values[_STATE]))

    @state.setter
    def state(self, state: WatchdogState) -> None:
        self._values[_STATE] = state

    @property
    def order(self) -> Order:
        """What is asked for. A stop stays; the loop takes the others back when it has done them."""
        return Order(int(self._values[_ORDER]))

    @order.setter
    def order(self, order: Order) -> None:
        self._values[_ORDER] = order

    # what the operator says beside orders

    @property
    def person_drives(self) -> bool:
        """Whether a person has taken over from the policy."""
        return bool(self._values[_PERSON])

    @person_drives.setter
    def person_drives(self, person: bool) -> None:
        self._values[_PERSON] = person

    def press(self, joint: int, direction: int) -> None:
        """The key that moves a joint, by its number, up (1) or down (-1) was pressed."""
        self._values[_PRESSES][joint] += direction

    @property
    def presses(self) -> NDArray[np.float64]:
        """[`JOINTS_WITH_KEYS`] how often each joint's key for up was pressed so far, less those for down."""
        return self._values[_PRESSES].copy()

    def close(self) -> None:
        """Unmap the file."""
        del self._values
        self._memory.close()
