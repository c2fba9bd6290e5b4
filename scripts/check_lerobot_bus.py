"""Drives an emulated SO-101 with the `lerobot` package's own arm.

`check_lerobot_bus.sh` runs it in lerobot's environment. Prints a JSON result; exit status 1 when a check failed.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib.metadata
import json
import statistics
import sys
import time
import types
import urllib.request
from pathlib import Path
from typing import Any

RETRIES = 3
FULL_STEP = 360.0 / 4095
"""Degrees of a servo's step, as lerobot counts them."""


class Stand(types.ModuleType):
    """A module of which lerobot's arm imports names and uses none: torchvision has no build for every torch."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def lerobot_arm(port: str, calibration: Path) -> Any:
    """lerobot's follower arm with that calibration, not connected yet."""
    import datasets  # noqa: F401  # first, because it looks for a real torchvision when it is imported

    for name in ("", ".io", ".transforms", ".transforms.functional", ".transforms.v2", ".transforms.v2.functional"):
        module = sys.modules.setdefault(f"torchvision{name}", Stand(f"torchvision{name}"))
        parent, _, child = f"torchvision{name}".rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    config = SO101FollowerConfig(
        id=calibration.stem, calibration_dir=calibration.parent, port=port, disable_torque_on_disconnect=False
    )
    return SO101Follower(config)


def status(url: str) -> dict[str, Any]:
    """The simulator's truth."""
    with urllib.request.urlopen(url, timeout=20.0) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def furthest(observation: dict[str, float], truth: list[float]) -> float:
    """Largest difference of what lerobot reads from the truth, in degrees or per cent."""
    return max(abs(observation[key] - true) for key, true in zip(observation, truth, strict=True))


def calibrate(arm: Any) -> None:
    """lerobot's own calibration, whose questions are answered here: the arm lies where it fell, and nobody moves it."""
    answers = iter(["c", ""])
    builtins.input = lambda prompt="": next(answers)
    ranges = {name: (arm.calibration[name].range_min, arm.calibration[name].range_max) for name in arm.bus.motors}
    arm.bus.record_ranges_of_motion = lambda motors: (
        {name: ranges[name][0] for name in motors},
        {name: ranges[name][1] for name in motors},
    )
    arm.calibrate()


def check(port: str, calibration: Path, url: str) -> dict[str, Any]:
    """Every check with its outcome, and the numbers beside them."""
    arm = lerobot_arm(port, calibration)
    # The SDK gives up an answer that came while a busy machine let it sleep; lerobot's arm asks once.
    arm.bus.sync_read = functools.partial(arm.bus.sync_read, num_retry=RETRIES)
    began = time.perf_counter()
    arm.connect(calibrate=False)
    connected = time.perf_counter() - began
    checks: dict[str, bool] = {"calibration on the servos is the file's": bool(arm.is_calibrated)}
    found = arm.bus.broadcast_ping()
    checks["broadcast ping finds six STS3215"] = found == dict.fromkeys(range(1, 7), 777)
    time.sleep(1.0)  # connecting lets go of the arm for a moment
    observation = arm.get_observation()
    at_rest = furthest(observation, status(url)["positions"])
    checks["positions are the simulator's"] = at_rest < 2 * FULL_STEP
    goal = dict(observation)
    for name, change in (("shoulder_pan", 25.0), ("elbow_flex", -10.0), ("wrist_roll", -30.0), ("gripper", -20.0)):
        goal[f"{name}.pos"] += change
    arm.send_action(goal)
    time.sleep(1.5)
    moved = furthest(goal, status(url)["positions"])
    checks["a goal is reached"] = moved < 5.0
    times = []
    for _ in range(150):
        began = time.perf_counter()
        arm.get_observation()
        arm.send_action(goal)
        times.append(1000.0 * (time.perf_counter() - began))
        time.sleep(max(0.0, 1 / 30 - times[-1] / 1000.0))
    calibrate(arm)
    middle = arm.bus.sync_read("Present_Position", normalize=False)
    checks["after its calibration every joint reads half a turn"] = all(abs(v - 2047) < 40 for v in middle.values())
    checks["the new calibration is on the servos"] = bool(arm.is_calibrated)
    arm.disconnect()
    return {
        "checks": checks,
        "retries_allowed": RETRIES,
        "largest_difference_at_rest": at_rest,
        "largest_difference_from_the_goal": moved,
        "connect_seconds": connected,
        "read_and_command_ms": {"median": statistics.median(times), "worst": max(times), "cycles": len(times)},
    }


def main() -> None:
    """port, calibration file, address of the status, commit."""
    port, calibration, url, commit = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):  # lerobot talks to whoever calibrates
        result = check(port, Path(calibration), url)
    versions = {name: importlib.metadata.version(name) for name in ("lerobot", "feetech-servo-sdk", "pyserial")}
    sys.stdout.write(json.dumps({"commit": commit, **result, "versions": versions}, indent=2) + "\n")
    sys.exit(0 if all(result["checks"].values()) else 1)


if __name__ == "__main__":
    main()
