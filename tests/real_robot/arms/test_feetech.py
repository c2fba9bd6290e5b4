"""The servo bus where a machine is too busy for the SDK."""

from __future__ import annotations

import os
import time
import tty
from collections.abc import Iterator

import pytest

from real_robot.arms.arm import ArmError
from real_robot.arms.feetech import FeetechBus
from real_robot.arms.registers import PRESENT_VOLTAGE
from real_robot.emulators.servo_bus import Packet


@pytest.fixture
def line() -> Iterator[tuple[FeetechBus, int]]:
    """A bus with one servo, and the file at the other end of its wire."""
    pytest.importorskip("scservo_sdk")
    pytest.importorskip("serial")
    master, slave = os.openpty()
    tty.setraw(slave)
    bus = FeetechBus(os.ttyname(slave), {"gripper": 6}, timeout=0.02, retries=0)
    bus.open()
    yield bus, master
    bus.close()
    os.close(master)
    os.close(slave)


def test_an_answer_that_came_while_this_process_slept_counts(
    line: tuple[FeetechBus, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came in time; only the look at it was late."""
    bus, other_end = line
    port = bus._handler
    look = port.readPort
    looked: list[bytes] = []

    def sleepy(length: int) -> bytes:
        found: bytes = look(length)
        if not looked:
            os.write(other_end, Packet(6, 0, bytes([74])).to_bytes())
            time.sleep(0.1)
        looked.append(found)
        return found

    monkeypatch.setattr(port, "readPort", sleepy)
    assert bus.read("gripper", PRESENT_VOLTAGE) == 74


def test_a_line_without_a_servo_is_given_up_in_time(line: tuple[FeetechBus, int]) -> None:
    bus, other_end = line
    began = time.monotonic()
    with pytest.raises(ArmError, match=r"read address 62 of gripper on .*: no answer from gripper, tried 1 times"):
        bus.read("gripper", PRESENT_VOLTAGE)
    assert 0.02 <= time.monotonic() - began < 0.5
    os.write(other_end, b"\x00\xff")
    with pytest.raises(ArmError, match=r"no answer|damaged answer"):
        bus.ping("gripper")
    assert bus.statistics.failures == 2
