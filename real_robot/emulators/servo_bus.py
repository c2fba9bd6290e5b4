"""The protocol of Feetech's servo bus: bytes in, packets, bytes out. No port, no clock, no physics.

An instruction is `FF FF id length instruction parameters checksum`, an answer `FF FF id length error data checksum`.
The length counts what follows it; the checksum is the complement of the sum of all between the header and itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from real_robot.arms import registers
from real_robot.arms.registers import MEMORY_SIZE, Register

BROADCAST = 0xFE
HEADER = b"\xff\xff"
LONGEST = 250
"""Largest length field."""


class Instruction(IntEnum):
    """What a packet asks for."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


@dataclass(frozen=True)
class Packet:
    """One packet: an instruction, or an answer whose `code` is its error byte."""

    id: int
    code: int
    data: bytes = b""

    def to_bytes(self) -> bytes:
        """As it goes over the wire."""
        body = bytes([self.id, len(self.data) + 2, self.code]) + self.data
        return HEADER + body + bytes([checksum(body)])


def checksum(body: bytes) -> int:
    """Of everything between the header and the checksum itself."""
    return ~sum(body) & 0xFF


class PacketParser:
    """Finds packets in a stream of bytes, however it is cut up and whatever lies between them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.rejected = 0
        """Bytes that belonged to no packet."""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete with these bytes, in order."""
        self._buffer += data
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def clear(self) -> None:
        """Forget a packet that was begun: what a servo does when the line falls silent."""
        self.rejected += len(self._buffer)
        self._buffer.clear()

    def _next(self) -> Packet | None:
        buffer = self._buffer
        while True:
            start = buffer.find(HEADER)
            if start < 0:
                # A last FF may be the first half of a header.
                self._drop(len(buffer) - (1 if buffer.endswith(b"\xff") else 0))
                return None
            self._drop(start)
            if len(buffer) < 4:
                # A third FF: the header begins one byte later, as no id is FF.
                if len(buffer) == 3 and buffer[2] == 0xFF:
                    self._drop(1)
                    continue
                return None
            length = buffer[3]
            if buffer[2] == 0xFF or not 2 <= length <= LONGEST:
                self._drop(1)
                continue
            if len(buffer) < length + 4:
                return None
            body = bytes(buffer[2 : length + 3])
            if checksum(body) != buffer[length + 3]:
                self._drop(1)
                continue
            del buffer[: length + 4]
            return Packet(body[0], body[2], body[3:])

    def _drop(self, count: int) -> None:
        self.rejected += count
        del self._buffer[:count]


class ServoMemory:
    """The registers of one servo."""

    def __init__(self, servo_id: int, model_number: int = registers.MODEL_NUMBER_STS3215) -> None:
        """As it leaves the factory, but for its id."""
        self.bytes = bytearray(MEMORY_SIZE)
        self.error = 0
        """Bits of `registers.ERROR_BITS` that its answers carry."""
        self._pending: tuple[int, bytes] | None = None
        for register, value in {
            registers.FIRMWARE_MAJOR: 3,
            registers.FIRMWARE_MINOR: 10,
            registers.MODEL_NUMBER: model_number,
            registers.ID: servo_id,
            registers.RETURN_DELAY: 250,
            registers.RESPONSE_LEVEL: 1,
            registers.MAX_POSITION: 4095,
            registers.MAX_TEMPERATURE: 70,
            registers.MAX_VOLTAGE: 80,
            registers.MIN_VOLTAGE: 40,
            registers.MAX_TORQUE: 1000,
            registers.PHASE: 12,
            registers.P_GAIN: 32,
            registers.D_GAIN: 32,
            registers.PROTECTION_CURRENT: 500,
            registers.PROTECTIVE_TORQUE: 20,
            registers.PROTECTION_TIME: 200,
            registers.OVERLOAD_TORQUE: 80,
            registers.PRESENT_VOLTAGE: 74,
            registers.PRESENT_TEMPERATURE: 30,
        }.items():
            self[register] = value
        self.power_up()

    def __getitem__(self, register: Register) -> int:
        return register.decode(self.bytes[register.address :])

    def __setitem__(self, register: Register, value: int) -> None:
        self.bytes[register.address : register.address + register.size] = bytes(register.encode(value))

    def power_up(self) -> None:
        """What a servo forgets when its voltage breaks down: whether it is powered, its goal, its limits in RAM."""
        self[registers.TORQUE_ENABLE] = 0
        self[registers.ACCELERATION] = 0
        self[registers.GOAL_TIME] = 0
        self[registers.GOAL_VELOCITY] = 0
        self[registers.TORQUE_LIMIT] = self[registers.MAX_TORQUE]
        self[registers.GOAL_POSITION] = self[registers.PRESENT_POSITION]
        self[registers.LOCK] = 1
        self._pending = None

    def read(self, address: int, size: int) -> bytes:
        """Bytes from `address` on, as many as a packet holds at most; zeros beyond the memory's end."""
        size = min(size, LONGEST - 2)
        return bytes(self.bytes[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Store what may be written: neither what is measured, nor, while the memory is locked, what is kept."""
        locked = bool(self[registers.LOCK])
        for index, byte in enumerate(data, start=address):
            kept = index < registers.FIRST_IN_RAM
            measured = registers.PRESENT_POSITION.address <= index < registers.MAX_VELOCITY.address
            identity = index < registers.ID.address
            if index < MEMORY_SIZE and not (measured or identity or (kept and locked)):
                self.bytes[index] = byte

    def store(self, address: int, data: bytes) -> None:
        """Keep a write until `act`."""
        self._pending = (address, data)

    def act(self) -> None:
        """Carry out the write that was stored, if there is one."""
        if self._pending is not None:
            self.write(*self._pending)
            self._pending = None


class ServoBus:
    """Servos on one line, by id: carries out instructions and gives the answers."""

    def __init__(self, servos: Sequence[ServoMemory]) -> None:
        self._servos = servos

    @property
    def by_id(self) -> Mapping[int, ServoMemory]:
        """The servos by the ids they have now."""
        return {servo[registers.ID]: servo for servo in self._servos}

    def execute(self, packet: Packet) -> list[tuple[ServoMemory, Packet]]:
        """Carry out one instruction. Returns the answers with who gives them, in the order they go over the wire."""
        servos = self.by_id
        data = packet.data
        if packet.code == Instruction.SYNC_READ:
            return self._sync_read(servos, data)
        if packet.code == Instruction.SYNC_WRITE:
            self._sync_write(servos, data)
            return []
        everyone = packet.id == BROADCAST
        addressed = [servos[key] for key in sorted(servos) if everyone or key == packet.id]
        answers = []
        for servo in addressed:
            reply = self._one(servo, packet)
            if reply is None or (everyone and packet.code != Instruction.PING):
                continue
            if packet.code in (Instruction.PING, Instruction.READ) or servo[registers.RESPONSE_LEVEL]:
                answers.append((servo, reply))
        return answers

    def _one(self, servo: ServoMemory, packet: Packet) -> Packet | None:
        data = packet.data
        found = b""
        servo_id = servo[registers.ID]
        if packet.code == Instruction.READ and len(data) == 2:
            found = servo.read(data[0], data[1])
        elif packet.code == Instruction.WRITE and len(data) >= 2:
            servo.write(data[0], data[1:])
        elif packet.code == Instruction.REG_WRITE and len(data) >= 2:
            servo.store(data[0], data[1:])
        elif packet.code == Instruction.ACTION:
            servo.act()
        elif packet.code != Instruction.PING:
            return None
        return Packet(servo_id, servo.error, found)

    def _sync_read(self, servos: Mapping[int, ServoMemory], data: bytes) -> list[tuple[ServoMemory, Packet]]:
        if len(data) < 3:
            return []
        address, size = data[0], data[1]
        asked = [servos[key] for key in data[2:] if key in servos]
        return [(servo, Packet(servo[registers.ID], servo.error, servo.read(address, size))) for servo in asked]

    def _sync_write(self, servos: Mapping[int, ServoMemory], data: bytes) -> None:
        if len(data) < 2:
            return
        address, size = data[0], data[1]
        for start in range(2, len(data) - size, size + 1):
            if servo := servos.get(data[start]):
                servo.write(address, data[start + 1 : start + 1 + size])
