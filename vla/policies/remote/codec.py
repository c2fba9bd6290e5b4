"""The messages of openpi's protocol: msgpack, with arrays as dictionaries of their bytes, type and shape.

The same bytes as `openpi_client.msgpack_numpy` writes and reads. Decoding trusts nothing: what arrives may come from
anybody who can open a connection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from vla.errors import ReflexError

ARRAY, SCALAR, DATA, DTYPE, SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"

KINDS = "biufSU"
"""Kinds of numpy types that travel: truth values, integers, floating-point numbers and text."""
MOST_DIMENSIONS = 8
MOST_CONTAINERS = 4096
"""Dictionaries and lists in a message: a few megabytes of empty lists would become gigabytes of objects."""
LONGEST_LIST = 1 << 16
LARGEST_ITEM = 1 << 16
"""Bytes of one element of an array: text has a width of its own."""


class WireError(ReflexError):
    """A message that is not what the protocol says. The text says what is wrong with it."""


def encode(message: Any) -> bytes:
    """Bytes of a message made of dictionaries, lists, numbers, text, bytes, and numpy's arrays and scalars.

    Raises `WireError` for anything else, such as an array of objects.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"the message cannot be sent: {error}") from error
    return packed


def decode(data: bytes, most_bytes: int | None = None) -> Any:
    """The message of `encode`. Arrays are read-only, as openpi's are.

    Raises `WireError` for more than `most_bytes`, bytes that are no msgpack, an array whose parts do not fit each
    other, or one of objects.
    """
    if most_bytes is not None and len(data) > most_bytes:
        raise WireError(f"the message has {len(data)} bytes, and at most {most_bytes} are read")
    containers = 0

    def count() -> None:
        nonlocal containers
        containers += 1
        if containers > MOST_CONTAINERS:
            raise WireError(f"the message has more than {MOST_CONTAINERS} dictionaries and lists")

    def mapping(values: dict[Any, Any]) -> Any:
        count()
        return _rich(values)

    def sequence(values: list[Any]) -> list[Any]:
        count()
        return values

    try:
        return msgpack.unpackb(
            data,
            object_hook=mapping,
            list_hook=sequence,
            ext_hook=_no_extension,
            max_array_len=LONGEST_LIST,
            max_map_len=LONGEST_LIST,
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, MemoryError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise WireError(f"the message is not msgpack as this protocol has it: {reason}") from error


def decode_mapping(data: bytes, most_bytes: int | None = None) -> dict[str, Any]:
    """`decode` of a message that is a dictionary, as all of them are. Raises `WireError` where it is not."""
    message = decode(data, most_bytes)
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError(f"the message is no dictionary with text as keys, but {_describe(message)}")
    return message


def _plain(value: Any) -> Any:
    """What msgpack has no form for, as dictionaries that it has."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in KINDS:
            raise TypeError(f"values of numpy's type {value.dtype} do not travel")
        if isinstance(value, np.ndarray):
            return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}
        return {SCALAR: True, DATA: value.item(), DTYPE: value.dtype.str}
    raise TypeError(f"values of type {type(value).__name__} do not travel")


def _rich(values: dict[Any, Any]) -> Any:
    """The array or scalar that a dictionary stands for, or the dictionary itself."""
    if ARRAY in values:
        return _array(values)
    if SCALAR in values:
        return _scalar(values)
    return values


def _array(values: Mapping[Any, Any]) -> Any:
    dtype, data, shape = _dtype(values), values.get(DATA), values.get(SHAPE)
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise WireError(f"an array's shape is a list of whole numbers, not {_describe(shape)}")
    if len(shape) > MOST_DIMENSIONS:
        raise WireError(f"an array has {len(shape)} dimensions; at most {MOST_DIMENSIONS} are read")
    if not isinstance(data, bytes):
        raise WireError(f"an array's data are bytes, not {_describe(data)}")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise WireError(f"an array of {dtype} with shape {shape} has {expected} bytes, and {len(data)} came")
    return np.frombuffer(data, dtype).reshape(shape) if data else np.zeros(shape, dtype)


def _scalar(values: Mapping[Any, Any]) -> Any:
    dtype, data = _dtype(values), values.get(DATA)
    if not isinstance(data, bool | int | float | str | bytes):
        raise WireError(f"a scalar's data are one number or text, not {_describe(data)}")
    try:
        return dtype.type(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"a scalar of type {dtype} cannot be {_describe(data)}: {error}") from error


def _dtype(values: Mapping[Any, Any]) -> np.dtype[Any]:
    name = values.get(DTYPE)
    if not isinstance(name, str) or len(name) > 16:
        raise WireError(f"an array's dtype is text such as '<f4', not {_describe(name)}")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise WireError(f"there is no dtype {name!r}") from error
    if dtype.kind not in KINDS or dtype.subdtype is not None:
        raise WireError(f"arrays of dtype {name!r} are not read; numbers, truth values and text are")
    if dtype.itemsize > LARGEST_ITEM or (dtype.itemsize == 0 and values.get(ARRAY)):
        raise WireError(f"elements of dtype {name!r} have {dtype.itemsize} bytes; 1 to {LARGEST_ITEM} are read")
    return dtype


def _no_extension(code: int, _: bytes) -> Any:
    raise WireError(f"the message holds a msgpack extension (type {code}), which this protocol has not")


def _describe(value: Any) -> str:
    text = repr(value) if isinstance(value, bool | int | float | type(None)) else f"a {type(value).__name__}"
    return text[:80]
