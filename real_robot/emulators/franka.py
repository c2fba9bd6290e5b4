"""A Franka made of software: libfranka's protocol on a loopback address, an arm with a scene around it, two cameras.

```python
with FrankaEmulator(task_id=0, init_state=0) as emulator:
    arm = FrankaArm(FrankaSettings(port=emulator.address))
```
"""

from __future__ import annotations

import json
import multiprocessing
import urllib.error
import urllib.request
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any, Self

from real_robot.emulators.franka_process import (
    EmulatorSettings,
    SharedScene,
    check_installed,
    serve_physics,
    serve_pictures,
)
from sim.contract import Split
from vla.errors import ReflexError

START_TIMEOUT = 90.0
"""Seconds that an emulator may take to start on a busy machine."""


class FrankaEmulator:
    """A handle of an emulator, which runs in two processes of its own from `start` to `close`."""

    def __init__(self, settings: EmulatorSettings | None = None, **changes: Any) -> None:
        """`changes` are fields of `EmulatorSettings` by name. Raises `ReflexError` where franky-sim is missing."""
        check_installed()
        self.settings = replace(settings or EmulatorSettings(), **changes)
        self.address = ""
        """Where the arm answers, as a real one's control box does: `port` of the arm's settings."""
        self.url = ""
        """Of its HTTP server; /status is there."""
        self.camera_urls: dict[str, str] = {}
        """An MJPEG stream of each camera."""
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `ReflexError` when it cannot."""
        context = multiprocessing.get_context("spawn")
        memory = RawArray("d", SharedScene.SIZE)
        takes, gives = context.Pipe(duplex=False)
        for name, body, orders in (("franka", serve_physics, takes), ("franka-scene", serve_pictures, gives)):
            ours, theirs = context.Pipe()
            process = context.Process(target=body, args=(self.settings, memory, orders, theirs), name=name, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)
        takes.close()
        gives.close()
        try:
            said: dict[str, Any] = {}
            for connection in self._connections:
                said |= self._heard(connection)
        except BaseException:
            self.close()
            raise
        self.address, self.url, self.camera_urls = said["address"], said["url"], said["cameras"]
        return self

    def _heard(self, connection: Connection) -> dict[str, Any]:
        if not connection.poll(START_TIMEOUT):
            raise ReflexError(f"the emulated Franka did not start within {START_TIMEOUT:.0f} s")
        try:
            said: dict[str, Any] = connection.recv()
        except EOFError as error:
            raise ReflexError("the emulated Franka died while it started; its own messages are above") from error
        if "error" in said:
            raise ReflexError(f"the emulated Franka cannot start: {said['error']}")
        return said

    def close(self) -> None:
        """End it; ending it twice is harmless."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(10.0)
            if process.is_alive():
                process.kill()
                process.join()

    def kill(self) -> None:
        """End the arm's process without a word, as a control box that loses power."""
        self._processes[0].kill()
        self._processes[0].join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """The simulator's truth: see `MirroredTabletop.status`, and simulated beside wall seconds."""
        return self._request("status", None)

    def reset(self, init_state: int | None = None, split: Split | None = None) -> dict[str, Any]:
        """Put everything but the arm in an initial state; successes begin anew. Returns the status."""
        values = {"init_state": init_state, "split": split}
        return self._request("reset", {key: value for key, value in values.items() if value is not None})

    def _request(self, name: str, values: dict[str, Any] | None) -> dict[str, Any]:
        data = None if values is None else json.dumps(values).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/{name}", data, timeout=20.0) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise ReflexError(f"the emulated Franka refused {name}: {json.load(error)['error']}") from error
        except OSError as error:
            raise ReflexError(f"the emulated Franka does not answer at {self.url} ({error})") from error
