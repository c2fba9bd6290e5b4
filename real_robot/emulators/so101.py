"""An SO-101 made of software: a serial port with six servos behind it, and two cameras.

```python
with SO101Emulator(task_id=1, init_state=0) as emulator:
    arm = SO101Arm(SO101Settings(port=emulator.port, calibration=emulator.calibration_file))
```
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from real_robot.arms.calibration import Calibration
from real_robot.emulators.faults import Faults
from real_robot.emulators.handle import EmulatorHandle
from real_robot.emulators.so101_physics import emulated_calibration
from real_robot.emulators.so101_process import EmulatorSettings, serve


class SO101Emulator(EmulatorHandle):
    """A handle of an emulator, which runs in a process of its own from `start` to `close`.

    `status` gives what `SO101Physics.status` does, and `bus` with counts of packets and late steps; `reset` holds the
    arm where the scene has it, and peaks begin anew.
    """

    robot, start_timeout = "SO-101", 60.0

    def __init__(self, settings: EmulatorSettings | None = None, **changes: Any) -> None:
        """`changes` are fields of `EmulatorSettings` by name."""
        super().__init__()
        self.settings = replace(settings or EmulatorSettings(), **changes)
        self.port = ""
        """Path of the serial port."""

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `ReflexError` when it cannot."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(self.settings, theirs), name="so101", daemon=True)
        self._folder = Path(tempfile.mkdtemp(prefix="reflex-so101-"))
        self._add(process, ours, theirs)
        said = self._heard()
        self.port, self.url, self.camera_urls = said["port"], said["url"], said["cameras"]
        self.calibration.write(self.calibration_file)
        return self

    def close(self) -> None:
        """End it; ending it twice is harmless."""
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def calibration(self) -> Calibration:
        """The calibration that fits its servos."""
        return emulated_calibration()

    @property
    def calibration_file(self) -> Path:
        """The calibration in LeRobot's format; the file is there until `close`."""
        return self._folder / "so101.json"

    def set_faults(self, faults: Faults | None = None, **values: Any) -> dict[str, Any]:
        """Replace the faults by these, or by fields of `Faults`; neither heals it. Returns the status."""
        return self._request("faults", (faults or Faults(**values)).to_dict())

    def trace(self) -> dict[str, NDArray[Any]]:
        """What the joints truly did since the last reset, as far as it was kept: the arrays of `Trace.save`."""
        path = self._folder / "trace.npz"
        self._request("trace", {"path": str(path)})
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def brown_out(self, joints: Sequence[str] = ()) -> dict[str, Any]:
        """Let the voltage of some servos (none given: of all) break down. Returns the status."""
        return self._request("brown_out", {"joints": list(joints)})

    def guide(self, positions: Sequence[float] | None) -> dict[str, Any]:
        """Lead the arm by the hand to positions [6] (degrees, per cent), or let go of it. Returns the status."""
        return self._request("guide", {"positions": None if positions is None else list(map(float, positions))})
