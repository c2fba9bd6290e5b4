"""Values as a servo's memory has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from real_robot.arms.registers import (
    GOAL_POSITION,
    HOMING_OFFSET,
    PRESENT_LOAD,
    TORQUE_LIMIT,
    Register,
    describe_errors,
)


def test_a_negative_value_is_a_sign_bit_and_a_magnitude() -> None:
    assert HOMING_OFFSET.encode(-5) == [0x05, 0x08]
    assert HOMING_OFFSET.decode([0x05, 0x08]) == -5
    assert GOAL_POSITION.encode(-1) == [0x01, 0x80]
    assert PRESENT_LOAD.decode([0x64, 0x04]) == -100
    assert TORQUE_LIMIT.encode(500) == [0xF4, 0x01]


@given(st.sampled_from([HOMING_OFFSET, GOAL_POSITION, PRESENT_LOAD, TORQUE_LIMIT, Register(0)]), st.data())
def test_what_is_encoded_is_decoded(register: Register, data: st.DataObject) -> None:
    largest = (1 << (8 * register.size if register.sign_bit is None else register.sign_bit)) - 1
    value = data.draw(st.integers(0 if register.sign_bit is None else -largest, largest))
    raw = register.encode(value)
    assert len(raw) == register.size and all(0 <= byte < 256 for byte in raw)
    assert register.decode([*raw, 0xAA]) == value


@pytest.mark.parametrize(("register", "value"), [(HOMING_OFFSET, 2048), (TORQUE_LIMIT, -1), (Register(0), 256)])
def test_what_does_not_fit_is_refused(register: Register, value: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        register.encode(value)


def test_error_bits_in_words() -> None:
    assert describe_errors(0) == ""
    assert describe_errors(32 | 4) == "too hot, overload"
    assert describe_errors(64) == "unknown error bits 0x40"
