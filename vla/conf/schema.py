"""Between this project's configuration dataclasses and the types OmegaConf understands.

OmegaConf knows neither `Literal` nor how to fill a frozen dataclass. So a command's dataclass is mirrored into a
mutable one with plain types for composition, and the composed values then build the real one, which checks its literals
(`vla.run.settings.Checks`).
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from vla.conf.overrides import expand_home
from vla.errors import ReflexError
from vla.run.settings import strip_optional


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """One configuration field, for messages and help."""

    key: str
    """Dotted name, as written in an override."""
    annotation: Any
    """Its resolved type."""
    doc: str
    """The docstring under it, on one line."""


def is_config(annotation: Any) -> bool:
    """Whether an annotation is a dataclass type (a group of fields)."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def describe(annotation: Any) -> str:
    """An annotation in words a user can act on: "an integer", "a list of integers, e.g. [0,1], or null"."""
    inner, optional = strip_optional(annotation)
    return _describe(inner) + (" or null" if optional else "")


def _describe(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if origin in (list, tuple):
        item = get_args(annotation)[0]
        plural = {int: "integers, e.g. [0,1]", float: "numbers, e.g. [0.5,1]", str: "names, e.g. [a,b]"}
        return f"a list of {plural.get(item, 'values')}"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return words.get(annotation, str(getattr(annotation, "__name__", annotation)))


def type_name(annotation: Any) -> str:
    """An annotation as short as it can be written: `int | None`, `list[int]`, `srpo|grpo`."""
    inner, optional = strip_optional(annotation)
    if get_origin(inner) is Literal:
        name = "|".join(str(choice) for choice in get_args(inner))
    elif isinstance(inner, type) and not get_args(inner):
        name = inner.__name__
    else:
        name = str(inner).replace("typing.", "")
    return f"{name} or null" if optional else name


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring under each field of a dataclass, inherited ones included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                docs[statement.target.id] = " ".join(following.value.value.split())
    return docs


def fields_of(cls: type[Any], prefix: str = "") -> list[FieldInfo]:
    """Every field an override can name, nested ones after the group they belong to."""
    hints, docs = get_type_hints(cls), field_docs(cls)
    found: list[FieldInfo] = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        info = FieldInfo(prefix + field.name, hints[field.name], docs.get(field.name, ""))
        found.append(info)
        inner, _ = strip_optional(info.annotation)
        if is_config(inner):
            found.extend(fields_of(inner, f"{info.key}."))
    return found


def mirror(cls: type[Any]) -> type[Any]:
    """A mutable dataclass with the fields of `cls` in types OmegaConf accepts; one without a default is mandatory."""
    hints = get_type_hints(cls)
    members: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(cls):
        if field.init:
            annotation = _plain_type(hints[field.name])
            members.append(
                (field.name, annotation, dataclasses.field(default_factory=_default_factory(field, annotation)))
            )
    return dataclasses.make_dataclass(f"{cls.__name__}Schema", members)


def _default_factory(field: dataclasses.Field[Any], annotation: Any) -> Any:
    def make() -> Any:
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            return MISSING
        inner, _ = strip_optional(annotation)
        return _mirror_value(default, inner) if dataclasses.is_dataclass(default) else default

    return make


def _mirror_value(value: Any, mirrored: type[Any]) -> Any:
    hints = get_type_hints(mirrored)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(mirrored):
        item = getattr(value, field.name)
        inner, _ = strip_optional(hints[field.name])
        values[field.name] = _mirror_value(item, inner) if dataclasses.is_dataclass(item) else item
    return mirrored(**values)


def _plain_type(annotation: Any) -> Any:
    inner, optional = strip_optional(annotation)
    origin = get_origin(inner)
    if origin is Literal:
        kinds = {type(choice) for choice in get_args(inner)}
        inner = kinds.pop() if len(kinds) == 1 else Any
    elif is_config(inner):
        inner = mirror(inner)
    elif origin is list:
        inner = list[_plain_type(get_args(inner)[0])]  # type: ignore[misc]  # a type computed at run time
    elif origin is tuple:
        inner = tuple[tuple(part if part is Ellipsis else _plain_type(part) for part in get_args(inner))]  # type: ignore[misc]
    return inner | None if optional and inner is not Any else inner


def build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Construct the real dataclass from composed values.

    Raises:
        ReflexError: the dataclass refused its values.
    """
    hints = get_type_hints(cls)
    converted = {name: _convert(hints[name], value) for name, value in values.items()}
    try:
        return cls(**converted)
    except ValueError as error:
        raise ReflexError(str(error)) from error


def _convert(annotation: Any, value: Any) -> Any:
    inner, _ = strip_optional(annotation)
    if value is None:
        return None
    if is_config(inner):
        return build(inner, value)
    origin = get_origin(inner)
    if origin in (list, tuple):
        item = get_args(inner)[0]
        return origin(_convert(item, entry) for entry in value)
    if isinstance(value, Path):
        return Path(expand_home(str(value)))
    return expand_home(value) if inner is str else value
