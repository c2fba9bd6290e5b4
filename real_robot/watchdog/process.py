"""The watchdog: waits for beats and orders, and stops the arm once.

It is a process of its own, started and ready before the loop may command the arm. The arm's bus cannot be shared, so
while the loop is well the watchdog does not touch it. When it trips, the loop either releases the bus in time or is
killed; then the watchdog opens a handle of its own, stops the arm, and reads back that it stands.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from real_robot.processes import WATCHDOG, go_first
from real_robot.watchdog.operator import Keyboard, Lines, Press, standard_input, switch_says_stop
from real_robot.watchdog.pulse import Order, Phase, SharedPulse, WatchdogState
from real_robot.watchdog.settings import WatchdogSettings
from real_robot.watchdog.stopping import Stopped, bring_to_rest
from vla.errors import ReflexError
from vla.run.files import write_json
from vla.run.jsonl import append_lines

LOOK_EVERY = 0.01
"""Seconds between looks at beats and switches."""
RESTING_TIMEOUT = 10.0
"""Seconds of silence while the arm is held at rest: whatever the loop does then, the arm does not move."""

NOT_STOPPED = (
    "WATCHDOG: IT IS NOT CERTAIN THAT THE ARM HAS STOPPED. Use the hardware emergency stop. What was tried is in"
)


class Watchdog:
    """One run's watchdog."""

    def __init__(self, settings: WatchdogSettings) -> None:
        self._settings = settings
        self._pulse = SharedPulse(settings.pulse)
        self._parent = os.pidfd_open(settings.parent)
        self._inputs: list[Keyboard | Lines] = []
        if settings.arm is not None:
            settings.arm.make()  # whatever it imports is imported now, not when the arm must be stopped
        if settings.pipe is not None:
            self._inputs.append(Lines.of_named_pipe(settings.pipe))
        if settings.stdin:
            self._inputs.append(standard_input())

    def run(self) -> int:
        """Watch until the loop has finished (0), or the arm was stopped (3: verified, 4: not)."""
        self._log("ready", timeout=self._settings.timeout, reaction=self._settings.reaction)
        self._pulse.alive()
        self._pulse.state = WatchdogState.READY
        try:
            while True:
                cause = self._look()
                if cause is not None:
                    return self._trip(*cause)
                if self._pulse.phase is Phase.FINISHED or (self._exited() and not self._is_watched()):
                    return 0
        finally:
            for source in self._inputs:
                source.close()

    def _look(self) -> tuple[str, float] | None:
        """Wait a moment for something to happen; the reason to trip and since when it was there, if any."""
        readable, _, _ = select.select([self._parent, *self._inputs], [], [], LOOK_EVERY)
        self._pulse.alive()
        now = time.monotonic()
        for source in readable:
            if isinstance(source, Keyboard | Lines) and (said := self._listen(source)):
                return said, now
        if self._settings.stop_file is not None:
            said = switch_says_stop(self._settings.stop_file, self._settings.stop_value)
            if said is not None and self._pulse.phase is not Phase.FINISHED:
                return said, now
        if self._pulse.phase is Phase.FAILED:
            return "the control loop could not stop the arm", self._pulse.last_beat
        if not self._is_watched():
            return None
        if self._exited():
            return "the control loop's process ended without releasing the arm", self._pulse.last_beat
        if self._settings.arm is None:
            return None  # a simulated arm that waits for its loop does no harm
        silent = now - self._pulse.last_beat
        if silent > (RESTING_TIMEOUT if self._pulse.phase is Phase.RESTING else self._settings.timeout):
            return f"the control loop was silent for {silent:.3f} s", self._pulse.last_beat
        return None

    def _is_watched(self) -> bool:
        """Whether the loop has the arm under its control."""
        return self._pulse.phase in (Phase.ARMED, Phase.RESTING)

    def _listen(self, source: Keyboard | Lines) -> str | None:
        orders = source.orders()
        if orders is None:
            self._inputs.remove(source)
            source.close()
            return None
        for said in orders:
            if said is Order.STOP:
                return f"the operator pressed stop ({source.source})"
            if isinstance(said, Press):
                self._pulse.press(said.joint, said.direction)
                continue
            if said in (Order.TAKE_OVER, Order.GIVE_BACK, Order.CHANGE_HANDS):
                person = said is Order.TAKE_OVER or (said is Order.CHANGE_HANDS and not self._pulse.person_drives)
                self._pulse.person_drives = person
                said = Order.TAKE_OVER if person else Order.GIVE_BACK
            else:
                self._pulse.order = said
            self._log("order", order=said.name.lower(), source=source.source)
        return None

    def _trip(self, cause: str, since: float) -> int:
        tripped = time.monotonic()
        self._pulse.state = WatchdogState.TRIPPED
        self._pulse.order = Order.STOP
        if self._settings.arm is not None:
            self._latch(cause)
        self._log("tripped", cause=cause, step=self._pulse.step, phase=self._pulse.phase.name.lower())
        killed = self._take_the_arm()
        released = time.monotonic()
        arm = self._settings.arm
        if arm is None:
            stopped = Stopped(True, {"arm": "simulated in the process of the control loop"})
        else:
            stopped = bring_to_rest(arm.make, self._settings.reaction)
        ended = time.monotonic()
        self._log(
            "stopped" if stopped.verified else "not_verified",
            cause=cause,
            killed=killed,
            detected_after=tripped - since,
            released_after=released - since,
            seconds_from_fault=ended - since,
            **stopped.details,
        )
        if self._settings.arm is not None:
            rests = f"The arm is at rest ({self._settings.reaction}), which was read back from it."
            _say(f"WATCHDOG: {cause}. {rests}" if stopped.verified else f"{NOT_STOPPED} {self._settings.log}")
        return 3 if stopped.verified else 4

    def _take_the_arm(self) -> bool:
        """Wait until the loop has released the arm or is dead; returns whether it had to be killed."""
        healthy = time.monotonic() - self._pulse.last_beat < self._settings.timeout
        until = time.monotonic() + (self._settings.grace if healthy else 0.0)
        while time.monotonic() < until and not self._exited():
            if not self._is_watched():
                return False
            time.sleep(0.002)
        if not self._is_watched() or self._exited():
            return False
        signal.pidfd_send_signal(self._parent, signal.SIGKILL)
        select.select([self._parent], [], [], 5.0)
        return True

    def _exited(self) -> bool:
        return bool(select.select([self._parent], [], [], 0)[0])

    def _latch(self, cause: str) -> None:
        try:
            write_json(self._settings.latch, {"cause": cause, "log": str(self._settings.log)})
        except ReflexError as error:
            _say(f"WATCHDOG: the next command will not know that it stopped the arm: {error}")

    def _log(self, event: str, **details: Any) -> None:
        """Write a line; a disk that is full keeps the watchdog from nothing."""
        times = {"time": time.monotonic(), "wall_time": time.time()}
        try:
            append_lines(self._settings.log, [{**times, "event": event, **details}])
        except ReflexError as error:
            _say(f"WATCHDOG: {event}, which is not in its log: {error}")


def _say(text: str) -> None:
    with suppress(OSError):  # nobody is left to tell that nobody can be told, and the arm comes first
        sys.stderr.write(f"\n{text}\n")
        sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Run the watchdog that a settings file describes."""
    # A Ctrl-C, or a terminal that closes, concerns the control loop, which then parks the arm, or dies and is missed.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    go_first(WATCHDOG)
    settings = WatchdogSettings.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
    return Watchdog(settings).run()
