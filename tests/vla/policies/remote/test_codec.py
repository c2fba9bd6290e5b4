"""The codec writes what openpi's writes, and reads nothing that is wrong."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from vla.policies.remote.codec import MOST_CONTAINERS, WireError, decode, decode_mapping, encode

MESSAGE: dict[str, Any] = {
    "actions": np.array([[1, 2], [3, 4]], np.float32),
    "step": np.int64(7),
    "name": "go",
    "x": np.float64(0.5),
    "l": [1, 2.5, None, True],
}
OPENPI = (  # openpi_client.msgpack_numpy.packb of openpi-client 0.1.2
    b"\x85\xa7actions\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x10\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@"
    b"\xc4\x05dtype\xa3<f4\xc4\x05shape\x92\x02\x02\xa4step\x83\xc4\r__npgeneric__\xc3\xc4\x04data\x07\xc4\x05dtype"
    b"\xa3<i8\xa4name\xa2go\xa1x\xcb?\xe0\x00\x00\x00\x00\x00\x00\xa1l\x94\x01\xcb@\x04\x00\x00\x00\x00\x00\x00\xc0\xc3"
)
NUMBERS = st.sampled_from(["?", "|u1", "<i2", ">i4", "<i8", "<f2", "<f4", ">f8", "<u8"])


def array_message(**changes: Any) -> bytes:
    """An array of two floats as it travels, with something else in it."""
    parts = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2]}
    packed: bytes = msgpack.packb({**parts, **{key.encode(): value for key, value in changes.items()}})
    return packed


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (
        (one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
        if isinstance(one, np.ndarray | np.generic)
        else one == other
    )


def test_the_bytes_are_openpis() -> None:
    assert encode(MESSAGE) == OPENPI
    read = decode_mapping(OPENPI)
    assert read["actions"].tolist() == [[1, 2], [3, 4]]
    assert same(read["step"], np.int64(7))
    assert (read["name"], read["x"], read["l"]) == ("go", 0.5, [1, 2.5, None, True])
    assert not read["actions"].flags.writeable


@given(NUMBERS.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))))
def test_arrays_arrive_as_they_were(array: NDArray[Any]) -> None:
    assert same(decode(encode({"value": array}))["value"], array)


@given(NUMBERS.flatmap(lambda kind: arrays(kind, ())))
def test_so_do_scalars(array: NDArray[Any]) -> None:
    sent = array[()]
    assert np.array_equal(decode(encode([sent]))[0], sent, equal_nan=True)


def test_text_in_numpys_types_arrives() -> None:
    assert decode(encode(np.str_("pick"))) == "pick"
    assert decode(encode(np.array(["a", "bcd"]))).tolist() == ["a", "bcd"]


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array([1j]), np.zeros(1, [("a", "f4")]), object(), {1, 2}, 1 << 70]
)
def test_what_has_no_form_is_not_sent(value: Any) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        encode({"value": value})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array_message(dtype="|O"), "'|O' are not read"),
        (array_message(dtype="<c8", shape=[1]), "are not read"),
        (array_message(dtype="<M8[s]", shape=[1]), "are not read"),
        (array_message(dtype="(2,)f4", shape=[1]), "are not read"),
        (array_message(dtype="f4,f4", shape=[1]), "are not read"),
        (array_message(dtype="nonsense"), "no dtype 'nonsense'"),
        (array_message(dtype="<f4" * 9), "dtype is text such as"),
        (array_message(dtype=None), "dtype is text such as '<f4', not None"),
        (array_message(dtype="<U0", data=b"", shape=[1 << 40]), "have 0 bytes"),
        (array_message(shape=[3]), r"shape \[3\] has 12 bytes, and 8 came"),
        (array_message(shape=[-1, -2]), "whole numbers"),
        (array_message(shape=[1 << 62, 1 << 62]), "has .* bytes, and 8 came"),
        (array_message(shape=[True, 2]), "whole numbers"),
        (array_message(shape=2), "whole numbers, not 2"),
        (array_message(shape=[1] * 8 + [2]), "9 dimensions"),
        (array_message(data="12345678"), "data are bytes, not a str"),
        (msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "<i4"}), "one number or text, not a list"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1 << 40, b"dtype": "<i4"}), "cannot be"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}), "are not read"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), r"extension \(type 5\)"),
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (msgpack.packb({"a": 1})[:-1], "not msgpack"),
        (msgpack.packb(1) + b"\x01", "extra data"),
        (b"\xa2\xff\xff", "not msgpack"),
        (b"\x91" * 5000, f"not msgpack|more than {MOST_CONTAINERS}"),
        (b"\xdc\xff\xff" + b"\x90" * 65535, f"more than {MOST_CONTAINERS}"),
        (b"\xdd\x7f\xff\xff\xff", "exceeds max_array_len"),
        (b"\x81\x01\x02", "not msgpack"),  # a number as a key
    ],
)
def test_wrong_messages_are_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode(data)


def test_a_message_over_the_limit_is_not_looked_at() -> None:
    data = encode({"a": 1})
    assert decode(data, len(data)) == {"a": 1}
    with pytest.raises(WireError, match=f"has {len(data)} bytes, and at most {len(data) - 1}"):
        decode(data, len(data) - 1)


@pytest.mark.parametrize("value", [[1], 3, None, {b"a": 1}])
def test_a_message_is_a_dictionary_with_text_as_keys(value: Any) -> None:
    with pytest.raises(WireError, match="no dictionary with text as keys"):
        decode_mapping(encode(value))


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        decode(data)
    except WireError as error:
        assert len(str(error)) < 1000


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(OPENPI) - 1), st.integers(0, 255)), max_size=5), st.integers(0, len(OPENPI))
)
def test_nor_does_a_message_with_wrong_bytes(edits: list[tuple[int, int]], length: int) -> None:
    data = bytearray(OPENPI)
    for place, value in edits:
        data[place] = value
    try:
        decode_mapping(bytes(data[:length]))
    except WireError as error:
        assert len(str(error)) < 1000
