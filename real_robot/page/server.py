"""The page's web server: one page, one stream of events, and orders, for browsers on this machine only.

A web page of somebody else, open in the same browser, can send requests here. It must not give orders or look on:
requests must name this machine (so that no foreign name can be pointed at it), orders must come from this very page,
and both orders and the stream need a token that only the page has.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from real_robot.page.channel import SharedPictures
from real_robot.page.hub import Hub
from real_robot.page.watching import NobodyListens, order

UPDATE_EVERY = 0.1
"""Seconds between two updates of a page."""
MOST_VIEWERS = 3
"""Streams at once: a browser has six connections to a server, and the stop button must find one that is free."""
MOST_BYTES = 1000
"""Of an order."""
LOCAL = ("127.0.0.1", "localhost")
_log = logging.getLogger(__name__)


class PageServer(ThreadingHTTPServer):
    """Serves one deployment's page, a thread a request."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, hub: Hub, pictures: SharedPictures, pipe: Path | None) -> None:
        """`listener` listens already; `pipe` is where the watchdog hears orders."""
        super().__init__(listener.getsockname(), PageHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.hub, self.pipe = hub, pipe
        self.token = secrets.token_urlsafe(24)
        self._pictures = pictures
        self._viewers = 0
        self._lock = threading.Lock()

    @property
    def viewers(self) -> int:
        """Streams that are open."""
        return self._viewers

    def enter(self) -> bool:
        """A viewer comes; whether there is room."""
        with self._lock:
            if self._viewers >= MOST_VIEWERS:
                return False
            self._viewers += 1
            self._pictures.watched = True
            return True

    def leave(self) -> None:
        """A viewer has gone."""
        with self._lock:
            self._viewers -= 1
            self._pictures.watched = self._viewers > 0

    def page(self, nonce: str) -> bytes:
        """The page, with what it must know written into it."""
        text = files("real_robot.page").joinpath("page.html").read_text(encoding="utf-8")
        facts = json.dumps({"token": self.token, "about": self.hub.about}).replace("<", "\\u003c")
        return text.replace("@NONCE@", nonce).replace("@FACTS@", facts).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error; anything else is a defect and shows its traceback."""
        if isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            _log.debug("%s went away", client_address)
            return
        super().handle_error(request, client_address)


class PageHandler(BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    timeout = 5.0
    """Seconds that a browser may take to send or to take something."""
    server_version, sys_version = "reflex", ""

    def do_GET(self) -> None:
        """The page, or its stream."""
        path = urlsplit(self.path).path
        if not self._from_here():
            return
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            policy = (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
                "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
            )
            self._answer(self.server.page(nonce), "text/html; charset=utf-8", policy=policy)
        elif path == "/events":
            self._stream()
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        """An order: {"order": "stop"}, or another of `real_robot.watchdog.operator.WORDS`."""
        if not self._from_here() or not self._may_order(self.headers.get("X-Reflex-Token", "")):
            return
        try:
            size = int(self.headers.get("Content-Length", ""))
            if self.path != "/order" or not 0 < size <= MOST_BYTES:
                raise ValueError("an order is short, and goes to /order")
            order(self.server.pipe, str(json.loads(self.rfile.read(size))["order"]))
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except NobodyListens as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        else:
            self._answer(b"{}", "application/json")

    def _from_here(self) -> bool:
        """Whether the browser asked for this machine by its own name."""
        host = self.headers.get("Host", "")
        if urlsplit(f"//{host}").hostname in LOCAL and len(self.headers.get_all("Host", [])) == 1:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"this page is at {' or '.join(LOCAL)}, not at {host!r}")
        return False

    def _may_order(self, token: str) -> bool:
        """Whether this very page asks. A program that is no browser names no origin; it too needs the token."""
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            self._refuse(HTTPStatus.FORBIDDEN, f"a page of {origin} has no say here")
            return False
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the token is not this run's; load the page again")
            return False
        return True

    def _stream(self) -> None:
        if not self._may_order(parse_qs(urlsplit(self.path).query).get("token", [""])[0]):
            return
        if not self.server.enter():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_VIEWERS} pages look on already; close one")
            return
        try:
            self._headers(HTTPStatus.OK, "text/event-stream")
            seen, pictures_seen, over = 0, dict[str, float](), False
            while not over:
                over = self.server.hub.over
                update, seen = self.server.hub.update(seen, pictures_seen)
                self.wfile.write(b"data: " + json.dumps(update).encode() + b"\n\n")
                time.sleep(UPDATE_EVERY)
        finally:
            self.server.leave()

    def _answer(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, policy: str = "default-src 'none'"
    ) -> None:
        self._headers(status, kind, {"Content-Length": str(len(content)), "Content-Security-Policy": policy})
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._answer(json.dumps({"error": why}).encode(), "application/json", status)

    def _headers(self, status: HTTPStatus, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        common = {
            "Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
        }  # fmt: skip
        for name, value in {**common, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not worth a line of the terminal that shows the deployment."""
        _log.debug(format, *arguments)
