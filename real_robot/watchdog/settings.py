"""What the watchdog is told when it starts, as JSON between the two processes."""

from __future__ import annotations

import dataclasses
import fcntl
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from real_robot.arms.arm import Arm
from vla.errors import ReflexError, writing

Reaction = Literal["hold", "stop", "torque_off"]
"""What the watchdog commands: hold where the arm is; come to rest and stay; or that and let go, which drops an arm that
gravity pulls."""


@dataclass(frozen=True)
class ArmSpec:
    """How any process makes a handle of its own to the same arm."""

    factory: str
    """module:function that returns an arm, not yet connected."""
    settings: Mapping[str, Any]
    """Its keyword arguments, JSON-ready."""

    def make(self) -> Arm:
        """The handle. Raises what the factory raises."""
        module, _, name = self.factory.partition(":")
        arm: Arm = getattr(importlib.import_module(module), name)(**self.settings)
        return arm


@dataclass(frozen=True)
class WatchdogSettings:
    """Everything the watchdog needs."""

    arm: ArmSpec | None
    """None for an arm that is simulated in the loop's process, and rests when that does."""
    parent: int
    """Process id of the control loop."""
    pulse: Path
    """File of the shared numbers."""
    log: Path
    """watchdog.jsonl of the run."""
    latch: Path
    """File that stays after a trip, until somebody resets it."""
    reaction: Reaction = "hold"
    timeout: float = 0.25
    """Seconds without a beat after which it trips."""
    grace: float = 0.2
    """Seconds that the loop has to stop the arm and release it after an order, before it is killed."""
    pipe: Path | None = None
    """Named pipe on which an operator, or another program, writes lines: `WORDS` or `PRESSES` of `operator`."""
    stop_file: Path | None = None
    """File that is read over and over, such as a GPIO's value; a file that cannot be read counts as a stop."""
    stop_value: str = "1"
    """Its content, without spaces, that means stop."""
    stdin: bool = False
    """Keys of a terminal (`real_robot.watchdog.operator.KEYS`), or lines of a pipe."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> WatchdogSettings:
        """Inverse of `to_json`."""
        values = json.loads(text)
        for name in ("pulse", "log", "latch", "pipe", "stop_file"):
            values[name] = None if values[name] is None else Path(values[name])
        arm = None if values["arm"] is None else ArmSpec(**values["arm"])
        return cls(**{**values, "arm": arm})


@dataclass(frozen=True)
class Latch:
    """What stays after a trip: no new run moves this arm before somebody has looked at it."""

    path: Path
    details: Mapping[str, Any] = field(default_factory=dict)

    def check(self, reset: bool) -> None:
        """Raise `ReflexError` when the arm was stopped and nobody has reset it; with `reset`, take the latch away."""
        if reset:
            self.path.unlink(missing_ok=True)
            return
        if not self.path.exists():
            return
        try:
            details = json.loads(self.path.read_text(encoding="utf-8"))
            said = f"{details['cause']} ({details['log']})"
        except (OSError, ValueError, KeyError, TypeError):
            said = "no readable reason was left"
        raise ReflexError(
            f"the watchdog stopped this arm: {said}. Look at the arm and its surroundings, then give "
            f"reset_watchdog=true (it removes {self.path})"
        )


@contextmanager
def alone_with_arm(latch: Path) -> Iterator[None]:
    """Keep other commands of this user away from the arm meanwhile: a serial port itself lets any number open it.

    Raises `ReflexError` when another command drives it.
    """
    path = latch.with_suffix(".lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReflexError("another command drives this arm; wait for it, or stop it first") from error
        yield
