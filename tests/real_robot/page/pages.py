"""A page's server in this process, fed by the test."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_robot.page.channel import SharedPictures
from real_robot.page.feed import listening
from real_robot.page.hub import Hub
from real_robot.page.server import PageServer
from real_robot.page.watching import WatchdogView
from real_robot.watchdog.pulse import SharedPulse
from real_robot.watchdog.settings import WatchdogSettings
from sim.embodiments import Camera

JOINTS = 2


@dataclass(frozen=True)
class Served:
    """What a test needs of it."""

    server: PageServer
    hub: Hub
    pictures: SharedPictures
    pulse: SharedPulse
    """The watchdog's and the loop's numbers."""
    settings: WatchdogSettings
    host: str
    """127.0.0.1:port"""


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A page whose watchdog is a pulse, a log and a named pipe in a folder."""
    settings = WatchdogSettings(
        None, os.getpid(), folder / "pulse", folder / "watchdog.jsonl", folder / "latch", pipe=folder / "operator"
    )
    pulse = SharedPulse(settings.pulse, create=True)
    descriptor = os.memfd_create("test")
    pictures = SharedPictures(descriptor, [Camera("front", 8, 8)])
    os.close(descriptor)
    about = {
        "instruction": "</script><b>lift</b>", "policy": "p", "robot": "r", "strategy": "async", "frequency": 30.0,
        "joints": ["a.pos", "b.pos"], "units": ["deg", "deg"], "cameras": [["front", 8, 8]], "horizon": 8,
        "episodes": 2, "max_seconds": 10.0, "max_camera_age": 0.2, "run": str(folder),
    }  # fmt: skip
    hub = Hub(about, WatchdogView(settings), pictures)
    with listening(0) as listener:
        assert listener is not None
        server = PageServer(socket.socket(fileno=os.dup(listener.fileno())), hub, pictures, settings.pipe)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield Served(server, hub, pictures, pulse, settings, f"127.0.0.1:{listener.getsockname()[1]}")
        finally:
            hub.over = True
            server.shutdown()
            server.server_close()
            thread.join()


def step(time: float, **changes: Any) -> dict[str, Any]:
    """A control step as the loop sends it."""
    return {
        "phase": "policy", "episode": 0, "time": time, "number": 0, "missed": 0, "asked": [0.0] * JOINTS,
        "sent": [0.0] * JOINTS, "measured": [0.0] * JOINTS, "decision": "pass", "reasons": [], "chunk": 0, "index": 0,
        "stages": {"filter": [0.5]},
    } | changes  # fmt: skip
