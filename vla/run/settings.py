"""Checks of a command's settings, the same for every configuration: a refusal names the field and what is right."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vla.errors import ReflexError

__all__ = ["SHARED_MINIMA", "Checks", "flat_settings", "strip_optional"]

SHARED_MINIMA = {
    "checkpoint_every": 1,
    "episodes_per_task": 1,
    "evaluate_every": 0,
    "evaluation_episodes_per_task": 1,
    "image_size": 16,
    "keep_checkpoints": 1,
    "num_slots": 1,
    "num_workers": 0,
    "seed": 0,
    "threads": 1,
    "videos_per_task": 0,
}
"""Settings that several commands have, and the least that each may be."""

GREATEST_IMAGE_SIZE = 2048
"""Pixels a side; what a suite can draw (`sim.suites.check_image_size`)."""


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
        """`literals`, the settings of `SHARED_MINIMA` that this configuration has, `image_size` and `tasks`."""
        self.literals()
        names = {field.name for field in dataclasses.fields(self.config)}
        for name in SHARED_MINIMA:
            if name in names:
                self.at_least(SHARED_MINIMA[name], name)
        if "image_size" in names:
            self._check_image_size()
        if "tasks" in names:
            for _, tasks in self._given(("tasks",)):
                if not tasks or len(set(tasks)) != len(tasks):
                    self._refuse("tasks", "name at least one task, and each task once, such as [0,1]")

    def _check_image_size(self) -> None:
        for _, size in self._given(("image_size",)):
            if size % 2 or size > GREATEST_IMAGE_SIZE:
                rule = f"be an even number up to {GREATEST_IMAGE_SIZE}"
                self._refuse("image_size", rule, "pictures become videos, whose sides are even")

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


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
