"""Who may look and who may give orders: this machine's browsers, on this very page, and nobody else's pages."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_robot.deploy_settings import DeployConfig
from real_robot.page.feed import listening
from real_robot.page.server import MOST_VIEWERS
from tests.real_robot.page.pages import Served, served, step
from vla.errors import ReflexError


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


@pytest.fixture
def pipe(page: Served) -> Iterator[int]:
    """The watchdog's end of its pipe."""
    assert page.settings.pipe is not None
    os.mkfifo(page.settings.pipe)
    descriptor = os.open(page.settings.pipe, os.O_RDWR | os.O_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def ask(page: Served, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(page.host, timeout=5.0)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, None if body is None else json.dumps(body), named)
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return found


def heard(pipe: int) -> str:
    try:
        return os.read(pipe, 4096).decode()
    except BlockingIOError:
        return ""


def test_an_order_of_this_page_reaches_the_watchdogs_pipe(page: Served, pipe: int) -> None:
    token = page.server.token
    for word in ("stop", "end", "success"):
        status, _, _ = ask(page, "POST", "/order", {"order": word}, X_Reflex_Token=token, Origin=f"http://{page.host}")
        assert status == 200 and heard(pipe) == f"{word}\n"
    port = page.host.partition(":")[2]
    forwarded = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert ask(page, "POST", "/order", {"order": "stop"}, X_Reflex_Token=token, **forwarded)[0] == 200
    assert heard(pipe) == "stop\n"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:3000", "null", "https://127.0.0.1", "http://127.0.0.1"]
)
def test_orders_of_other_web_sites_are_refused_even_with_the_token(page: Served, pipe: int, origin: str) -> None:
    status, _, body = ask(page, "POST", "/order", {"order": "stop"}, X_Reflex_Token=page.server.token, Origin=origin)
    assert status == 403 and "has no say" in json.loads(body)["error"] and heard(pipe) == ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_a_foreign_name_that_points_at_this_machine_is_refused(page: Served, pipe: int, host: str) -> None:
    token = page.server.token
    assert ask(page, "GET", "/", Host=host)[0] == 403
    assert ask(page, "GET", f"/events?token={token}", Host=host)[0] == 403
    status, _, _ = ask(
        page, "POST", "/order", {"order": "stop"}, Host=host, X_Reflex_Token=token, Origin=f"http://{host}"
    )
    assert status == 403 and heard(pipe) == ""


@pytest.mark.parametrize("token", [{}, {"X_Reflex_Token": ""}, {"X_Reflex_Token": "guessed"}])
def test_without_this_runs_token_nobody_orders_or_looks_on(page: Served, pipe: int, token: dict[str, str]) -> None:
    assert ask(page, "POST", "/order", {"order": "stop"}, **token)[0] == 403
    assert ask(page, "GET", f"/events?token={token.get('X_Reflex_Token', '')}")[0] == 403
    assert heard(pipe) == ""


@pytest.mark.parametrize("body", [{"order": "dance"}, {}, ["stop"], "stop", {"order": "stop" * 500}])
def test_what_is_no_order_is_refused(page: Served, pipe: int, body: Any) -> None:
    status, _, _ = ask(page, "POST", "/order", body, X_Reflex_Token=page.server.token)
    assert status == 400 and heard(pipe) == ""


def test_an_order_that_nobody_hears_says_so(page: Served) -> None:
    token = page.server.token
    status, _, body = ask(page, "POST", "/order", {"order": "stop"}, X_Reflex_Token=token)
    assert status == 503 and "no watchdog is listening" in json.loads(body)["error"], "before it starts"
    assert page.settings.pipe is not None
    os.mkfifo(page.settings.pipe)
    assert ask(page, "POST", "/order", {"order": "stop"}, X_Reflex_Token=token)[0] == 503, "after it has ended"


def test_the_page_carries_its_token_and_cannot_be_framed_or_run_foreign_code(page: Served) -> None:
    status, headers, body = ask(page, "GET", "/")
    assert status == 200 and page.server.token.encode() in body
    assert b"</script><b>" not in body, "an instruction is no markup"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY" and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert b"http://" not in body and b"https://" not in body, "it needs no other server"
    assert ask(page, "GET", "/../watchdog.jsonl")[0] == 404


def test_the_page_looks_as_reports_do(page: Served) -> None:
    report = Path(__file__).parents[3] / "vla" / "evaluation" / "report.css"
    colours = report.read_text().split("--mono")[0].split("{", 1)[1].strip()
    assert colours.encode() in ask(page, "GET", "/")[2]


class Viewer:
    """Reads the stream as a browser does."""

    def __init__(self, page: Served) -> None:
        self._connection = http.client.HTTPConnection(page.host, timeout=5.0)
        self._connection.request("GET", f"/events?token={page.server.token}")
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def update(self) -> dict[str, Any] | None:
        while line := self._answer.readline():
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line[6:])
                return found
        return None

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def test_a_viewer_gets_the_past_then_only_what_is_new_and_the_end(page: Served) -> None:
    now = time.monotonic()
    page.hub.add({"kind": "episode", "number": 0})
    page.hub.add_steps([step(now - 0.1, number=number, missed=int(number == 3)) for number in range(5)], 0)
    viewer = Viewer(page)
    first = viewer.update()
    assert first is not None and [row["number"] for row in first["steps"]] == [0, 1, 2, 3, 4]
    assert first["episode"]["steps"] == 5 and first["missed"] == 1 and first["decisions"] == {"pass": 5}
    assert first["latency"][0]["stage"] == "filter" and first["latency"][0]["p50"] == 0.5
    assert first["pictures"] == {} and first["watchdog"]["state"] == "starting"
    page.pictures.put("front", np.full((8, 8, 3), 200, np.uint8), time.monotonic())
    page.hub.add_steps([step(now, number=5)], 0)
    new, pictures = [], 0
    until = time.monotonic() + 3.0
    while (not new or not pictures) and time.monotonic() < until:
        later = viewer.update()
        assert later is not None
        new += [row["number"] for row in later["steps"]]
        pictures += len(later["pictures"])
    assert new == [5] and pictures == 1, "each step and each picture once"
    page.hub.add({"kind": "result", "number": 0, "ending": "time", "detail": "", "steps": 6, "missed": 1})
    page.hub.add({"kind": "end", "ending": None})
    page.hub.over = True
    last = None
    while (later := viewer.update()) is not None:
        last = later
    assert last is not None and last["over"] and last["result"]["ending"] == "time" and last["episode"] is None
    viewer.close()


def test_few_look_on_at_once_so_that_an_order_finds_a_connection(page: Served, pipe: int) -> None:
    viewers = [Viewer(page) for _ in range(MOST_VIEWERS + 1)]
    assert [viewer.status for viewer in viewers] == [200] * MOST_VIEWERS + [503]
    assert page.pictures.watched
    assert ask(page, "POST", "/order", {"order": "stop"}, X_Reflex_Token=page.server.token)[0] == 200
    assert heard(pipe) == "stop\n"
    for viewer in viewers:
        viewer.close()
    until = time.monotonic() + 5.0
    while page.server.viewers and time.monotonic() < until:
        time.sleep(0.02)
    assert page.server.viewers == 0 and not page.pictures.watched, "a viewer that leaves makes room"


def test_a_port_that_is_taken_is_refused_by_its_setting_and_only_this_machine_gets_in() -> None:
    with listening(0) as listener:
        assert listener is not None
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(ReflexError, match=f"page={port}: .*give another port"), listening(port):
            pass
    with pytest.raises(ReflexError, match="page is 70000; it must lie in"):
        DeployConfig(policy="any", page=70000)
    with listening(None) as nothing:
        assert nothing is None
    with socket.socket() as probe:
        assert probe.connect_ex((address, port)) != 0, "it is closed again"
