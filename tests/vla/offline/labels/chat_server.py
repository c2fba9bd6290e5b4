"""An OpenAI-compatible chat endpoint on a real socket that sees which picture is brighter, and misbehaves on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

MODEL = "test-vlm"


@dataclass
class Behaviour:
    """How the server treats requests. Shares are of requests; what befalls one depends on its number and the seed."""

    delay: float = 0.0
    """Greatest seconds before a reply."""
    too_many: float = 0.0
    """Share answered with 429, half of them with Retry-After."""
    retry_after: str = "0.05"
    broken: float = 0.0
    """Share answered with 500."""
    junk: float = 0.0
    """Share answered with 200 and something that is no completion."""
    disconnect_before: float = 0.0
    """Share whose connection is cut before anything is sent."""
    disconnect_within: float = 0.0
    """Share whose connection is cut in the middle of the reply."""
    refuse: float = 0.0
    """Share of *questions* that the model refuses, every time."""
    babble: float = 0.0
    """Share of *questions* that the model answers with something else than was asked for."""
    model: str = MODEL
    """Who it says to be."""
    always: tuple[int, dict[str, Any]] | None = None
    """Status and body of every answer."""
    hang: bool = False
    """Never reply."""
    usage: bool = True
    """Count tokens."""
    log_probabilities: bool = False
    name_first: bool = False
    """Always say that the picture shown first is better."""
    seed: int = 0


@dataclass
class Seen:
    """What the server did."""

    outcomes: Counter[str] = field(default_factory=Counter)
    answered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Hash of a request's body -> whole answers of the model that were sent."""
    with_pictures: set[str] = field(default_factory=set)
    """Which of those requests show pictures; two that only have a text may be equal for different pairs."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most_at_once: int = 0
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Of the server's own: a test with any fails."""


class ChatServer:
    """The server; its address is `base_url`."""

    def __init__(self, behaviour: Behaviour, keep_bodies: bool = True) -> None:
        self.behaviour, self.seen, self.keep_bodies = behaviour, Seen(), keep_bodies
        self.lock, self.number, self.at_once = threading.Lock(), 0, 0
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):  # whoever asked was killed
                    super().handle_error(request, client_address)

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        if len(body) < length:  # whoever asked was killed on the way
            request.close_connection = True
            return
        asked = json.loads(body)
        with self.lock:
            number, self.number = self.number, self.number + 1
            self.at_once += 1
            self.seen.most_at_once = max(self.seen.most_at_once, self.at_once)
            self.seen.times.append(time.monotonic())
            self.seen.keys.append(request.headers.get("Authorization", ""))
            if self.keep_bodies:
                self.seen.bodies.append(asked)
        try:
            self._treat(request, asked, hashlib.sha256(body).hexdigest(), number)
        except Exception as error:
            self.seen.errors.append(repr(error))
            raise
        finally:
            with self.lock:
                self.at_once -= 1

    def _treat(self, request: BaseHTTPRequestHandler, asked: dict[str, Any], digest: str, number: int) -> None:
        kind = self.behaviour
        draw = np.random.default_rng([kind.seed, number]).random(3)
        if kind.hang:
            self.closing.wait(30)
            return
        if kind.delay:
            time.sleep(kind.delay * draw[1])
        if kind.always is not None:
            self._send(request, *kind.always, outcome="always")
            return
        edge = 0.0
        for name in ("too_many", "broken", "junk", "disconnect_before", "disconnect_within"):
            edge += getattr(kind, name)
            if draw[0] < edge:
                self._misbehave(request, name, draw[2])
                return
        with self.lock:  # counted before the reply, so that whoever has it finds it counted
            self.seen.answered[digest] += 1
        self._send(request, 200, self._completion(asked, digest), outcome="answered")

    def _misbehave(self, request: BaseHTTPRequestHandler, name: str, draw: float) -> None:
        if name == "too_many":
            headers = {"Retry-After": self.behaviour.retry_after} if draw < 0.5 else {}
            error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
            self._send(request, 429, error, headers, outcome=name)
        elif name == "broken":
            self._send(request, 500, {"error": {"message": "it broke"}}, outcome=name)
        elif name == "junk":
            text = b"<html>a proxy's page</html>" if draw < 0.5 else b'{"object": "something else"}'
            self._raw(request, text, "text/html" if draw < 0.5 else "application/json", outcome=name)
        else:
            if name == "disconnect_within":
                request.wfile.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
                )
                request.wfile.flush()
            with self.lock:
                self.seen.outcomes[name] += 1
            # A reset, not an orderly end.
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
            request.close_connection = True

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: dict[str, Any],
        headers: dict[str, str] | None = None,
        outcome: str = "",
    ) -> None:
        self._raw(request, json.dumps(body).encode(), "application/json", status, headers, outcome)

    def _raw(
        self,
        request: BaseHTTPRequestHandler,
        content: bytes,
        kind: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        outcome: str = "",
    ) -> None:
        with self.lock:
            self.seen.outcomes[outcome] += 1
        try:
            request.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)
        except OSError:  # whoever asked was killed
            request.close_connection = True

    def _completion(self, asked: dict[str, Any], digest: str) -> dict[str, Any]:
        content = asked["messages"][0]["content"]
        pictures = [_brightness(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        if pictures:
            self.seen.with_pictures.add(digest)
        text = " ".join(part["text"] for part in content if part["type"] == "text")
        share = int(digest[:8], 16) / 16**8
        reply: dict[str, Any] = {"content": self._say(pictures, text)}
        if share < self.behaviour.refuse:
            reply = {"content": None, "refusal": "I cannot help with this."}
        elif share < self.behaviour.refuse + self.behaviour.babble:
            reply = {"content": "What lovely pictures!"}
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", **reply}, "finish_reason": "stop"}
        if asked.get("logprobs") and reply["content"]:
            choice["logprobs"] = {"content": _log_probabilities(reply["content"])}
        found = {"id": digest[:8], "object": "chat.completion", "created": 0, "model": self.behaviour.model}
        usage = {"prompt_tokens": 100 + 258 * len(pictures), "completion_tokens": 20, "total_tokens": 0}
        return {**found, "choices": [choice], **({"usage": usage} if self.behaviour.usage else {})}

    def _say(self, pictures: list[float], text: str) -> str:
        """What the model says: an analysis of two pictures, a word about an analysis, or an object."""
        if not pictures:
            found = re.search(r"brightness (\d+\.\d+) and (\d+\.\d+)", text)
            return "Tie." if found is None else self._word(float(found[1]), float(found[2]))
        if "JSON" in text:
            return json.dumps({"first_picture": "a", "second_picture": "b", "answer": self._word(*pictures)})
        return f"The pictures have brightness {pictures[0]:.3f} and {pictures[1]:.3f}."

    def _word(self, first: float, second: float) -> str:
        if self.behaviour.name_first:
            return "first"
        if abs(first - second) < 2.0:
            return "tie"
        return "second" if second > first else "first"


def _log_probabilities(text: str) -> list[dict[str, Any]]:
    """As if the reply's words were tokens and the model were sure to 80 %."""
    places = []
    for token in re.findall(r"\s*\w+|\s*\W", text):
        others = [
            {"token": word, "logprob": float(np.log(0.1))} for word in ("first", "second", "tie") if word != token
        ]
        top = [{"token": token, "logprob": float(np.log(0.8))}, *others]
        places.append({"token": token, "logprob": float(np.log(0.8)), "top_logprobs": top})
    return places


def _brightness(url: str) -> float:
    head, _, encoded = url.partition(",")
    assert head == "data:image/png;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.ndim == 3
    return float(picture.mean())


@contextmanager
def chat_server(keep_bodies: bool = True, **behaviour: Any) -> Iterator[ChatServer]:
    """A server while the block runs."""
    server = ChatServer(Behaviour(**behaviour), keep_bodies)
    try:
        yield server
    finally:
        server.close()
    assert server.seen.errors == []
