"""The servo bus through Feetech's own SDK, with what that lacks: a clock that cannot jump, retries, errors by name."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from real_robot.arms.arm import ArmError
from real_robot.arms.registers import Register, describe_errors
from vla.errors import require_module

if sys.platform == "win32":
    PORT_ERRORS: tuple[type[Exception], ...] = (OSError,)
else:
    import fcntl
    import termios

    PORT_ERRORS = (OSError, termios.error)
"""What pyserial raises when a port cannot be opened or is gone; its own exception is an OSError."""

_LAST_WORD = 0.01
"""Seconds that are waited for further answers after that of the last servo that was asked."""
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
    implausible: int = 0
    """Readings that a second one did not confirm."""
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

    def __init__(self, port: str, ids: Mapping[str, int], timeout: float = 0.03, retries: int = 2) -> None:
        """`timeout` is how long (s) an answer may take beside its time on the wire. Nothing is opened yet."""
        self.port, self.ids, self.retries = port, dict(ids), retries
        self.statistics = BusStatistics()
        self.timeout = timeout
        self._quiet_until = 0.0
        self._all_spoke = False
        """Whether the last servo of those that were asked has answered, so that no answer can come late."""
        self._names = {number: name for name, number in self.ids.items()}
        self._lock = threading.RLock()
        self._handler: Any = None
        self._packets: Any = None

    # ---- opening and closing ---------------------------------------------------------------------------------------

    def open(self, baud_rate: int = 1_000_000, alone: bool = True) -> None:
        """Open the port, `alone` with it or beside another program, which only an emergency allows.

        Raises `ArmError` naming it when it cannot be, or when another program is alone with it.
        """
        require_module(
            "serial", "Feetech's SDK", "pip install 'reflex-vla[robots]'"
        )  # which it does not ask for itself
        sdk: Any = require_module("scservo_sdk", "an arm with Feetech servos", "pip install 'reflex-vla[robots]'")
        handler = _port_handler(sdk)(self.port, lambda: self.timeout)
        try:
            opened = handler.setBaudRate(baud_rate)
        except PORT_ERRORS as error:
            raise ArmError(
                f"cannot open {self.port} ({error}); is the arm plugged in, and may this user use the port "
                "(on Linux: be in the group dialout)?"
            ) from error
        if not opened:
            raise ArmError(f"{self.port} does not work at {baud_rate} baud; these servos are made for 1000000")
        if alone:
            self._lock_port(handler)
        with self._lock:
            self._handler, self._packets = handler, sdk.PacketHandler(0)

    def _lock_port(self, handler: Any) -> None:
        """Keep other programs away until the port is closed: two that talk at once garble each other's packets."""
        if sys.platform == "win32":
            return  # it lets one program only open a port
        try:
            fcntl.flock(handler.ser.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handler.closePort()
            raise ArmError(f"another program drives the arm on {self.port}; end that one first") from error

    def close(self) -> None:
        """Close the port; closing twice is harmless."""
        with self._lock:
            if self._handler is not None:
                handler, self._handler = self._handler, None
                handler.closePort()

    @contextmanager
    def patient(self, timeout: float) -> Iterator[None]:
        """Wait for answers up to `timeout` seconds meanwhile, if that is longer than usual: where nothing is urgent."""
        usual, self.timeout = self.timeout, max(timeout, self.timeout)
        try:
            yield
        finally:
            self.timeout = usual

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
        answers, failure = self.sync_read_some(address, size, names)
        if failure is not None:
            raise failure
        return answers

    def sync_read_some(
        self, address: int, size: int, names: Sequence[str] | None = None
    ) -> tuple[dict[str, Answer], ArmError | None]:
        """As `sync_read`, but gives the answers that there are beside the error, which is None where all answered."""
        names = list(self.ids) if names is None else list(names)
        answers: dict[str, Answer] = {}

        def once() -> tuple[Any, int, list[str]]:
            missing = [name for name in names if name not in answers]
            numbers = [self.ids[name] for name in missing]
            result = self._packets.syncReadTx(self._handler, address, size, numbers, len(numbers))
            if result == 0:
                result = self._collect(answers, missing, size)
            return answers, result, [name for name in names if name not in answers]

        failure = None
        try:
            self._transact(f"read addresses {address} to {address + size - 1}", once)
        except ArmError as error:
            failure = error
        return {name: answers[name] for name in names if name in answers}, failure

    def _collect(self, answers: dict[str, Answer], missing: Sequence[str], size: int) -> int:
        """Take the answers of servos as they come; returns the SDK's result.

        Its own group reader throws the error bytes away, and with one lost answer those that come after it.
        """
        heard: list[str] = []
        corrupt, self._all_spoke = False, False
        while not set(missing) <= set(heard):
            packet, result = self._packets.rxPacket(self._handler)
            if result == _CORRUPT:
                corrupt = True
                continue
            if result != 0:
                break
            name, data = self._names.get(packet[2], ""), bytes(packet[5:-1])
            if name in missing and len(data) == size:
                heard.append(name)
                answers[name] = Answer(data, packet[4])
            if name == missing[-1] and not self._all_spoke:
                # Servos answer in the order in which they are asked: whoever is not heard by now is lost. Only one that
                # took another's name could still follow.
                self._all_spoke = True
                self._handler.wait_at_most(_LAST_WORD)
        # Two answers in one name: one of them is another servo's, and nobody knows which.
        for name in {name for name in heard if heard.count(name) > 1}:
            del answers[name]
        if all(name in answers for name in missing):
            return 0
        return _CORRUPT if corrupt else _TIMEOUT

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
                    # Answers have no numbers: one that comes late would be taken for the next one's.
                    time.sleep(max(0.0, self._quiet_until - time.monotonic()))
                    self._all_spoke = False
                    found, result, blamed = once()
                    if result == 0:
                        return found
                    if not self._all_spoke:
                        self._quiet_until = time.monotonic() + self.timeout
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


_TIMEOUT, _CORRUPT = -6, -7
_RESULTS = {
    -1: "the port was busy, no answer",
    -2: "the bytes could not be sent, no answer",
    -3: "no answer",
    _TIMEOUT: "no answer",
    _CORRUPT: "a damaged answer",
}


def _port_handler(sdk: Any) -> Any:
    """The SDK's port with its faults mended."""

    class Port(sdk.PortHandler):  # type: ignore[misc, unused-ignore]
        def __init__(self, name: str, timeout: Callable[[], float]) -> None:
            super().__init__(name)
            self._answer_timeout = timeout

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
            self.packet_timeout = self.tx_time_per_byte * (packet_length + 3.0) + 1000.0 * self._answer_timeout()

        def wait_at_most(self, seconds: float) -> None:
            """From now on."""
            self.packet_start_time, self.packet_timeout = self.getCurrentTime(), 1000.0 * seconds

        def isPacketTimeout(self) -> bool:
            # A busy machine may let this process sleep between the last look at the port and this one at the clock.
            return bool(super().isPacketTimeout()) and not self.ser.in_waiting

        def getCurrentTime(self) -> float:
            return 1000.0 * time.monotonic()  # the SDK's wall clock jumps when it is set

    return Port
