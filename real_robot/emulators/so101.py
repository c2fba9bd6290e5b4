"""An SO-101 made of software: a serial port with six servos behind it, and two cameras.

```python
with SO101Emulator(task_id=1, init_state=0) as emulator:
    arm = SO101Arm(SO101Settings(port=emulator.port, calibration=emulator.calibration_file))
```
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from real_robot.arms.calibration import Calibration
from real_robot.emulators.faults import Faults
from real_robot.emulators.so101_physics import emulated_calibration
from real_robot.emulators.so101_process import EmulatorSettings, serve
from sim.contract import Split
from vla.errors import ReflexError

START_TIMEOUT = 60.0
"""Seconds that an emulator may take to start on a busy machine."""


class SO101Emulator:
    """A handle of an emulator, which runs in a process of its own from `start` to `close`."""

    def __init__(self, settings: EmulatorSettings | None = None, **changes: Any) -> None:
        """`changes` are fields of `EmulatorSettings` by name."""
        self.settings = replace(settings or EmulatorSettings(), **changes)
        self.port = ""
        """Path of the serial port."""
        self.url = ""
        """Of its HTTP server; /status is there."""
        self.camera_urls: dict[str, str] = {}
        """An MJPEG stream of each camera."""

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `ReflexError` when it cannot."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(self.settings, theirs), name="so101", daemon=True)
        self._process.start()
        theirs.close()
        self._folder = Path(tempfile.mkdtemp(prefix="reflex-so101-"))
        try:
            if not self._connection.poll(START_TIMEOUT):
                raise ReflexError(f"the emulated SO-101 did not start within {START_TIMEOUT:.0f} s")
            said = self._connection.recv()
            if "error" in said:
                raise ReflexError(f"the emulated SO-101 cannot start: {said['error']}")
        except (EOFError, ReflexError) as error:
            self.close()
            if isinstance(error, ReflexError):
                raise
            raise ReflexError("the emulated SO-101 died while it started; its own messages are above") from error
        self.port, self.url, self.camera_urls = said["port"], said["url"], said["cameras"]
        self.calibration.write(self.calibration_file)
        return self

    def close(self) -> None:
        """End it; ending it twice is harmless."""
        self._connection.close()
        self._process.join(10.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def calibration(self) -> Calibration:
        """The calibration that fits its servos."""
        return emulated_calibration()

    @property
    def calibration_file(self) -> Path:
        """The calibration in LeRobot's format; the file is there until `close`."""
        return self._folder / "so101.json"

    def status(self) -> dict[str, Any]:
        """The simulator's truth: see `SO101Physics.status`, and `bus` with counts of packets and late steps."""
        return self._request("status", None)

    def reset(self, init_state: int | None = None, split: Split | None = None) -> dict[str, Any]:
        """Put the scene in an initial state, the arm held there; peaks and successes begin anew. Returns the status."""
        values = {"init_state": init_state, "split": split}
        return self._request("reset", {key: value for key, value in values.items() if value is not None})

    def set_faults(self, faults: Faults | None = None, **values: Any) -> dict[str, Any]:
        """Replace the faults by these, or by fields of `Faults`; neither heals it. Returns the status."""
        return self._request("faults", (faults or Faults(**values)).to_dict())

    def brown_out(self, joints: Sequence[str] = ()) -> dict[str, Any]:
        """Let the voltage of some servos (none given: of all) break down. Returns the status."""
        return self._request("brown_out", {"joints": list(joints)})

    def guide(self, positions: Sequence[float] | None) -> dict[str, Any]:
        """Lead the arm by the hand to positions [6] (degrees, per cent), or let go of it. Returns the status."""
        return self._request("guide", {"positions": None if positions is None else list(map(float, positions))})

    def _request(self, name: str, values: dict[str, Any] | None) -> dict[str, Any]:
        data = None if values is None else json.dumps(values).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/{name}", data, timeout=20.0) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise ReflexError(f"the emulated SO-101 refused {name}: {json.load(error)['error']}") from error
        except OSError as error:
            raise ReflexError(f"the emulated SO-101 does not answer at {self.url} ({error})") from error
