"""A policy of the tabletop suite drives the emulated Franka through libfranka's protocol; writes a raw result.

```sh
python -m scripts.check_franka_emulator --output docs/results/franka_emulator.json
```

Each episode is a `vla deploy` of its own, on an emulator of its own in another initial state. The emulator says when
the task is done, and this script tells the deployment, as an operator would.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from real_robot.arms.arm import ArmError
from real_robot.arms.franka import FrankaArm, FrankaSettings
from real_robot.deploy import DeployConfig, deploy
from real_robot.emulators.franka import FrankaEmulator
from real_robot.recording.replay import ReplayConfig, replay_episode
from vla.run.files import write_json
from vla.safety.config import FilterConfig


def tell_success(emulator: FrankaEmulator, pipe: Path, ended: threading.Event) -> None:
    """Write "success" to the deployment's pipe once the emulator's task is done."""
    while not ended.is_set():
        if pipe.exists() and emulator.status()["has_succeeded"]:
            with pipe.open("w", encoding="utf-8") as stream:
                stream.write("success\n")
            return
        time.sleep(0.05)


def run_episode(task: int, init_state: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One deployment; what came of it."""
    with FrankaEmulator(task_id=task, init_state=init_state) as emulator:
        run = folder / f"task{task}_init{init_state}"
        config = DeployConfig(
            policy=arguments.policy,
            robot="franka",
            port=emulator.address,
            cameras=dict(emulator.camera_urls),
            task=emulator.status()["instruction"],
            strategy=arguments.strategy,
            execute_steps=arguments.execute_steps,
            max_seconds=arguments.max_seconds,
            max_camera_age=0.4,
            filter=FilterConfig(max_age=2.0),
            watchdog_timeout=1.0,
            reset_watchdog=True,  # an emulated arm that was stopped before is another one
            robot_settings={"response": arguments.response},
            output=str(run),
        )
        ended = threading.Event()
        teller = threading.Thread(target=tell_success, args=(emulator, run / "operator", ended))
        teller.start()
        before = emulator.status()
        try:
            summary = deploy(config)
        finally:
            after = emulator.status()
            ended.set()
            teller.join()
    replayed = replay_episode(ReplayConfig(str(run / "dataset")))
    wall = after["wall_seconds"] - before["wall_seconds"]
    latency = json.loads((run / "latency.json").read_text(encoding="utf-8"))
    return {
        "task": after["task"],
        "init_state": init_state,
        "success": after["has_succeeded"],
        "ending": summary["results"][0]["ending"],
        "control_steps": summary["control_steps"],
        "missed_steps": summary["missed_steps"],
        "decisions": summary["decisions"],
        "problems": summary["results"][0]["problems"],
        "decision_ms": summary["decision_ms"],
        "simulated_per_wall_second": (after["simulated_seconds"] - before["simulated_seconds"]) / wall,
        "replayed": replayed,
        "stages_ms": latency["stages"],
    }


def measure_tracking(dynamics: float) -> dict[str, Any]:
    """How an arm follows a sine of 6 cm in 3 s commanded 20 times a second, and how fast it notices a dead server."""
    period, steps = 0.05, 120
    errors, calls, speeds = [], [], []
    with FrankaEmulator(frames_per_second=0.0) as emulator:
        arm = FrankaArm(FrankaSettings(port=emulator.address, dynamics=dynamics))
        arm.connect()
        start = arm.observe().positions
        start[6] = -1.0
        began = time.monotonic()
        for step in range(steps):
            command = start.copy()
            phase = 2.0 * np.pi * step * period / 3.0
            command[0] += 0.06 * (1.0 - np.cos(phase))
            called = time.monotonic()
            arm.send(command)
            calls.append(time.monotonic() - called)
            time.sleep(max(0.0, began + (step + 1) * period - time.monotonic()))
            reading = arm.observe()
            errors.append(float(np.linalg.norm(reading.positions[:3] - command[:3])))
            ideal = 0.06 * 2.0 * np.pi / 3.0 * np.sin(phase + np.pi * period / 3.0)
            speeds.append(float(reading.velocities[0] - ideal))
        time.sleep(1.0)
        rest = float(np.linalg.norm(arm.observe().positions[:3] - command[:3]))
        status = emulator.status()
        emulator.kill()
        killed = time.monotonic()
        try:
            while True:
                arm.observe()
                time.sleep(period)
        except ArmError as error:
            noticed, message = time.monotonic() - killed, str(error)
        arm.disconnect()
    return {
        "dynamics": dynamics,
        "commands": steps,
        "error_mm": {"mean": 1e3 * np.mean(errors), "p95": 1e3 * np.quantile(errors, 0.95), "max": 1e3 * max(errors)},
        "error_at_rest_mm": 1e3 * rest,
        "speed_error_mm_s": {"rms": 1e3 * float(np.sqrt(np.mean(np.square(speeds)))), "peak_speed": 126.0},
        "send_ms": {"p50": 1e3 * np.median(calls), "p99": 1e3 * np.quantile(calls, 0.99), "max": 1e3 * max(calls)},
        "simulated_per_wall_second": status["simulated_seconds"] / status["wall_seconds"],
        "dead_server_noticed_after_s": noticed,
        "dead_server_message": message,
    }


def main() -> None:
    """Measure, drive, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="reflex-tiny")
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--init-states", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--response", type=float, default=0.47)
    parser.add_argument("--strategy", default="async")
    parser.add_argument("--execute-steps", type=int, default=None)
    parser.add_argument("--max-seconds", type=float, default=15.0)
    parser.add_argument("--keep", default=None, help="folder for the runs themselves")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    tracking = [measure_tracking(dynamics) for dynamics in (0.3, 0.5, 1.0)]
    episodes = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary if arguments.keep is None else arguments.keep
        for task in arguments.tasks:
            for init_state in arguments.init_states:
                episodes.append(run_episode(task, init_state, arguments, Path(folder)))
                shown = {key: value for key, value in episodes[-1].items() if key != "stages_ms"}
                print(json.dumps(shown), flush=True)
    result = {
        "policy": arguments.policy,
        "strategy": arguments.strategy,
        "response": arguments.response,
        "execute_steps": arguments.execute_steps,
        "machine": {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "successes": sum(episode["success"] for episode in episodes),
        "episodes": episodes,
        "tracking": tracking,
    }
    print(json.dumps({key: value for key, value in result.items() if key != "episodes"}, indent=1))
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
