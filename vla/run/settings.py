"""Checks of a command's settings, the same for every configuration: a refusal names the field and what is right."""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vla.errors import ReflexError

__all__ = ["SHARED_MINIMA", "Checks", "strip_optional"]

SHARED_MINIMA = {
    "checkpoint_every": 1,
    "episodes_per_task": 1,
    "evaluate_every": 0,
    "evaluation_episodes_per_task": 1,
    "image_size": 1,
    "keep_checkpoints": 1,
    "num_slots": 1,
    "num_workers": 0,
    "seed": 0,
    "threads": 1,
    "videos_per_task": 0,
}
"""Settings that several commands have, and the least that each may be."""


@dataclass(frozen=True)
class Checks:
    """Checks of a configuration's fields, for its `__post_init__`.

    Null passes every check: whether a field may be null is what its type says. Every method raises `ReflexError`.
    """

    config: Any
    prefix: str = ""
    """What stands before the fields' names on the command line, such as "algo."."""

    def literals(self) -> None:
        """Each field whose type is a `Literal` has one of its values."""
        for name, annotation in get_type_hints(type(self.config)).items():
            inner, _ = strip_optional(annotation)
            allowed = get_args(inner) if get_origin(inner) is Literal else ()
            if allowed and any(value not in allowed for _, value in self._given((name,))):
                self._refuse(name, f"be one of {', '.join(map(str, allowed))}")

    def shared(self) -> None:
        """`literals`, and the settings of `SHARED_MINIMA` that this configuration has."""
        self.literals()
        for field in dataclasses.fields(self.config):
            if field.name in SHARED_MINIMA:
                self.at_least(SHARED_MINIMA[field.name], field.name)

    def at_least(self, low: int, *names: str, reason: str = "") -> None:
        """Each of these fields is `low` or more."""
        for name, value in self._given(names):
            if not value >= low:
                self._refuse(name, f"be at least {low}", reason)

    def positive(self, *names: str) -> None:
        """Each of these fields is a finite number above 0."""
        for name, value in self._given(names):
            if not (value > 0 and math.isfinite(value)):
                self._refuse(name, "be a positive number")

    def within(self, low: float, high: float, *names: str, reason: str = "") -> None:
        """Each of these fields lies in [low, high]."""
        for name, value in self._given(names):
            if not low <= value <= high:
                self._refuse(name, f"lie in [{low:g}, {high:g}]", reason)

    def _given(self, names: tuple[str, ...]) -> list[tuple[str, Any]]:
        return [(name, value) for name in names if (value := getattr(self.config, name)) is not None]

    def _refuse(self, name: str, rule: str, reason: str = "") -> None:
        value = getattr(self.config, name)
        raise ReflexError(f"{self.prefix}{name} is {value!r}; it must {rule}" + (f": {reason}" if reason else ""))


def strip_optional(annotation: Any) -> tuple[Any, bool]:
    """`X | None` -> (X, True); anything else -> (itself, False)."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        if len(rest) < len(get_args(annotation)):
            return (rest[0] if len(rest) == 1 else Union[tuple(rest)]), True  # noqa: UP007 (built at run time)
    return annotation, False
