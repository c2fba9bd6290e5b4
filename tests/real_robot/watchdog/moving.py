"""A control loop that sends a shared arm on a long way, for tests to kill, freeze and stop; run in a process."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from real_robot.watchdog.guard import Guard
from real_robot.watchdog.settings import ArmSpec
from tests.real_robot.watchdog.shared_arm import SharedArm

if __name__ == "__main__":
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    obedient, finishes = options.pop("obedient", True), options.pop("finishes", False)
    pauses = options.pop("pauses", False)
    for name in ("pipe", "stop_file"):
        if name in options:
            options[name] = Path(options[name])
    spec = ArmSpec("tests.real_robot.watchdog.shared_arm:SharedArm", {"path": str(folder / "servos")})
    with SharedArm(str(folder / "servos")) as arm, Guard(spec, folder / "log", folder / "latch", **options) as guard:
        guard.arm()
        (folder / "moving").touch()
        for step in range(300):
            guard.beat(step)
            order = guard.order() if obedient else None
            if order is not None:
                (folder / "order").write_text(str(order))
                if order == "stopped":
                    arm.stop()
                    arm.disconnect()
                    guard.release()
                break
            if pauses and step == 20:
                arm.hold()
                guard.rest()
                time.sleep(0.8)  # as when an episode is written: the arm rests, and nothing beats
                guard.arm()
                (folder / "paused").touch()
            if finishes and step == 20:
                arm.hold()
                break
            arm.send(np.full(6, 500.0))
            time.sleep(1 / 30)
