"""The value of an override, by the type of its field: text stays as it was typed, and 1e3 is a whole number.

Hydra guesses a value's type from its look, before it knows the field: `output=1e-3` would be a folder 0.001,
`output=true` a folder True, and a path with `~`, `=`, a comma or a bracket no value at all.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from vla.errors import ReflexError
from vla.run.settings import strip_optional

NULL = "null"
_QUOTES = "'\""


def is_text(annotation: Any) -> bool:
    """Whether a field holds text (a path and a choice of words are text too), or a list of text."""
    inner, _ = strip_optional(annotation)
    if get_origin(inner) in (list, tuple):
        return is_text(get_args(inner)[0])
    if get_origin(inner) is Literal:
        return all(isinstance(choice, str) for choice in get_args(inner))
    return inner in (str, Path)


def read_text(key: str, typed: str, annotation: Any) -> str | list[str] | None:
    """The value of a text field, as it was typed but for one pair of quotes around it; null is None.

    Raises `ReflexError` for no text at all, for null where the field needs text, and for a list that does not end.
    """
    inner, optional = strip_optional(annotation)
    of_many = get_origin(inner) in (list, tuple)
    if typed == NULL:
        if optional:
            return None
        kind = "a list, e.g. [a,b]" if of_many else "text"
        raise ReflexError(f"{key} must be {kind}, not null (the word itself is written {key}=\"'{NULL}'\")")
    if of_many:
        return _read_list(key, typed)
    text = _unquoted(typed)
    if not text:
        raise ReflexError(f"{key} is empty; give it a value" + (f", or {key}={NULL} for none" if optional else ""))
    return text


def spell_value(typed: str, annotation: Any) -> str:
    """A value that is no text, as Hydra reads it: 1e3 for an integer is 1000, and 0 for a list is [0]."""
    inner, _ = strip_optional(annotation)
    if inner is int:
        return _whole(typed)
    single = re.fullmatch(r"[-+.\w]+", typed) is not None and typed != NULL
    return f"[{typed}]" if get_origin(inner) in (list, tuple) and single else typed


def expand_home(text: str) -> str:
    """`~/x` is in the home folder wherever a shell left it as it is (`output=~/x`), and so is `~name/x`."""
    return os.path.expanduser(text) if re.match(r"~[^/]*/|~$", text) else text  # noqa: PTH111 (keeps what is no path)


def _whole(typed: str) -> str:
    """ "1e3" as "1000"; what is no whole number stays, for the message that names the field."""
    try:
        number = Decimal(typed)
    except InvalidOperation:
        return typed
    large = number.is_finite() and abs(number.adjusted()) < 19
    return str(int(number)) if large and number == number.to_integral_value() else typed


def _read_list(key: str, typed: str) -> list[str]:
    """ "[a,'b,c']" as ["a", "b,c"], and "a" as ["a"]."""
    if not typed.startswith("["):
        return [_unquoted(typed)]
    if not typed.endswith("]"):
        raise ReflexError(f"{key}={typed} begins a list that does not end; write {key}=[a,b]")
    items = re.findall(r"""\s*('[^']*'|"[^"]*"|[^,]*?)\s*(?:,|$)""", typed[1:-1])
    return [_unquoted(item) for item in items if item]


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES
    return text[1:-1] if quoted else text
