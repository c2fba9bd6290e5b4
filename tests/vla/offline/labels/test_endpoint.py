"""The endpoint backend on real sockets: what each kind of reply and failure becomes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.vla.offline.labels.chat_server import MODEL, ChatServer, chat_server
from vla.errors import ReflexError
from vla.offline.labels.answers import probability_second
from vla.offline.labels.backend import CallFailedError, Decoding
from vla.offline.labels.endpoint import Endpoint, EndpointSettings
from vla.offline.preferences import Status

SCHEMA = {"type": "object"}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    for name, value in (("dark", 40), ("bright", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8, 3), value, np.uint8))
    return [tmp_path / "dark.png", tmp_path / "bright.png"]


def endpoint(server: ChatServer, **changes: Any) -> Endpoint:
    return Endpoint(MODEL, EndpointSettings(**{"base_url": server.base_url, "api_key_variable": None, **changes}))


def failure(server: ChatServer, **changes: Any) -> CallFailedError:
    with pytest.raises(CallFailedError) as caught:
        endpoint(server, **changes).call(["hello"], None, Decoding())
    return caught.value


def test_text_and_pictures_arrive_in_order_with_decoding_and_key(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-7")
    decoding = Decoding(log_probabilities=True, extra_body={"reasoning_effort": "low"}, reply_tokens=77)
    with chat_server() as server:
        asked = ["Before", pictures[0], "between", pictures[1], "JSON please"]
        reply = endpoint(server, api_key_variable="MY_KEY").call(asked, SCHEMA, decoding)
        body = server.seen.bodies[0]
        assert server.seen.keys == ["Bearer secret-7"]
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url", "text"]
    assert '"answer": "second"' in reply.text
    assert (reply.model, reply.input_tokens, reply.output_tokens, reply.refused) == (MODEL, 616, 20, False)
    assert (body["temperature"], body["max_completion_tokens"], body["reasoning_effort"]) == (0.0, 77, "low")
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert probability_second(reply.tokens, structured=True) == pytest.approx(0.85)


def test_what_is_not_wanted_is_not_sent(pictures: list[Path]) -> None:
    with chat_server() as server:
        endpoint(server).call([pictures[0], pictures[1], "JSON"], SCHEMA, Decoding(temperature=None, structured=False))
        body = server.seen.bodies[0]
    assert not {"temperature", "response_format", "logprobs", "top_logprobs", "reasoning_effort"} & set(body)


@pytest.mark.parametrize(
    ("behaviour", "status", "again", "perhaps_paid", "hopeless"),
    [
        ({"too_many": 1.0}, Status.ERROR, True, False, False),
        ({"broken": 1.0}, Status.ERROR, True, False, False),
        ({"junk": 1.0}, Status.ERROR, True, True, False),
        ({"junk": 1.0, "seed": 2}, Status.ERROR, True, True, False),
        ({"disconnect_before": 1.0}, Status.ERROR, True, True, False),
        ({"disconnect_within": 1.0}, Status.ERROR, True, True, False),
        ({"always": (400, {"error": {"message": "picture too large"}})}, Status.ERROR, False, False, False),
        (
            {"always": (400, {"error": {"message": "no", "code": "content_filter"}})},
            Status.REFUSED,
            False,
            False,
            False,
        ),
        ({"always": (401, {"error": {"message": "wrong key"}})}, Status.ERROR, False, False, True),
        ({"always": (404, {"error": {"message": "no such model"}})}, Status.ERROR, False, False, True),
        (
            {"always": (429, {"error": {"message": "pay", "code": "insufficient_quota"}})},
            Status.ERROR,
            False,
            False,
            True,
        ),
        ({"always": (200, {"choices": []})}, Status.ERROR, True, True, False),
        ({"always": (200, {"choices": [{"message": None}]})}, Status.ERROR, True, True, False),
    ],
)
def test_each_failure_is_what_it_is(
    behaviour: dict[str, Any], status: Status, again: bool, perhaps_paid: bool, hopeless: bool
) -> None:
    with chat_server(**behaviour) as server:
        found = failure(server)
        assert server.number == 1  # the client tries nothing again behind our back
    assert (found.status, found.again, found.perhaps_paid, found.hopeless) == (status, again, perhaps_paid, hopeless)
    assert found.detail


def test_both_kinds_of_junk_were_tried() -> None:
    details = set()
    for seed in (0, 2):
        with chat_server(junk=1.0, seed=seed) as server:
            details.add(failure(server).detail)
    assert any("html" in detail for detail in details) and any("something else" in detail for detail in details)


def test_a_server_that_never_replies_is_a_timeout() -> None:
    with chat_server(hang=True) as server:
        found = failure(server, timeout=0.2)
    assert (found.status, found.again, found.perhaps_paid) == (Status.TIMEOUT, True, True)


def test_nobody_there_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(CallFailedError, match="Connection") as caught:
        Endpoint(MODEL, EndpointSettings(base_url=address, api_key_variable=None)).call(["hello"], None, Decoding())
    assert caught.value.again


def test_how_long_to_wait_is_read() -> None:
    waits = set()
    for seed in range(6):
        with chat_server(too_many=1.0, seed=seed, retry_after="7") as server:
            waits.add(failure(server).wait)
    assert waits == {7.0, None}


def test_a_refusal_that_the_endpoint_marks_is_one(pictures: list[Path]) -> None:
    with chat_server(refuse=1.0, usage=False) as server:
        reply = endpoint(server).call(pictures, None, Decoding())
    assert reply.refused and reply.text == "I cannot help with this."
    assert reply.input_tokens is None and reply.output_tokens is None


def test_a_key_that_is_not_set_is_said_and_one_that_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ReflexError, match=r"endpoint.api_key_variable is 'NO_SUCH_KEY', and that .* is not set"):
        Endpoint(MODEL, EndpointSettings(api_key_variable="NO_SUCH_KEY"))


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "http://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ReflexError, match=r"endpoint\.base_url is .*must read like http://localhost:8000/v1"):
        EndpointSettings(base_url=address)


def test_a_password_in_an_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(ReflexError) as caught:
        EndpointSettings(base_url="http://me:hunter2@host/v1")
    assert "hunter2" not in str(caught.value)
