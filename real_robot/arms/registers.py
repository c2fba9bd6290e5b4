"""The memory of a Feetech STS3215 servo: addresses, sizes and signs, as its manual and LeRobot's tables have them.

Two-byte values are little-endian. A signed value is a sign bit and a magnitude, not two's complement.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL_NUMBER_STS3215 = 777
RESOLUTION = 4096
"""Steps of a turn."""

ERROR_BITS = {1: "voltage out of range", 2: "angle sensor failed", 4: "too hot", 8: "too much current", 32: "overload"}
"""Bits of a status packet's error byte."""


@dataclass(frozen=True)
class Register:
    """One value in a servo's memory."""

    address: int
    size: int = 1
    """Bytes."""
    sign_bit: int | None = None
    """Which bit is the sign; None for a number without."""

    def encode(self, value: int) -> list[int]:
        """Its bytes, the low one first. Raises `ValueError` for a value that does not fit."""
        magnitude_bits = 8 * self.size if self.sign_bit is None else self.sign_bit
        if not abs(value) < 1 << magnitude_bits or (value < 0 and self.sign_bit is None):
            raise ValueError(f"{value} does not fit into the register at address {self.address}")
        raw = value if value >= 0 or self.sign_bit is None else -value | 1 << self.sign_bit
        return [raw >> 8 * index & 0xFF for index in range(self.size)]

    def decode(self, data: list[int] | bytes | bytearray) -> int:
        """Inverse of `encode`."""
        raw = sum(byte << 8 * index for index, byte in enumerate(data[: self.size]))
        if self.sign_bit is not None and raw >> self.sign_bit & 1:
            return -(raw & (1 << self.sign_bit) - 1)
        return raw


FIRMWARE_MAJOR, FIRMWARE_MINOR = Register(0), Register(1)
MODEL_NUMBER = Register(3, 2)
ID = Register(5)
BAUD_RATE = Register(6)
RETURN_DELAY = Register(7)
"""Units of 2 microseconds between an instruction and its answer."""
RESPONSE_LEVEL = Register(8)
"""0: only pings and reads are answered; 1: writes too."""
MIN_POSITION, MAX_POSITION = Register(9, 2), Register(11, 2)
MAX_TEMPERATURE, MAX_VOLTAGE, MIN_VOLTAGE = Register(13), Register(14), Register(15)
MAX_TORQUE = Register(16, 2)
"""Thousandths of the stall torque; what `TORQUE_LIMIT` starts from at power-up."""
PHASE = Register(18)
P_GAIN, D_GAIN, I_GAIN = Register(21), Register(22), Register(23)
PROTECTION_CURRENT = Register(28, 2)
HOMING_OFFSET = Register(31, 2, sign_bit=11)
"""Steps: present position = encoder - homing offset."""
OPERATING_MODE = Register(33)
PROTECTIVE_TORQUE, PROTECTION_TIME, OVERLOAD_TORQUE = Register(34), Register(35), Register(36)

FIRST_IN_RAM = 40
"""From here on a register forgets at power-off; below, it is kept and written only while `LOCK` is 0."""
TORQUE_ENABLE = Register(40)
ACCELERATION = Register(41)
"""Units of 100 steps/s^2; 0 for the greatest."""
GOAL_POSITION = Register(42, 2, sign_bit=15)
GOAL_TIME = Register(44, 2)
GOAL_VELOCITY = Register(46, 2, sign_bit=15)
"""Steps/s with which a goal is approached; 0 for the greatest."""
TORQUE_LIMIT = Register(48, 2)
LOCK = Register(55)
PRESENT_POSITION = Register(56, 2, sign_bit=15)
PRESENT_VELOCITY = Register(58, 2, sign_bit=15)
"""Steps/s."""
PRESENT_LOAD = Register(60, 2, sign_bit=10)
"""Thousandths of the stall torque."""
PRESENT_VOLTAGE = Register(62)
"""Tenths of a volt."""
PRESENT_TEMPERATURE = Register(63)
"""Degrees Celsius."""
STATUS = Register(65)
MOVING = Register(66)
PRESENT_CURRENT = Register(69, 2)
"""Units of 6.5 mA."""
MAX_VELOCITY, MAX_ACCELERATION = Register(84), Register(85)
MEMORY_SIZE = 87


def describe_errors(bits: int) -> str:
    """What a status packet's error byte says, in words."""
    known = [words for bit, words in ERROR_BITS.items() if bits & bit]
    unknown = bits & ~sum(ERROR_BITS)
    return ", ".join(known + ([f"unknown error bits {unknown:#04x}"] if unknown else []))
