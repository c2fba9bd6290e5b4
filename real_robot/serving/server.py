"""A policy behind a websocket: openpi's protocol, with a queue that has an end, deadlines, a token and a way to stop.

The event loop only moves messages; the policy decides on a thread (`batching`), so that no client's keep-alive waits
for another's decision.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from real_robot.serving.batching import CLOSING, Batcher, BusyError, ClosingError, Decided, LateError
from real_robot.serving.metrics import Metrics
from real_robot.serving.requests import RequestReader
from sim.contract import ObservationBatch
from vla.errors import ReflexError
from vla.policies.fingerprint import policy_fingerprint
from vla.policies.protocol import Policy, TrainablePolicy
from vla.policies.remote.address import check_token
from vla.policies.remote.announcement import Announcement, Precision
from vla.policies.remote.codec import decode_mapping, encode
from vla.policies.sampling import GREEDY
from vla.run.settings import Checks

_log = logging.getLogger(__name__)
_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.setLevel(logging.CRITICAL)  # a peer that breaks the protocol is counted, and needs no traceback here

SEND_TIMEOUT_S = 10.0
"""How long a peer may take to read an answer."""
CLOSE_TIMEOUT_S = 2.0
START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ServerSettings:
    """How a policy is served."""

    host: str = "127.0.0.1"
    """Interface to listen on; the default takes connections of this machine only. Any other needs a token."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token: str | None = None
    """What clients must send as `Authorization: Api-Key TOKEN`; null asks for none."""
    precision: Precision = "float32"
    """What the policy computes in: "float32", as vla eval does; "bfloat16", faster in batches; or what suits the device
    ("auto")."""
    max_message_megabytes: float = 16.0
    """Largest request that is read; a larger one closes its connection."""
    max_batch: int = 32
    """Most observations that are decided on together."""
    batch_window_ms: float = 5.0
    """How long a request waits for others to share its batch, unless every client's is there already."""
    queue_limit: int = 64
    """Most requests that wait; one more is refused at once."""
    deadline_ms: float = 10000.0
    """Longest time from a request's arrival to its answer; later it is an error."""
    max_connections: int = 64
    """Most clients at the same time; one more is refused with HTTP 503."""
    drain_s: float = 10.0
    """How long requests under way may take to end when the server is stopped."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.literals()
        check.within(0, 65535, "port")
        check.positive("max_message_megabytes", "deadline_ms")
        check.within(0, 1024, "max_message_megabytes")
        check.within(1, 1024, "max_batch")
        check.within(0, 10000, "batch_window_ms")
        check.at_least(1, "queue_limit", "max_connections")
        check.within(0, 3600, "drain_s")
        if self.token is not None:
            check_token(self.token, "token")
        elif not is_loopback(self.host):
            raise ReflexError(
                f"host={self.host} lets other machines decide what the policy does, so it needs token=... or "
                "token_file=...; host=127.0.0.1 takes connections of this machine only"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PolicyServer:
    """Serves one policy until it is told to stop."""

    def __init__(self, policy: Policy, settings: ServerSettings) -> None:
        """Start the inference thread; `run` listens."""
        self._policy, self._settings = policy, settings
        self._most_bytes = int(settings.max_message_megabytes * 2**20)
        if settings.precision != "float32":
            _set_precision(policy, settings.precision)
        spec = policy.spec
        self.announcement = Announcement(
            policy_id=policy.policy_id,
            policy_sha256=policy_fingerprint(policy),
            embodiment=spec.embodiment,
            feature_map=policy.feature_map,
            uses_state=spec.uses_state,
            chunk_horizon=spec.chunk_horizon,
            execute_steps=spec.execute_steps,
            precision=settings.precision,
            max_batch=settings.max_batch,
            max_message_bytes=self._most_bytes,
        )
        self._first_frame = encode(self.announcement.to_metadata())
        self._reader = RequestReader(spec, policy.feature_map, settings.max_batch)
        self._metrics = Metrics()
        self._connections = self._under_way = 0
        self._draining = False
        self._given_up: asyncio.Future[None]
        """Done once requests under way are no longer waited for; of the loop that `run` runs in."""
        self._batcher = Batcher(
            self._decide,
            max_batch=settings.max_batch,
            window_s=settings.batch_window_ms / 1000,
            queue_limit=settings.queue_limit,
            clients=lambda: self._connections,
            on_batch=self._metrics.batch,
        )

    async def run(self, stop: asyncio.Event, on_ready: Callable[[int], None] = lambda port: None) -> None:
        """Listen until `stop` is set, then answer what is under way and close.

        `on_ready` is told the port. Raises `ReflexError` when the address cannot be listened on.
        """
        settings = self._settings
        self._given_up = asyncio.get_running_loop().create_future()
        try:
            server = await serve(
                self._converse,
                settings.host,
                settings.port,
                process_request=self._before,
                compression=None,  # pictures do not shrink, and what inflates could be a bomb
                max_size=self._most_bytes,
                max_queue=1,
                close_timeout=CLOSE_TIMEOUT_S,
                origins=[None],  # a page in somebody's browser could reach a loopback port otherwise
                server_header=None,
                logger=_wire_log,
            )
        except OSError as error:
            await asyncio.to_thread(self._batcher.close, CLOSE_TIMEOUT_S)
            raise ReflexError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; choose another host or "
                "port"
            ) from error
        try:
            on_ready(next(iter(server.sockets)).getsockname()[1])
            await stop.wait()
        finally:
            await self._drain()
            server.close()
            await server.wait_closed()

    async def _drain(self) -> None:
        """Refuse what is new and let what is under way end, for `drain_s` at most."""
        self._draining = True
        ends = time.monotonic() + self._settings.drain_s
        while self._under_way and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        self._given_up.set_result(None)
        if not await asyncio.to_thread(self._batcher.close, max(CLOSE_TIMEOUT_S, ends - time.monotonic())):
            _log.warning("the policy was still deciding after drain_s=%g; it was left behind", self._settings.drain_s)

    def _before(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a plain HTTP request, or a refusal; None goes on to the websocket."""
        path = urlsplit(request.path).path
        working = self._batcher.is_alive and not self._draining
        if path == "/healthz":
            status = HTTPStatus.OK if working else HTTPStatus.SERVICE_UNAVAILABLE
            return connection.respond(status, "OK\n" if working else "shutting down\n")
        if not self._is_known(request):
            refusal = connection.respond(HTTPStatus.UNAUTHORIZED, "this server needs Authorization: Api-Key TOKEN\n")
            refusal.headers["WWW-Authenticate"] = "Api-Key"
            return refusal
        if path == "/metrics":
            text = self._metrics.render(self._batcher.depth, self._connections)
            response = connection.respond(HTTPStatus.OK, text)
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
            return response
        if not working or self._connections >= self._settings.max_connections:
            reason = "shutting down" if not working else "as many clients as max_connections allows are connected"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
        return None

    def _is_known(self, request: Request) -> bool:
        token = self._settings.token
        given = request.headers.get_all("Authorization")
        if token is None:
            return True
        expected = f"Api-Key {token}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "replace"), expected)

    async def _converse(self, connection: ServerConnection) -> None:
        """One client: the metadata, then an answer to each request until it leaves."""
        self._connections += 1
        try:
            await self._send(connection, self._first_frame)
            total_ms: float | None = None
            async for frame in connection:
                arrived = time.monotonic()
                self._under_way += 1
                try:
                    await self._send(connection, await self._answer(frame, arrived, total_ms))
                finally:
                    self._under_way -= 1
                total_ms = (time.monotonic() - arrived) * 1000
        except ConnectionClosed:
            pass  # the client left, or broke the protocol
        except TimeoutError:
            connection.transport.abort()  # it does not read its answers
        finally:
            self._connections -= 1

    async def _send(self, connection: ServerConnection, message: bytes | str) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(message)

    async def _answer(self, frame: bytes | str, arrived: float, previous_ms: float | None) -> bytes | str:
        """The frame that answers a request: actions, or text that says what is wrong."""
        self._metrics.request()
        deadline = arrived + self._settings.deadline_ms / 1000
        try:
            if isinstance(frame, str):
                raise ReflexError("a request is a binary frame of msgpack, and this was text")
            observations, is_batch = self._reader.read(decode_mapping(frame))
            decided = await self._decided(observations, is_batch, deadline)
        except Exception as error:  # noqa: BLE001 (the client's answer; defects are logged)
            return self._refusal(error)
        timing = {
            "infer_ms": decided.infer_s * 1000,
            "queue_ms": decided.queue_s * 1000,
            "batch": decided.batch,
        }
        if previous_ms is not None:
            timing["prev_total_ms"] = previous_ms
        self._metrics.answered(time.monotonic() - arrived)
        return encode(
            {
                "actions": decided.actions if is_batch else decided.actions[0],
                "server_timing": timing,
                "policy_timing": {"infer_ms": decided.infer_s * 1000},
            }
        )

    async def _decided(self, observations: ObservationBatch, is_batch: bool, deadline: float) -> Decided:
        """What the policy decides. Raises `LateError` at the deadline, `ClosingError` when the server stops."""
        if self._draining:
            raise ClosingError(CLOSING)
        future = asyncio.wrap_future(self._batcher.submit(observations, is_batch, deadline))
        ends: set[asyncio.Future[Any]] = {future, self._given_up}
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        future.cancel()
        if self._given_up.done():
            raise ClosingError(CLOSING)
        raise LateError(f"no decision within deadline_ms={self._settings.deadline_ms:g}")

    def _refusal(self, error: Exception) -> str:
        kinds: dict[type[Exception], str] = {BusyError: "full", ClosingError: "draining", LateError: "deadline"}
        kind = kinds.get(type(error), "malformed" if isinstance(error, ReflexError) else "policy")
        self._metrics.error(kind)
        if isinstance(error, ReflexError):
            return " ".join(str(error).split())
        return f"the policy failed: {type(error).__name__}: {error}"[:2000]

    def _decide(self, observations: ObservationBatch) -> NDArray[np.float32]:
        actions = np.asarray(self._policy.act(observations, GREEDY).actions, np.float32)
        if not np.isfinite(actions).all():
            raise ReflexError("the policy decided on NaN or infinity")
        return actions


def _set_precision(policy: Policy, precision: Precision) -> None:
    if not isinstance(policy, TrainablePolicy):
        raise ReflexError(f"precision={precision}: policy {policy.policy_id} has no choice of it; leave precision out")
    policy.set_precision(precision)


@contextmanager
def serving(policy: Policy, settings: ServerSettings | None = None) -> Iterator[str]:
    """A policy served from a thread of this process meanwhile; gives the address `ws://host:port`.

    Raises `ReflexError` when the address cannot be listened on.
    """
    settings = settings or ServerSettings(port=0)
    ready: list[str] = []
    failure: list[BaseException] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    server = PolicyServer(policy, settings)

    def on_ready(port: int) -> None:
        ready.append(f"ws://{settings.host}:{port}")
        started.set()

    def work() -> None:
        try:
            loop.run_until_complete(server.run(stop, on_ready))
        except BaseException as error:  # noqa: BLE001 (raised where the context is entered)
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, name="policy server", daemon=True)
    thread.start()
    started.wait(START_TIMEOUT_S)
    try:
        if not ready:
            raise failure[0] if failure else ReflexError("the server did not start")
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(settings.drain_s + 2 * CLOSE_TIMEOUT_S + SEND_TIMEOUT_S)
        if not thread.is_alive():
            loop.close()
