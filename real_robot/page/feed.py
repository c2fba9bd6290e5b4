"""The control loop's side of the page: start its process, and tell it what happens."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console

from real_robot.control.steps import EpisodeResult, Step
from real_robot.control.timing import STAGES, LatencyLog
from real_robot.page.channel import Sender, SharedPictures, StepRing
from real_robot.processes import child_environment
from real_robot.watchdog.settings import WatchdogSettings
from sim.embodiments import Embodiment
from vla.errors import ReflexError
from vla.safety.log import Row

HOST = "127.0.0.1"
"""Nobody outside this machine can open the page."""
ENDS_WITHIN = 5.0
"""Seconds in which the page's process must have ended."""


@contextmanager
def listening(port: int | None) -> Iterator[socket.socket | None]:
    """A socket that listens on this machine's own address; None without a port.

    Raises `ReflexError` for a port that cannot be had, before anything moves.
    """
    if port is None:
        yield None
        return
    try:
        listener = socket.create_server((HOST, port), backlog=16)
    except OSError as error:
        raise ReflexError(f"page={port}: {error.strerror or error}; give another port, or page=0 for any") from error
    with listener:
        yield listener


def address(listener: socket.socket) -> str:
    """What to type into a browser."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


class LivePage:
    """A deployment's page, in a process of its own; nothing without a listener. A context manager.

    What the loop tells it never waits (`real_robot.page.channel`): a page that is slow, frozen or dead misses things.
    """

    def __init__(
        self,
        listener: socket.socket | None,
        embodiment: Embodiment,
        watchdog: WatchdogSettings,
        latency: LatencyLog,
        console: Console,
        about: Mapping[str, Any],
    ) -> None:
        """`about` is what the page says of the run, JSON-ready. Nothing starts before the block is entered."""
        self._listener, self._embodiment, self._watchdog = listener, embodiment, watchdog
        self._latency, self._console, self._about = latency, console, dict(about)
        self._counts = dict.fromkeys(STAGES, 0)
        self._episode: int | None = None
        self._ended = False
        self._sender: Sender | None = None
        self._ring: StepRing | None = None
        self._pictures: SharedPictures | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._listener is None:
            return self
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        steps, pictures = os.memfd_create("reflex-steps"), os.memfd_create("reflex-pictures")
        with theirs:
            descriptors = (self._listener.fileno(), theirs.fileno(), steps, pictures)
            self._ring, self._pictures = StepRing(steps), SharedPictures(pictures, self._embodiment.cameras)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "real_robot.page", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=child_environment(),
            )
        os.close(steps)
        os.close(pictures)
        self._sender = Sender(ours)
        self._sender.send({"kind": "about", **self._about, **self._facts()})
        self._console.print(f"page: {address(self._listener)}", style="bold")
        self._listener.close()  # the page's alone: a browser shall not wait for one that has died
        return self

    def _facts(self) -> dict[str, Any]:
        action = self._embodiment.action
        return {
            "robot": self._embodiment.name,
            "frequency": self._embodiment.control_frequency,
            "joints": list(action.names),
            "units": list(action.units) or [""] * len(action.names),
            "cameras": [[camera.name, camera.height, camera.width] for camera in self._embodiment.cameras],
            "watchdog": self._watchdog.to_json(),
        }

    def begin(self, episode: int) -> None:
        """An episode, counted from 0, begins."""
        self._episode = episode
        self._say({"kind": "episode", "number": episode})

    def finish(self, result: EpisodeResult) -> None:
        """The episode is over."""
        self._say(
            {"kind": "result", "number": self._episode, "ending": str(result.ending), "detail": result.detail,
             "steps": result.steps, "missed": result.missed}
        )  # fmt: skip
        self._episode = None

    def end(self, ending: str | None) -> None:
        """The arm was let go of, and why, where that was before the deployment's time."""
        self._ended = True
        self._say({"kind": "end", "ending": ending})

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._sender is not None:
            self._sender.send(message)

    def show(self, step: Step) -> None:
        """A control step of an episode."""
        if self._ring is None or self._pictures is None:
            return
        for name, image in step.seen.images.items():
            self._pictures.put(name, image, step.seen.image_times[name])
        planned = step.planned
        self._ring.put(
            {
                "phase": step.source, "episode": self._episode,
                "time": step.sent_time, "number": step.tick.number, "missed": step.tick.missed,
                "asked": None if planned is None else finite(planned.action.tolist()),
                "sent": finite(step.sent.tolist()), "measured": finite(step.seen.reading.positions.tolist()),
                "decision": step.filtered.decision.value, "reasons": step.reasons,
                "chunk": None if planned is None or step.problem else planned.chunk,
                "index": None if planned is None or step.problem else planned.index,
                "stages": self._stages(),
            }
        )  # fmt: skip

    def show_move(self, row: Row) -> None:
        """A control step without a policy: a line of the log that `Mover` made."""
        if self._ring is None:
            return
        asked, measured = row["action"]["values"], row["measured"]
        self._ring.put(
            {
                "phase": row["phase"], "episode": None, "time": row["now"], "number": None, "missed": 0,
                "asked": finite(asked) if asked else None, "sent": finite(row["commanded"]),
                "measured": None if measured is None else finite(measured["values"]),
                "decision": row["decision"], "reasons": [reason for reason in row["reasons"] if row["phase"] != "hold"],
                "chunk": None, "index": None, "stages": {},
            }
        )  # fmt: skip

    def _stages(self) -> dict[str, list[float]]:
        """What was measured since the last control step: stage -> milliseconds."""
        found = {}
        for stage, count in self._counts.items():
            values, self._counts[stage] = self._latency.since(stage, count)
            if values:
                found[stage] = [round(1e3 * value, 4) for value in values]
        return found

    def __exit__(self, *exception: object) -> None:
        if self._sender is None or self._process is None or self._ring is None or self._pictures is None:
            return
        if not self._ended:  # it did not come so far that there was an arm to let go of
            self.end(None)
        self._sender.close()
        try:
            status = self._process.wait(ENDS_WITHIN)
            said = f"failed (status {status}); its message is above" if status else ""
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            said = f"did not end and was killed after {ENDS_WITHIN:g} s"
        self._ring.close()
        self._pictures.close()
        if said:
            self._console.print(f"[bold red]the page's process {said}[/]")


def finite(values: Iterable[float | str]) -> list[float | None]:
    """Numbers as JSON has them: three decimals, and None for what is not finite (the log writes that as a word)."""
    return [round(value, 3) if isinstance(value, float | int) and math.isfinite(value) else None for value in values]
