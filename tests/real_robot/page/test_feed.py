"""The loop's side: a page that dies, or never starts, is no concern of the arm's."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from real_robot.control.timing import LatencyLog, Tick
from real_robot.page.feed import LivePage, listening
from real_robot.watchdog.pulse import SharedPulse
from real_robot.watchdog.settings import WatchdogSettings
from sim.so101.embodiment import SO101
from vla.safety.decision import Decision, Filtered

ABOUT = {
    "instruction": "x", "policy": "p", "strategy": "async", "horizon": 8, "episodes": 1, "max_seconds": 1.0,
    "max_camera_age": 0.2, "run": "r",
}  # fmt: skip


def step(number: int) -> Any:
    """A control step of the loop."""
    images = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in SO101.cameras}
    seen = SimpleNamespace(
        images=images, image_times=dict.fromkeys(images, 1.0), reading=SimpleNamespace(positions=np.zeros(6))
    )
    filtered = Filtered(np.zeros(6), Decision.PASS, ())
    return SimpleNamespace(
        tick=Tick(number, 0.0, 0.0, 0), seen=seen, planned=None, problem="no_action", filtered=filtered,
        reasons=("no_action",), sent=np.zeros(6), sent_time=time.monotonic(), source="policy",
    )  # fmt: skip


def watchdog(folder: Path) -> WatchdogSettings:
    settings = WatchdogSettings(None, os.getpid(), folder / "pulse", folder / "log", folder / "latch")
    SharedPulse(settings.pulse, create=True).close()
    return settings


def test_a_page_that_is_killed_disturbs_nobody_and_is_told_of(tmp_path: Path) -> None:
    said = io.StringIO()
    latency = LatencyLog(100)
    with listening(0) as listener:
        page = LivePage(listener, SO101, watchdog(tmp_path), latency, Console(file=said, width=200), ABOUT)
        with page:
            assert page._process is not None
            page.begin(0)
            page.show(step(0))
            os.kill(page._process.pid, signal.SIGKILL)
            page._process.wait()
            latency.add("filter", 0.001)
            for number in range(1, 600):
                page.show(step(number))
            page.end("time")
    assert "page: http://127.0.0.1:" in said.getvalue() and "the page's process failed (status -9)" in said.getvalue()


def test_a_frozen_page_does_not_keep_the_deployment_from_ending(tmp_path: Path) -> None:
    said = io.StringIO()
    with listening(0) as listener:
        page = LivePage(listener, SO101, watchdog(tmp_path), LatencyLog(9), Console(file=said, width=200), ABOUT)
        with page:
            assert page._process is not None
            os.kill(page._process.pid, signal.SIGSTOP)
            began = time.thread_time()
            for number in range(300):
                page.show(step(number))
            assert (time.thread_time() - began) / 300 < 0.005
            process = page._process
    assert process.returncode == -signal.SIGKILL
    assert "did not end and was killed" in said.getvalue()


def test_without_a_port_nothing_starts(tmp_path: Path) -> None:
    page = LivePage(None, SO101, watchdog(tmp_path), LatencyLog(9), Console(file=io.StringIO()), ABOUT)
    with page:
        page.begin(0)
        page.show(step(0))
        page.end(None)
        assert page._process is None and page._ring is None
