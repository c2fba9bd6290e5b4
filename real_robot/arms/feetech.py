"""The servo bus through Feetech's own SDK, with what that lacks: a clock that cannot jump, retries, errors by name."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from real_robot.arms.arm import ArmError
from real_robot.arms.registers import Register, describe_errors
from vla.errors import require_module

if sys.platform == "win32":
    PORT_ERRORS: tuple[type[Exception], ...] = (OSError,)
else:
    import termios

    PORT_ERRORS = (OSError, termios.error)
"""What pyserial raises when a port cannot be opened or is gone; its own exception is an OSError."""

_POLL = 0.0005
"""Seconds that a read of the port waits for bytes: the SDK would poll as fast as the processor can."""


@dataclass
class BusStatistics:
    """What a bus has been through since it was opened."""

    transactions: int = 0
    retries: int = 0
    """Reads that were repeated because an answer was lost or damaged."""
    failures: int = 0
    """Transactions that were given up."""
    worst: float = 0.0
    """Seconds of the longest transaction, its retries included."""


@dataclass(frozen=True)
class Answer:
    """What one servo said."""

    data: bytes
    error: int
    """Bits of `registers.ERROR_BITS`."""


class FeetechBus:
    """Servos by name on one serial port. Its methods may be called from several threads."""

    def __init__(self, port: str, ids: Mapping[str, int], timeout: float = 0.02, retries: int = 2) -> None:
        """`timeout` is how long (s) an answer may take beside its time on the wire. Nothing is opened yet."""
        self.port, self.ids, self.retries = port, dict(ids), retries
        self.statistics = BusStatistics()
        self._timeout = timeout
        self._names = {number: name for name, number in self.ids.items()}
        self._lock = threading.RLock()
        self._handler: Any = None
        self._packets: Any = None

    # ---- opening and closing ---------------------------------------------------------------------------------------

    def open(self, baud_rate: int = 1_000_000) -> None:
        """Open the port. Raises `ArmError` naming it when it cannot be."""
        require_module(
            "serial", "Feetech's SDK", "pip install 'reflex-vla[robots]'"
        )  # which it does not ask for itself
        sdk: Any = require_module("scservo_sdk", "an arm with Feetech servos", "pip install 'reflex-vla[robots]'")
        handler = _port_handler(sdk)(self.port, self._timeout)
        try:
            opened = handler.setBaudRate(baud_rate)
        except PORT_ERRORS as error:
            raise ArmError(
                f"cannot open {self.port} ({error}); is the arm plugged in, and may this user use the port "
                "(on Linux: be in the group dialout)?"
            ) from error
        if not opened:
            raise ArmError(f"{self.port} does not work at {baud_rate} baud; these servos are made for 1000000")
        with self._lock:
            self._handler, self._packets = handler, sdk.PacketHandler(0)

    def close(self) -> None:
        """Close the port; closing twice is harmless."""
        with self._lock:
            if self._handler is not None:
                handler, self._handler = self._handler, None
                handler.closePort()

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._handler is not None

    # ---- one servo -------------------------------------------------------------------------------------------------

    def ping(self, name: str) -> int:
        """The model number of a servo. Raises `ArmError` when it does not answer."""

        def once() -> tuple[Any, int, list[str]]:
            model, result, _ = self._packets.ping(self._handler, self.ids[name])
            return model, result, [name]

        return int(self._transact(f"ping {name}", once))

    def read(self, name: str, register: Register) -> int:
        """One register of a servo. Raises `ArmError` naming the servo when it does not answer."""

        def once() -> tuple[Any, int, list[str]]:
            data, result, _ = self._packets.readTxRx(self._handler, self.ids[name], register.address, register.size)
            return data, result, [name]

        return register.decode(self._transact(f"read address {register.address} of {name}", once))

    def write(self, name: str, register: Register, value: int) -> None:
        """Write one register of a servo and wait for its confirmation. Raises `ArmError` naming the servo."""
        data = register.encode(value)

        def once() -> tuple[Any, int, list[str]]:
            result, _ = self._packets.writeTxRx(self._handler, self.ids[name], register.address, register.size, data)
            return None, result, [name]

        # Writing a value again changes nothing, so a lost confirmation is no reason to give up.
        self._transact(f"write address {register.address} of {name}", once)

    # ---- all servos ------------------------------------------------------------------------------------------------

    def sync_read(self, address: int, size: int, names: Sequence[str] | None = None) -> dict[str, Answer]:
        """`size` bytes from `address` on of several servos, asked for with one packet; None for all.

        Raises `ArmError` naming the servos that did not answer.
        """
        names = list(self.ids) if names is None else list(names)

        def once() -> tuple[Any, int, list[str]]:
            # The SDK's own group reader throws the error bytes away, so its two halves are called here.
            numbers = [self.ids[name] for name in names]
            result = self._packets.syncReadTx(self._handler, address, size, numbers, len(numbers))
            answers: dict[str, Answer] = {}
            for name, number in zip(names, numbers, strict=True):
                if result != 0:
                    break
                data, result, error = self._packets.readRx(self._handler, number, size)
                if result == 0 and len(data) != size:
                    result = _CORRUPT
                if result == 0:
                    answers[name] = Answer(bytes(data), error)
            return answers, result, [name for name in names if name not in answers]

        found: dict[str, Answer] = self._transact(f"read addresses {address} to {address + size - 1}", once)
        return found

    def sync_write(self, register: Register, values: Mapping[str, int]) -> None:
        """Write one register of several servos with one packet, which nobody confirms.

        Raises `ArmError` when the bytes do not leave.
        """
        parameters = [byte for name, value in values.items() for byte in (self.ids[name], *register.encode(value))]

        def once() -> tuple[Any, int, list[str]]:
            result = self._packets.syncWriteTxOnly(
                self._handler, register.address, register.size, parameters, len(parameters)
            )
            return None, result, list(values)

        self._transact(f"write address {register.address}", once)

    # ---- every transaction -----------------------------------------------------------------------------------------

    def _transact(self, what: str, once: Callable[[], tuple[Any, int, list[str]]]) -> Any:
        with self._lock:
            if self._handler is None:
                raise ArmError(f"cannot {what}: {self.port} is not open; connect the arm first")
            began = time.monotonic()
            self.statistics.transactions += 1
            result, blamed = 0, [""]
            try:
                for attempt in range(self.retries + 1):
                    self.statistics.retries += attempt > 0
                    found, result, blamed = once()
                    if result == 0:
                        return found
            except PORT_ERRORS as error:
                self.statistics.failures += 1
                raise ArmError(f"{self.port} is gone: cannot {what} ({error}); check the cable to the arm") from error
            finally:
                if self._handler is not None:
                    self._handler.is_using = False
                self.statistics.worst = max(self.statistics.worst, time.monotonic() - began)
            self.statistics.failures += 1
            raise ArmError(
                f"cannot {what} on {self.port}: {_RESULTS.get(result, f'result {result}')} from "
                f"{', '.join(blamed)}, tried {self.retries + 1} times; check the servo's cable and power"
            )

    def name_errors(self, errors: Mapping[str, int]) -> str:
        """The error bits by servo, in words; empty when there are none."""
        return "; ".join(f"{name}: {describe_errors(bits)}" for name, bits in errors.items() if bits)


_CORRUPT = -7
_RESULTS = {
    -1: "the port was busy, no answer",
    -2: "the bytes could not be sent, no answer",
    -3: "no answer",
    -6: "no answer",
    _CORRUPT: "a damaged answer",
}


def _port_handler(sdk: Any) -> Any:
    """The SDK's port with its faults mended."""

    class Port(sdk.PortHandler):  # type: ignore[misc, unused-ignore]
        def __init__(self, name: str, timeout: float) -> None:
            super().__init__(name)
            self._answer_timeout = 1000.0 * timeout

        def setupPort(self, cflag_baud: int) -> bool:
            opened = bool(super().setupPort(cflag_baud))
            self.ser.timeout = _POLL
            return opened

        def clearPort(self) -> None:
            # The SDK only waits for what is sent; a late answer would be taken for the next one.
            self.ser.reset_input_buffer()

        def setPacketTimeout(self, packet_length: int) -> None:
            # The SDK's own allows for a USB adapter of 16 ms and for nothing else.
            self.packet_start_time = self.getCurrentTime()
            self.packet_timeout = self.tx_time_per_byte * (packet_length + 3.0) + self._answer_timeout

        def getCurrentTime(self) -> float:
            return 1000.0 * time.monotonic()  # the SDK's wall clock jumps when it is set

    return Port
