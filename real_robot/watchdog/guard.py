"""The control loop's side of the watchdog: start it, beat, hear orders, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from real_robot.control.steps import Ending
from real_robot.processes import child_environment
from real_robot.watchdog.pulse import Order, Phase, SharedPulse, WatchdogState
from real_robot.watchdog.settings import ArmSpec, Latch, Reaction, WatchdogSettings
from vla.errors import ReflexError

READY_WITHIN = 60.0
"""Seconds in which the watchdog must be ready; its imports take one or two."""
ENDS_WITHIN = 20.0
"""Seconds in which the watchdog must have ended: it may have to stop the arm first."""
SILENT = 1.0
"""Seconds after which a watchdog that says nothing counts as dead, and the loop stops the arm itself."""


class Guard:
    """A watchdog process and this loop's pulse. A context manager: whatever ends the block, the watchdog is told.

    Only inside `armed` is a missing beat a fault.
    """

    def __init__(
        self,
        arm: ArmSpec | None,
        log: Path,
        latch: Path,
        *,
        reaction: Reaction = "hold",
        timeout: float = 0.25,
        stdin: bool = False,
        **inputs: Any,
    ) -> None:
        """See `WatchdogSettings`. Nothing starts before the block is entered."""
        self._folder = Path(tempfile.mkdtemp(prefix="reflex-watchdog-"))
        self.settings = WatchdogSettings(
            arm, os.getpid(), self._folder / "pulse", log, latch, reaction, timeout, stdin=stdin, **inputs
        )
        """What the watchdog is told."""
        self._pulse = SharedPulse(self.settings.pulse, create=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        Latch(self.settings.latch).check(reset=False)
        settings = self._folder / "settings.json"
        settings.write_text(self.settings.to_json(), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "real_robot.watchdog", str(settings)],
            stdin=None if self.settings.stdin else subprocess.DEVNULL,
            env=child_environment(),
        )
        until = time.monotonic() + READY_WITHIN
        while self._pulse.state is WatchdogState.STARTING:
            if self._process.poll() is not None or time.monotonic() > until:
                self._process.kill()
                raise ReflexError("the watchdog did not start, so the arm is not moved; its message is above")
            time.sleep(0.01)
        return self

    def arm(self) -> None:
        """From now on the loop beats, or the watchdog trips."""
        self._pulse.beat(0)
        self._pulse.phase = Phase.ARMED

    def rest(self) -> None:
        """The arm is held at rest for a while: a longer silence is forgiven, until `arm`. An operator's stop is not."""
        self._pulse.phase = Phase.RESTING

    def release(self) -> None:
        """The arm is stopped and the way to it closed: the watchdog may take it."""
        self._pulse.phase = Phase.RELEASED

    def fail(self) -> None:
        """The arm could not be stopped, and the way to it is closed: the watchdog tries."""
        self._pulse.phase = Phase.FAILED

    def beat(self, step: int) -> None:
        """The loop is alive."""
        self._pulse.beat(step)

    def order(self) -> Ending | None:
        """The ending that is asked for. A watchdog that died asks for a stop."""
        if self.tripped or self.dead:
            return Ending.STOPPED
        order = self._pulse.order
        if order in (Order.NONE, Order.STOP):
            return Ending.STOPPED if order is Order.STOP else None
        self._pulse.order = Order.NONE
        return Ending.SUCCESS if order is Order.SUCCESS else Ending.OPERATOR

    @property
    def person_drives(self) -> bool:
        """Whether the operator has taken over from the policy."""
        return self._pulse.person_drives

    @person_drives.setter
    def person_drives(self, person: bool) -> None:
        self._pulse.person_drives = person

    @property
    def presses(self) -> NDArray[np.float64]:
        """How often the keys that move each joint were pressed: see `SharedPulse.presses`."""
        return self._pulse.presses

    @property
    def tripped(self) -> bool:
        """Whether the watchdog has taken over, or is about to."""
        return self._pulse.state is WatchdogState.TRIPPED

    @property
    def dead(self) -> bool:
        """Whether the watchdog does not answer."""
        return time.monotonic() - self._pulse.last_alive > SILENT

    def __exit__(self, *exception: object) -> None:
        assert self._process is not None
        if not self.tripped and self._pulse.phase is not Phase.FAILED:
            self._pulse.phase = Phase.FINISHED
        try:
            self._process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pulse.close()
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()


def latch_path(robot: str, settings: dict[str, Any]) -> Path:
    """Where the latch of an arm is: one file for each robot and way to it, the same for every run of this user."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    way = json.dumps({name: str(value) for name, value in sorted(settings.items())})
    key = "".join(letter if letter.isalnum() else "_" for letter in way).strip("_")[-80:]
    return Path(state) / "reflex" / f"stopped_{robot}_{key}.json"
