"""The servo bus as a protocol: bytes in, packets, bytes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from real_robot.arms import registers
from real_robot.emulators.faults import Faults
from real_robot.emulators.servo_bus import BROADCAST, Instruction, Packet, PacketParser, ServoBus, ServoMemory
from real_robot.emulators.so101_process import FaultInjector

packets = st.builds(Packet, st.integers(0, 0xFD), st.integers(0, 255), st.binary(max_size=20))


def test_a_ping_by_hand() -> None:
    """The example of Feetech's manual."""
    assert Packet(1, Instruction.PING).to_bytes() == bytes.fromhex("FF FF 01 02 01 FB")
    read = Packet(1, Instruction.READ, bytes([0x38, 0x02]))
    assert read.to_bytes() == bytes.fromhex("FF FF 01 04 02 38 02 BE")


@given(st.lists(packets, max_size=6), st.data())
def test_packets_are_found_however_the_stream_is_cut(sent: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(packet.to_bytes() for packet in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = PacketParser()
    found = [
        packet
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for packet in parser.feed(stream[start:end])
    ]
    assert found == sent and parser.rejected == 0


@given(st.binary(max_size=30), packets)
def test_a_packet_after_junk_is_found(junk: bytes, packet: Packet) -> None:
    """Junk may begin a packet of its own; after a silence that is given up."""
    parser = PacketParser()
    parser.feed(junk)
    parser.clear()
    assert parser.feed(packet.to_bytes()) == [packet]


@given(st.binary(max_size=8).filter(lambda junk: b"\xff" not in junk), packets)
def test_junk_without_a_header_delays_nothing(junk: bytes, packet: Packet) -> None:
    parser = PacketParser()
    assert parser.feed(junk + b"\xff" + packet.to_bytes() + packet.to_bytes()) == [packet, packet]
    assert parser.rejected == len(junk) + 1


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(stream: bytes) -> None:
    parser = PacketParser()
    for packet in parser.feed(stream):
        assert packet.to_bytes() in stream
    parser.clear()
    assert parser.feed(Packet(3, Instruction.PING).to_bytes()) == [Packet(3, Instruction.PING)]


@given(packets, st.data())
def test_a_damaged_packet_is_not_taken(packet: Packet, data: st.DataObject) -> None:
    raw = bytearray(packet.to_bytes())
    index = data.draw(st.integers(4, len(raw) - 1))
    raw[index] ^= 1 << data.draw(st.integers(0, 7))
    assert packet not in PacketParser().feed(bytes(raw))


# ---- servos --------------------------------------------------------------------------------------------------------


def two_servos() -> tuple[ServoMemory, ServoMemory, ServoBus]:
    """Ids 1 and 2 on one line."""
    first, second = ServoMemory(1), ServoMemory(2)
    return first, second, ServoBus([first, second])


def ask(bus: ServoBus, target: int, instruction: int, *data: int) -> list[Packet]:
    """The answers to one instruction."""
    return [packet for _, packet in bus.execute(Packet(target, instruction, bytes(data)))]


def test_ping_and_read() -> None:
    first, _, bus = two_servos()
    assert ask(bus, 1, Instruction.PING) == [Packet(1, 0)]
    assert ask(bus, 3, Instruction.PING) == []
    assert ask(bus, BROADCAST, Instruction.PING) == [Packet(1, 0), Packet(2, 0)]
    first.error = 32
    assert ask(bus, 1, Instruction.READ, 3, 2) == [Packet(1, 32, bytes([0x09, 0x03]))]


def test_a_write_is_answered_and_kept() -> None:
    first, second, bus = two_servos()
    assert ask(bus, 1, Instruction.WRITE, 42, 0x00, 0x08) == [Packet(1, 0)]
    assert (first[registers.GOAL_POSITION], second[registers.GOAL_POSITION]) == (2048, 0)
    assert ask(bus, BROADCAST, Instruction.WRITE, 40, 1) == []
    assert first[registers.TORQUE_ENABLE] == second[registers.TORQUE_ENABLE] == 1
    first[registers.RESPONSE_LEVEL] = 0
    assert ask(bus, 1, Instruction.WRITE, 40, 0) == [] and first[registers.TORQUE_ENABLE] == 0


def test_what_is_kept_at_power_off_is_locked_and_what_is_measured_cannot_be_written() -> None:
    first, _, bus = two_servos()
    ask(bus, 1, Instruction.WRITE, 9, 100, 0)
    assert first[registers.MIN_POSITION] == 0
    ask(bus, 1, Instruction.WRITE, 55, 0)
    ask(bus, 1, Instruction.WRITE, 9, 100, 0)
    assert first[registers.MIN_POSITION] == 100
    ask(bus, 1, Instruction.WRITE, 56, 9, 9)
    ask(bus, 1, Instruction.WRITE, 3, 9, 9)
    assert first[registers.PRESENT_POSITION] == 0 and first[registers.MODEL_NUMBER] == 777


def test_a_stored_write_waits_for_the_action() -> None:
    first, second, bus = two_servos()
    ask(bus, 1, Instruction.REG_WRITE, 42, 7, 0)
    ask(bus, 2, Instruction.REG_WRITE, 42, 8, 0)
    assert first[registers.GOAL_POSITION] == 0
    assert ask(bus, BROADCAST, Instruction.ACTION) == []
    assert (first[registers.GOAL_POSITION], second[registers.GOAL_POSITION]) == (7, 8)


def test_all_servos_are_read_and_written_with_one_packet() -> None:
    first, second, bus = two_servos()
    assert ask(bus, BROADCAST, Instruction.SYNC_WRITE, 42, 2, 2, 5, 0, 9, 1, 1, 1, 6, 0) == []
    assert (first[registers.GOAL_POSITION], second[registers.GOAL_POSITION]) == (6, 5)
    answers = ask(bus, BROADCAST, Instruction.SYNC_READ, 42, 2, 2, 7, 1)
    assert answers == [Packet(2, 0, bytes([5, 0])), Packet(1, 0, bytes([6, 0]))], "in the order asked, 7 is missing"


def test_a_brown_out_forgets_what_is_in_ram() -> None:
    servo = ServoMemory(1)
    servo[registers.LOCK] = 0
    servo.write(16, bytes([0xF4, 0x01]))
    servo.write(40, bytes([1, 254]))
    servo.power_up()
    assert servo[registers.TORQUE_ENABLE] == servo[registers.ACCELERATION] == 0 and servo[registers.LOCK] == 1
    assert servo[registers.TORQUE_LIMIT] == 500, "from the greatest torque, which is kept"


@given(st.binary(max_size=40), st.integers(0, 255), st.integers(0, 0xFE))
def test_no_instruction_breaks_a_servo(data: bytes, instruction: int, target: int) -> None:
    first, _, bus = two_servos()
    for answer in ask(bus, target, instruction, *data):
        assert PacketParser().feed(answer.to_bytes()) == [answer]
    assert first[registers.MODEL_NUMBER] == 777


# ---- faults --------------------------------------------------------------------------------------------------------

READ = Packet(BROADCAST, Instruction.SYNC_READ, bytes([56, 4, 1]))
ANSWER = Packet(1, 0, bytes([0xFE, 0x0F, 3, 0]))


def strike(faults: Faults, joint: str = "gripper") -> list[bytes | None]:
    injector = FaultInjector(seed=1)
    injector.set(faults)
    return [injector.strike(joint, READ, ANSWER) for _ in range(4)]


def test_faults_of_the_wire() -> None:
    whole = ANSWER.to_bytes()
    assert strike(Faults()) == [whole] * 4
    assert strike(Faults(drop=1.0)) == [None] * 4
    assert strike(Faults(silent=True)) == [None] * 4
    assert strike(Faults(drop=1.0, packets=2)) == [None, None, whole, whole]
    assert strike(Faults(drop=1.0, joints=("elbow_flex",))) == [whole] * 4
    for raw in strike(Faults(corrupt=1.0)):
        assert raw is not None and len(raw) == len(whole) and PacketParser().feed(raw) == []
    for raw in strike(Faults(wrong_id=1.0)):
        assert raw is not None and PacketParser().feed(raw) == [Packet(2, 0, ANSWER.data)]
    for raw in strike(Faults(spike=10)):  # 4094 + 10 is 8 in the next turn
        assert raw is not None and PacketParser().feed(raw) == [Packet(1, 0, bytes([8, 0, 3, 0]))]
    lost = strike(Faults(drop=0.5))
    assert lost == strike(Faults(drop=0.5)) and set(lost) == {None, whole}, "the seed decides"


@pytest.mark.parametrize(
    ("values", "message"),
    [({"drop": 2.0}, "drop"), ({"latency": -1.0}, "latency"), ({"error_bits": 128}, "error_bits"), ({"no": 1}, "no")],
)
def test_faults_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults.from_dict(values)


def test_faults_travel_as_json() -> None:
    faults = Faults(joints=("gripper",), drop=0.1, packets=3, black_cameras=("front",))
    assert Faults.from_dict(faults.to_dict()) == faults
