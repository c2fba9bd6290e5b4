"""A served policy, over real sockets: the conversation, its ends, the two HTTP pages, and who may come in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from real_robot.serving.server import PolicyServer, ServerSettings, serving
from tests.real_robot.serving.peers import PATIENCE_S, EchoPolicy, fetch, observation
from vla.errors import ReflexError
from vla.policies.remote.announcement import Announcement
from vla.policies.remote.codec import decode_mapping, encode


@pytest.fixture
def policy() -> EchoPolicy:
    return EchoPolicy()


@pytest.fixture
def address(policy: EchoPolicy) -> Iterator[str]:
    with serving(policy, ServerSettings(port=0, batch_window_ms=0)) as served:
        yield served


def settings(**changes: Any) -> ServerSettings:
    return ServerSettings(**({"port": 0, "batch_window_ms": 0} | changes))


def opened(address: str, **options: Any) -> ClientConnection:
    """A connection as openpi's client makes it, past the first frame."""
    connection: ClientConnection = connect(address, compression=None, max_size=None, proxy=None, legacy=True, **options)
    assert isinstance(connection.recv(PATIENCE_S), bytes)
    return connection


def ask(connection: ClientConnection, message: Any) -> Any:
    """The answer to a message: a dictionary, or the text of an error."""
    connection.send(message if isinstance(message, bytes | str) else encode(message))
    answer = connection.recv(PATIENCE_S)
    return answer if isinstance(answer, str) else decode_mapping(answer)


def answered(answer: Any) -> float:
    return round(float(answer["actions"][0, 0]) * 1000, 3)


def test_the_first_frame_describes_the_policy(address: str, policy: EchoPolicy) -> None:
    with connect(address, proxy=None) as connection:
        metadata = decode_mapping(connection.recv(PATIENCE_S))
    announced = Announcement.from_metadata(metadata, address)
    assert announced.spec == policy.spec
    assert announced.policy_id == "echo"


def test_an_answer_has_a_chunk_and_its_timing(address: str) -> None:
    with opened(address) as connection:
        first, second = (ask(connection, observation(number)) for number in (3, 4))
    assert first["actions"].shape == (4, 7) and first["actions"].dtype == np.float32
    assert (answered(first), answered(second)) == (3, 4)
    assert first["server_timing"]["infer_ms"] >= 0 and first["policy_timing"]["infer_ms"] >= 0
    assert "prev_total_ms" not in first["server_timing"] and second["server_timing"]["prev_total_ms"] > 0


def test_a_wrong_request_is_one_line_of_text_and_the_connection_stays(address: str) -> None:
    with opened(address) as connection:
        for wrong, words in (
            (b"\xc1", "not msgpack"),
            ("text", "binary frame"),
            ({"instruction": "go"}, "an observation has"),
            ({**observation(), "state": np.zeros(3, np.float32)}, "the state has 3 numbers"),
            (observation(instruction="fail"), "does not want to"),
            (observation(instruction="break"), "ZeroDivisionError: a defect"),
            (observation(instruction="diverge"), "decided on NaN or infinity"),
        ):
            answer = ask(connection, wrong)
            assert isinstance(answer, str) and words in answer and "\n" not in answer
            assert answered(ask(connection, observation(5))) == 5


def test_a_client_is_kept_while_the_policy_decides(address: str, policy: EchoPolicy) -> None:
    with opened(address, ping_interval=0.1, ping_timeout=0.3) as connection:
        connection.send(encode(observation(6, "wait")))
        assert policy.entered.wait(PATIENCE_S)
        time.sleep(1.0)  # several keep-alives, each of which ends the connection where it is not answered
        policy.gate.set()
        assert answered(decode_mapping(connection.recv(PATIENCE_S))) == 6  # type: ignore[arg-type]


def test_a_message_that_is_too_large_ends_its_own_connection(policy: EchoPolicy) -> None:
    with serving(policy, settings(max_message_megabytes=0.01)) as address, opened(address) as other:
        with opened(address) as connection, pytest.raises(ConnectionClosed) as failure:
            ask(connection, b"\0" * 20000)
        assert failure.value.rcvd is not None and failure.value.rcvd.code == 1009
        assert answered(ask(other, observation(2))) == 2


def test_a_full_queue_refuses_and_a_deadline_ends_waiting(policy: EchoPolicy) -> None:
    with (
        serving(policy, settings(queue_limit=1, deadline_ms=2000)) as address,
        opened(address) as busy,
        opened(address) as waiting,
        opened(address) as refused,
    ):
        busy.send(encode(observation(instruction="wait")))
        assert policy.entered.wait(PATIENCE_S)
        waiting.send(encode(observation(1)))
        until(lambda: "reflex_queue_depth 1" in fetch(address, "/metrics")[1])
        assert "the server is busy: 1 requests wait" in ask(refused, observation(2))
        assert "no decision within deadline_ms=2000" in str(waiting.recv(PATIENCE_S))
        assert "no decision within deadline_ms=2000" in str(busy.recv(PATIENCE_S))
        policy.gate.set()
        assert answered(ask(refused, observation(3))) == 3
        text = fetch(address, "/metrics")[1]
    assert 'reflex_errors_total{kind="full"} 1' in text
    assert 'reflex_errors_total{kind="deadline"} 2' in text
    assert policy.batches == [1, 1]  # the request that waited was never decided on


def test_clients_share_a_batch(policy: EchoPolicy) -> None:
    with serving(policy, settings(batch_window_ms=5000)) as address:
        clients = [opened(address) for _ in range(6)]
        for number, client in enumerate(clients):
            client.send(encode(observation(number)))
        numbers = [answered(decode_mapping(client.recv(PATIENCE_S))) for client in clients]  # type: ignore[arg-type]
        for client in clients:
            client.close()
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert policy.batches == [6]


def test_the_pages_for_machines_that_watch(address: str) -> None:
    assert fetch(address, "/healthz") == (200, "OK\n")
    with opened(address) as connection:
        ask(connection, observation())
        ask(connection, b"\xc1")
        status, text = fetch(address, "/metrics")
    assert status == 200
    for line in (
        "# TYPE reflex_requests_total counter",
        "reflex_requests_total 2",
        'reflex_errors_total{kind="malformed"} 1',
        "reflex_queue_depth 0",
        "reflex_connections 1",
        'reflex_batch_size_bucket{le="1"} 1',
        "reflex_request_seconds_count 1",
    ):
        assert line in text.splitlines()


def test_only_those_with_the_token_come_in(policy: EchoPolicy) -> None:
    with serving(policy, settings(token="right")) as address:
        for headers in ({}, {"Authorization": "Api-Key wrong"}, {"Authorization": "Bearer right"}):
            with pytest.raises(InvalidStatus) as failure:
                connect(address, additional_headers=headers, proxy=None)
            assert failure.value.response.status_code == 401
            assert fetch(address, "/metrics", headers)[0] == 401
        allowed = {"Authorization": "Api-Key right"}
        with opened(address, additional_headers=allowed) as connection:
            assert answered(ask(connection, observation(7))) == 7
        assert fetch(address, "/metrics", allowed)[0] == 200
        assert fetch(address, "/healthz")[0] == 200


def test_a_page_in_a_browser_does_not_come_in(address: str) -> None:
    with pytest.raises(InvalidStatus) as failure:
        connect(address, origin="https://example.com", proxy=None)  # type: ignore[arg-type]
    assert failure.value.response.status_code == 403


def test_one_client_too_many_is_refused(policy: EchoPolicy) -> None:
    with serving(policy, settings(max_connections=1)) as address:
        with opened(address) as connection:
            with pytest.raises(InvalidStatus) as failure:
                connect(address, proxy=None)
            assert failure.value.response.status_code == 503
            assert answered(ask(connection, observation(1))) == 1
        until(lambda: "reflex_connections 0" in fetch(address, "/metrics")[1])
        with opened(address) as connection:
            assert answered(ask(connection, observation(2))) == 2


def test_stopping_answers_what_is_under_way(policy: EchoPolicy) -> None:
    server, ports = PolicyServer(policy, settings()), []

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop, ports.append))
        while not ports:
            await asyncio.sleep(0.01)
        address = f"ws://127.0.0.1:{ports[0]}"
        busy, idle = await asyncio.to_thread(opened, address), await asyncio.to_thread(opened, address)
        asked = asyncio.create_task(asyncio.to_thread(ask, busy, observation(9, "wait")))
        assert await asyncio.to_thread(policy.entered.wait, PATIENCE_S)
        stop.set()
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(fetch, address, "/healthz") == (503, "shutting down\n")
        assert "shutting down" in await asyncio.to_thread(ask, idle, observation(1))
        policy.gate.set()
        assert answered(await asked) == 9
        await asyncio.wait_for(running, PATIENCE_S)
        with pytest.raises(ConnectionClosed):
            await asyncio.to_thread(idle.recv, PATIENCE_S)

    asyncio.run(run())


def test_a_policy_that_never_ends_does_not_keep_the_server(policy: EchoPolicy) -> None:
    started = time.monotonic()
    with serving(policy, settings(drain_s=0.1)) as address, opened(address) as connection:
        connection.send(encode(observation(instruction="wait")))
        assert policy.entered.wait(PATIENCE_S)
    assert time.monotonic() - started < PATIENCE_S / 2
    policy.gate.set()


def test_a_port_that_is_taken_is_said(address: str, policy: EchoPolicy) -> None:
    def inference_threads() -> int:
        return sum(thread.name == "inference" for thread in threading.enumerate())

    before = inference_threads()
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(ReflexError, match=f"cannot listen on 127.0.0.1:{port}"), serving(policy, settings(port=port)):
        pass
    assert inference_threads() <= before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "host=0.0.0.0 lets other machines"),
        ({"host": "192.168.1.5"}, "needs token="),
        ({"host": ""}, "needs token="),
        ({"host": "robot.local"}, "needs token="),
        ({"token": ""}, "one word"),
        ({"token": "two words"}, "one word"),
        ({"port": 70000}, "port is 70000"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"queue_limit": 0}, "queue_limit is 0"),
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"max_message_megabytes": 5000}, "max_message_megabytes is 5000"),
        ({"precision": "int8"}, "precision is 'int8'"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        settings(**changes)


def test_other_interfaces_are_for_those_with_a_token() -> None:
    assert settings(host="0.0.0.0", token="word").host == "0.0.0.0"
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert settings(host=host).token is None


def test_a_precision_needs_a_policy_that_has_a_choice(policy: EchoPolicy) -> None:
    with pytest.raises(ReflexError, match="policy echo has no choice of it"):
        PolicyServer(policy, settings(precision="bfloat16"))


def until(condition: Any) -> None:
    """Wait until it holds."""
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
