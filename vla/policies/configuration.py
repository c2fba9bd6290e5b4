"""Configurations of policies from and to what a policy folder's config.json holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from vla.errors import ReflexError

Built = TypeVar("Built")


def build(kind: type[Built], values: Mapping[str, Any]) -> Built:
    """A configuration dataclass from keyword values (lists become tuples).

    Raises `ReflexError` naming fields that are unknown or missing.
    """
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type] # a dataclass
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ReflexError(f"unknown policy configuration field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ReflexError(f"the policy configuration is incomplete or malformed: {error}") from error


def without_constants(values: Mapping[str, Any], constants: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Values of a config.json without fields that a family has no longer, because they were always the same in it.

    Raises `ReflexError` for a folder in which one is not.
    """
    for name, constant in constants.items():
        if name in values and values[name] != constant:
            raise ReflexError(
                f"{name} is {values[name]!r}, and policies of the family {family!r} have {constant!r}; a version of "
                "before there were families wrote this folder, and reads it"
            )
    return {name: value for name, value in values.items() if name not in constants}
