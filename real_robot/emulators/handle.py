"""What the handles of all emulators do alike: wait for processes to start, ask them over HTTP, end them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar, Self

from sim.contract import Split
from vla.errors import ReflexError


class EmulatorHandle(ABC):
    """An emulator that runs in processes of its own from `start` to `close`; one ends when its connection is closed."""

    robot: ClassVar[str]
    """What messages call it."""
    start_timeout: ClassVar[float]
    """Seconds that it may take to start on a busy machine."""

    def __init__(self) -> None:
        self.url = ""
        """Of its HTTP server; /status is there."""
        self.camera_urls: dict[str, str] = {}
        """An MJPEG stream of each camera."""
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []

    @abstractmethod
    def start(self) -> Self:
        """Start it and wait until it answers. Raises `ReflexError` when it cannot."""

    def _add(self, process: BaseProcess, ours: Connection, theirs: Connection) -> None:
        """Start a process that says over `theirs` where it is."""
        process.start()
        theirs.close()
        self._processes.append(process)
        self._connections.append(ours)

    def _heard(self) -> dict[str, Any]:
        """What all processes say of where they are. Raises `ReflexError`, everything ended, when one cannot start."""
        said: dict[str, Any] = {}
        try:
            for connection in self._connections:
                said |= self._heard_from(connection)
        except BaseException:
            self.close()
            raise
        return said

    def _heard_from(self, connection: Connection) -> dict[str, Any]:
        if not connection.poll(self.start_timeout):
            raise ReflexError(f"the emulated {self.robot} did not start within {self.start_timeout:.0f} s")
        try:
            said: dict[str, Any] = connection.recv()
        except EOFError as error:
            raise ReflexError(f"the emulated {self.robot} died while it started; its own messages are above") from error
        if "error" in said:
            raise ReflexError(f"the emulated {self.robot} cannot start: {said['error']}")
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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """The simulator's truth."""
        return self._request("status", None)

    def reset(self, init_state: int | None = None, split: Split | None = None) -> dict[str, Any]:
        """Put the scene in an initial state; successes begin anew. Returns the status."""
        values = {"init_state": init_state, "split": split}
        return self._request("reset", {key: value for key, value in values.items() if value is not None})

    def _request(self, name: str, values: dict[str, Any] | None) -> dict[str, Any]:
        data = None if values is None else json.dumps(values).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/{name}", data, timeout=20.0) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise ReflexError(f"the emulated {self.robot} refused {name}: {json.load(error)['error']}") from error
        except OSError as error:
            raise ReflexError(f"the emulated {self.robot} does not answer at {self.url} ({error})") from error
