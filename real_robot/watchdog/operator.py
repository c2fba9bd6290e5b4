"""What an operator can say without the control loop: keys, lines on a pipe, a switch that shows in a file."""

from __future__ import annotations

import os
import sys
import termios
import tty
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_robot.watchdog.pulse import JOINTS_WITH_KEYS, Order


@dataclass(frozen=True)
class Press:
    """A key that moves a joint was pressed."""

    joint: int
    """Number of the joint, from 0."""
    direction: int
    """1 up, -1 down."""


UP, DOWN = "ertuioy", "dfgjklh"
"""Keys that move joints 0, 1, ...: the one for down lies below the one for up on keyboards of most languages."""
assert len(UP) == len(DOWN) == JOINTS_WITH_KEYS
PRESSES = {key: Press(joint, direction) for keys, direction in ((UP, 1), (DOWN, -1)) for joint, key in enumerate(keys)}
KEYS: dict[str, Order | Press] = {
    " ": Order.STOP,
    "\n": Order.STOP,
    "\r": Order.STOP,
    "q": Order.END_EPISODE,
    "s": Order.SUCCESS,
    "\t": Order.CHANGE_HANDS,
    **PRESSES,
}
WORDS = {
    "stop": Order.STOP,
    "end": Order.END_EPISODE,
    "success": Order.SUCCESS,
    "take_over": Order.TAKE_OVER,
    "give_back": Order.GIVE_BACK,
}
_LINES: dict[str, Order | Press] = {**WORDS, **PRESSES}
"""A line is a word, or a key that moves a joint."""
Said = Order | Press
"""One thing that an operator says."""


class Keyboard:
    """Single keys of a terminal, which is put back as it was by `close`."""

    source = "keyboard"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before: list[Any] = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor, termios.TCSANOW)
        os.set_blocking(descriptor, True)

    def fileno(self) -> int:
        """For `select`."""
        return self._descriptor

    def orders(self) -> list[Said] | None:
        """What was typed, when there is something to read; None when the terminal is gone."""
        try:
            typed = os.read(self._descriptor, 64).decode(errors="replace")
        except OSError:  # the terminal was closed, or belongs to another program now
            return None
        return [KEYS[key] for key in typed if key in KEYS] if typed else None

    def close(self) -> None:
        """Give the terminal its mode back."""
        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)
        except termios.error:  # the terminal is gone
            return


class Lines:
    """Words on lines of their own, from a pipe."""

    def __init__(self, descriptor: int, source: str, close: bool = True) -> None:
        """`close`: whether the descriptor is closed with this object."""
        self._descriptor, self.source, self._close = descriptor, source, close
        self._rest = b""

    @classmethod
    def of_named_pipe(cls, path: Path) -> Lines:
        """Make the pipe where there is none. Open for writing as well, so that no writer's end is an end of file."""
        if not path.exists():
            os.mkfifo(path)
        return cls(os.open(path, os.O_RDWR | os.O_NONBLOCK), f"pipe {path}")

    def fileno(self) -> int:
        """For `select`."""
        return self._descriptor

    def orders(self) -> list[Said] | None:
        """What the whole lines say, when there is something to read; None at the end of the file."""
        try:
            read = os.read(self._descriptor, 4096)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not read:
            return None
        *lines, self._rest = (self._rest + read).split(b"\n")
        words = [line.decode(errors="replace").strip().lower() for line in lines]
        return [_LINES[word] for word in words if word in _LINES]

    def close(self) -> None:
        """Close the pipe, where it is this object's."""
        if self._close:
            os.close(self._descriptor)


def standard_input() -> Keyboard | Lines:
    """Keys where standard input is a terminal, else lines."""
    descriptor = sys.stdin.fileno()
    return Keyboard(descriptor) if os.isatty(descriptor) else Lines(descriptor, "standard input", close=False)


def switch_says_stop(path: Path, stop_value: str) -> str | None:
    """Why the switch in a file means stop; None when it does not."""
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return f"the stop input {path} cannot be read ({error})"
    return f"the stop input {path} reads {value!r}" if value == stop_value else None
