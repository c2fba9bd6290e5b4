"""Asking a server over several connections at once, where no wait is without an end and no late answer is believed.

The protocol has no request numbers: an answer belongs to the request before it on its connection. A connection whose
answer did not come in time is therefore dropped, whatever may still arrive on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.protocol import State

from vla.errors import ReflexError
from vla.policies.remote.address import RemoteAddress
from vla.policies.remote.announcement import is_ours
from vla.policies.remote.codec import WireError, decode_mapping

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 4.0
"""Back-off between tries: it doubles from the first to the longest."""
MARGIN_S = 5.0
"""What the waiting thread allows beyond all time-outs of the loop that it waits for, which end first."""
CLOSE_TIMEOUT_S = 1.0


class RemoteError(ReflexError):
    """A served policy did not decide."""


class RemoteUnavailableError(RemoteError):
    """No connection, or no answer in time."""


class RemoteRefusedError(RemoteError):
    """The server answered, and with an error."""


class RemoteClient:
    """Connections to one server. Its event loop runs in a thread of its own, so that keep-alives are answered while
    nobody asks anything."""

    def __init__(self, address: RemoteAddress) -> None:
        """Connect. Raises `RemoteError` when that does not succeed within the settings' patience."""
        self._uri, self._settings = address.uri, address.settings
        self._most_bytes = int(address.settings.max_message_megabytes * 2**20)
        token = address.settings.token()
        self._headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._idle: list[ClientConnection] = []
        self.identity: str | None = None
        """Hash of the server's first frame, or of the parts that say which policy it is."""
        self.metadata: dict[str, Any] = {}
        """The first frame."""
        self._loop = asyncio.new_event_loop()
        self._places = asyncio.Semaphore(address.settings.connections)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"client of {self._uri}", daemon=True)
        self._thread.start()
        try:
            self._wait_for(self._first_connection(), rounds=1)
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[bytes]) -> list[dict[str, Any]]:
        """The answers to encoded requests, in their order.

        Raises:
            RemoteUnavailableError: one was not answered within `timeout_s`, or within `patience_s` of tries.
            RemoteRefusedError: the server answered one with an error.
            RemoteError: an answer is no message, or the server has another policy by now.
        """

        async def gather() -> list[dict[str, Any]]:
            tasks = [asyncio.ensure_future(self._ask(request)) for request in requests]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:  # of the others, when one failed
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        return self._wait_for(gather(), rounds=-(-len(requests) // self._settings.connections))

    def close(self) -> None:
        """Close the connections and end the thread. May be called twice."""
        if self._loop.is_closed():
            return

        async def close_all() -> None:
            await asyncio.gather(*(connection.close() for connection in self._idle), return_exceptions=True)

        closing = asyncio.run_coroutine_threadsafe(close_all(), self._loop)
        try:
            closing.result(2 * CLOSE_TIMEOUT_S + MARGIN_S)
        finally:
            self._idle.clear()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(MARGIN_S)
            if not self._thread.is_alive():
                self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, _Result], rounds: int) -> _Result:
        """The result of work on the loop, which takes at most this many rounds of tries."""
        settings = self._settings
        tries = settings.patience_s + settings.connect_timeout_s + settings.timeout_s + LONGEST_DELAY_S
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(max(1, rounds) * tries + MARGIN_S)
        except TimeoutError as error:
            raise RemoteUnavailableError(f"the client of {self._uri} is stuck") from error
        finally:
            running.cancel()  # after Ctrl-C; nothing where it is done

    async def _first_connection(self) -> None:
        self._idle.append(await self._until_it_works(self._connect))

    async def _ask(self, request: bytes) -> dict[str, Any]:
        async with self._places:
            answer = await self._until_it_works(lambda: self._exchange(request))
        if isinstance(answer, str):
            raise RemoteRefusedError(f"{self._uri} refused: {' '.join(answer.split())}")
        try:
            return decode_mapping(answer, self._most_bytes)
        except WireError as error:
            raise RemoteError(f"{self._uri} answered with what is no message: {error}") from error

    async def _until_it_works(self, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
        """What `attempt()` returns, tried again with growing delays while the patience lasts."""
        first_failure, delay = None, FIRST_DELAY_S
        while True:
            try:
                return await attempt()
            except (OSError, TimeoutError, WebSocketException) as error:
                now = time.monotonic()
                first_failure = now if first_failure is None else first_failure
                reason = _reason(error)
                if isinstance(error, InvalidStatus) and 400 <= error.response.status_code < 500:
                    raise RemoteRefusedError(f"{self._uri} refused the connection: {reason}") from error
                if now + delay > first_failure + self._settings.patience_s:
                    raise RemoteUnavailableError(
                        f"{self._uri} did not answer: {reason}; check that vla serve runs there, or give it longer "
                        f"(timeout_s={self._settings.timeout_s:g}, patience_s={self._settings.patience_s:g})"
                    ) from error
                _log.warning("%s: %s; trying again in %.1f s", self._uri, reason, delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY_S)

    async def _exchange(self, request: bytes) -> bytes | str:
        connection = await self._take()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await connection.send(request)
                answer = await connection.recv()
        except TimeoutError as error:
            connection.transport.abort()
            raise TimeoutError(f"no answer within timeout_s={self._settings.timeout_s:g}") from error
        except BaseException:
            connection.transport.abort()  # cancelled, or broken: its answer must not become the next request's
            raise
        if isinstance(answer, str):
            connection.transport.abort()  # openpi's server closes after an error, which may not have arrived yet
        else:
            self._idle.append(connection)
        return answer

    async def _take(self) -> ClientConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.state is State.OPEN:
                return connection
        return await self._connect()

    async def _connect(self) -> ClientConnection:
        """A new connection, after its first frame. Raises `RemoteError` when the server has another policy by now."""
        settings = self._settings
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                connection = await connect(
                    self._uri,
                    compression=None,
                    max_size=self._most_bytes,
                    additional_headers=self._headers,
                    open_timeout=None,
                    close_timeout=CLOSE_TIMEOUT_S,
                    # A server of openpi's answers no ping while it decides, which compiles at first.
                    ping_timeout=max(20.0, settings.timeout_s),
                    proxy=None,  # a robot's server is near; a proxy of the environment would not reach it
                )
                try:
                    frame = await connection.recv()
                except BaseException:
                    connection.transport.abort()
                    raise
        except TimeoutError as error:
            raise TimeoutError(f"no connection within connect_timeout_s={settings.connect_timeout_s:g}") from error
        try:
            self._check_first(frame)
        except BaseException:
            connection.transport.abort()
            raise
        return connection

    def _check_first(self, frame: bytes | str) -> None:
        if isinstance(frame, str):
            raise RemoteRefusedError(f"{self._uri} refused: {frame.strip()}")
        try:
            metadata = decode_mapping(frame, self._most_bytes)
        except WireError as error:
            raise RemoteError(f"{self._uri} is no policy server: its first frame is no message ({error})") from error
        identity = hashlib.sha256(frame).hexdigest()
        if is_ours(metadata):
            identity = f"{metadata.get('protocol_hash')} {metadata.get('policy_sha256')}"
        if self.identity not in (None, identity):
            raise RemoteError(f"{self._uri} serves another policy than at first; its decisions would be mixed")
        self.identity, self.metadata = identity, metadata


def _reason(error: Exception) -> str:
    """One line about what failed."""
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode("utf-8", "replace").strip()
        return f"HTTP {error.response.status_code}" + (f", {body[:300]}" if body else "")
    return " ".join(str(error).split()) or type(error).__name__
