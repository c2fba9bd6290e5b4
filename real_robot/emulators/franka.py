"""A Franka made of software: libfranka's protocol on a loopback address, an arm with a scene around it, two cameras.

```python
with FrankaEmulator(task_id=0, init_state=0) as emulator:
    arm = FrankaArm(FrankaSettings(port=emulator.address))
```
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.sharedctypes import RawArray
from typing import Any, Self

from real_robot.emulators.franka_process import (
    EmulatorSettings,
    SharedScene,
    check_installed,
    serve_physics,
    serve_pictures,
)
from real_robot.emulators.handle import EmulatorHandle


class FrankaEmulator(EmulatorHandle):
    """A handle of an emulator, which runs in two processes of its own from `start` to `close`.

    `status` gives what `MirroredTabletop.status` does, and simulated beside wall seconds; `reset` moves everything but
    the arm.
    """

    robot, start_timeout = "Franka", 90.0

    def __init__(self, settings: EmulatorSettings | None = None, **changes: Any) -> None:
        """`changes` are fields of `EmulatorSettings` by name. Raises `ReflexError` where franky-sim is missing."""
        super().__init__()
        check_installed()
        self.settings = replace(settings or EmulatorSettings(), **changes)
        self.address = ""
        """Where the arm answers, as a real one's control box does: `port` of the arm's settings."""

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `ReflexError` when it cannot."""
        context = multiprocessing.get_context("spawn")
        memory = RawArray("d", SharedScene.SIZE)
        takes, gives = context.Pipe(duplex=False)
        for name, body, orders in (("franka", serve_physics, takes), ("franka-scene", serve_pictures, gives)):
            ours, theirs = context.Pipe()
            process = context.Process(target=body, args=(self.settings, memory, orders, theirs), name=name, daemon=True)
            self._add(process, ours, theirs)
        takes.close()
        gives.close()
        said = self._heard()
        self.address, self.url, self.camera_urls = said["address"], said["url"], said["cameras"]
        return self

    def kill(self) -> None:
        """End the arm's process without a word, as a control box that loses power."""
        self._processes[0].kill()
        self._processes[0].join()
