"""What a check found, and running checks so that one that raises does not end the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Broken(AssertionError):
    """A rule of the contract that does not hold; the message says what was found and what is right."""


@dataclass(frozen=True)
class Finding:
    """One rule, and how it fared."""

    subject: str
    """What was looked at: "suite, task 3", "policy"."""
    rule: str
    """What must hold, in a few words."""
    problem: str | None = None
    """What was found instead, and where in the user's code; None where the rule holds."""
    details: str | None = None
    """The traceback of an exception."""


def require(holds: Any, message: str) -> None:
    """Raise `Broken` unless it holds."""
    if not holds:
        raise Broken(message)


def run_checks(subject: str, rules: Sequence[tuple[str, Callable[[], object]]]) -> Iterator[Finding]:
    """Try every rule in order."""
    for rule, check in rules:
        try:
            check()
        except Broken as broken:
            yield Finding(subject, rule, str(broken))
        except Exception as error:  # noqa: BLE001 - whatever a user's code raises is the finding
            problem = f"{type(error).__name__}: {_shortened(str(error))} ({_place(error)})"
            yield Finding(subject, rule, problem, traceback.format_exc())
        else:
            yield Finding(subject, rule)


LONGEST = 240
"""Characters of an exception's message that are shown; a tensor's numbers would fill the table."""


def _shortened(message: str) -> str:
    """A message on one line, its end left out where it is long."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()} ..."


def _place(error: BaseException) -> str:
    """File and line that raised: the last one outside installed packages, which is the user's or ours."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not {"site-packages", "dist-packages"} & set(Path(frame.filename).parts)]
    frame = (outside or list(frames))[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"
