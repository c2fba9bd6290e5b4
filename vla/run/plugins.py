"""Classes by name: those that ship with Reflex, one file each, and a user's own by import path or entry point.

A shipped one is called by its file's name: `rloo` is the class in `vla/rl/variants/rloo.py`, so a new file is all that
a new one takes. One of a user's own is `package.module:Class`, or the name of an entry point in the group
`reflex.plugins`.

What can be set of it is the dataclass `Settings` of its class. Values come as a dictionary, since the classes are not
known before they are named; they are checked against that dataclass.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sim import plugins
from sim.plugins import PluginError, entry_point
from vla.errors import ReflexError


class Part:
    """Something a run is made of, found by name. What can be set of it is the dataclass `Settings`."""

    @dataclasses.dataclass(frozen=True)
    class Settings:
        """Nothing to set."""

    @classmethod
    def check_algorithm(cls, algo: Any) -> None:
        """Raise `ReflexError` when it cannot work in this `AlgoConfig`: before anything runs or is written."""

    @classmethod
    def check_run(cls, run: Any) -> None:
        """The same of a whole `TrainConfig`."""

    def save(self, folder: Path) -> None:
        """Write what it remembers into a checkpoint; most remember nothing."""

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when a file is damaged or missing."""


def load_class(name: str, base: type[Any], places: Sequence[str], setting: str) -> type[Any]:
    """The class called `name`, a subclass of `base`.

    Args:
        name: of a shipped one, of an entry point, or "package.module:Class".
        base: what it must be.
        places: modules and packages that hold the shipped ones; a module is known by its last name.
        setting: what to call it in a message, e.g. "algo.advantage".

    Raises:
        ReflexError: there is none of that name, it cannot be imported, or it is something else.
    """
    if ":" in name:
        return _checked(_import(name, setting), base, name, setting)
    modules = _modules(places)
    if name in modules:
        own = _class_in(modules[name], base)
        if own is not None:
            return own
    if path := entry_point(name):
        return _checked(_import(path, setting), base, name, setting)
    known = list(shipped_classes(base, places))
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise ReflexError(
        f"{setting} is {name!r}{hint}; it must be one of {', '.join(known)}, or package.module:Class of your own"
    )


def load_object(name: str, known: Mapping[str, str], setting: str) -> Any:
    """What is called `name`: one of `known` (name -> import path), an entry point, or "package.module:Class".

    `setting` is what messages call it. Raises `ReflexError` when there is none, or when it cannot be imported.
    """
    path = known.get(name) or (name if ":" in name else entry_point(name))
    if path is None:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise ReflexError(
            f"{setting} is {name!r}{hint}; it must be one of {', '.join(known)}, or package.module:Class of your own"
        )
    return _import(path, setting)


def shipped_classes(base: type[Any], places: Sequence[str]) -> dict[str, type[Any]]:
    """Those that ship with Reflex, by name."""
    found = {name: _class_in(module, base) for name, module in sorted(_modules(places).items())}
    return {name: cls for name, cls in found.items() if cls is not None}


def settings_key(name: str) -> str:
    """What the settings of the class called `name` are filed under: the name, or the class of an import path."""
    return name.rpartition(":")[2]


def settings_of(
    cls: type[Any], name: str, settings: Mapping[str, Mapping[str, Any]], setting: str = "algo.settings"
) -> Any:
    """The `Settings` of the class called `name`, from those of several classes by `settings_key`.

    Raises:
        ReflexError: a key that the dataclass does not have, a value of another type, or one that it refuses; `setting`
            is what messages call the settings.
    """
    key = settings_key(name)
    values, prefix = settings.get(key, {}), f"{setting}.{key}"
    kind: type[Any] = cls.Settings
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            nearest = difflib.get_close_matches(key, hints, n=1)
            hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            known = ", ".join(hints) or "nothing to set"
            raise ReflexError(f"{prefix}.{key} does not exist{hint}; {prefix} has {known}")
        if not _fits(value, hints[key]):
            raise ReflexError(f"{prefix}.{key} is {value!r}; it must be {_in_words(hints[key])}")
    try:
        made = kind(**values)
    except ReflexError as error:  # it begins with the field's name
        raise ReflexError(f"{prefix}.{error}") from error
    # A whole number that stands for a real one becomes it, so that both are one configuration.
    reals = {key: float(value) for key, value in values.items() if hints[key] is float}
    return dataclasses.replace(made, **reals)


def _modules(places: Sequence[str]) -> dict[str, str]:
    """Module names by their last part: the places themselves, or what is in them where they are packages."""
    found: dict[str, str] = {}
    for place in places:
        module = importlib.import_module(place)
        if hasattr(module, "__path__"):
            found |= {info.name: f"{place}.{info.name}" for info in pkgutil.iter_modules(module.__path__)}
        else:
            found[place.rpartition(".")[2]] = place
    return found


def _class_in(module_name: str, base: type[Any]) -> type[Any] | None:
    module = importlib.import_module(module_name)
    for value in vars(module).values():
        own = isinstance(value, type) and issubclass(value, base) and value.__module__ == module_name
        if own and not inspect.isabstract(value):
            found: type[Any] = value
            return found
    return None


def _import(path: str, setting: str) -> Any:
    try:
        return plugins.load_object(path)
    except PluginError as error:
        raise ReflexError(
            f"{setting}: {error}; it must read package.module:Class, of a package that is installed or in the folder "
            "of the command"
        ) from error


def _checked(found: Any, base: type[Any], name: str, setting: str) -> type[Any]:
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise ReflexError(f"{setting} is {name!r}, which is no subclass of {base.__module__}.{base.__name__}")


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(annotation))
    if origin is Literal:
        return value in get_args(annotation)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or annotation)


def _in_words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(part) for part in get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return words.get(annotation, str(annotation))
