"""Measures the emulated SO-101 and the arm that drives it: timing, pictures, fidelity, and what faults lead to.

python -m scripts.check_so101_emulator docs/results/so101_emulator.json
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError
from real_robot.arms.so101 import SO101Arm, SO101Settings
from real_robot.cameras.camera import Camera, CameraConfig
from real_robot.emulators.so101 import SO101Emulator
from sim.so101.embodiment import JOINTS, to_radians
from sim.so101.environment import SO101Environment
from sim.so101.suite import SO101Suite
from vla.run.files import write_json

PERIOD = 1.0 / 30.0
FAULTS: dict[str, dict[str, Any]] = {
    "one answer lost": {"drop": 1.0, "packets": 1},
    "one answer damaged": {"corrupt": 1.0, "packets": 1},
    "one answer with another id": {"wrong_id": 1.0, "packets": 1},
    "a tenth of all answers lost": {"drop": 0.1},
    "one wrong position": {"spike": 1000, "packets": 1, "joints": ("elbow_flex",)},
    "a servo that is silent": {"silent": True, "joints": ("elbow_flex",)},
    "a servo that is overloaded": {"error_bits": 32, "joints": ("gripper",)},
    "10 ms more latency": {"latency": 0.01},
    "50 ms more latency": {"latency": 0.05},
    "a jammed servo": {"jammed": True, "joints": ("elbow_flex",)},
}


def arm_of(emulator: SO101Emulator) -> SO101Arm:
    """The arm, as it is configured by default."""
    return SO101Arm(SO101Settings(emulator.port, str(emulator.calibration_file)))


def percentiles(values: list[float]) -> dict[str, float]:
    """In milliseconds, of seconds."""
    found = np.percentile(np.array(values) * 1000.0, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "worst"), found.round(2).tolist(), strict=True))


def keep_time(work: Callable[[int], None], cycles: int) -> int:
    """Do something 30 times a second; returns how many cycles came too late."""
    due, missed = time.monotonic(), 0
    for cycle in range(cycles):
        work(cycle)
        due += PERIOD
        rest = due - time.monotonic()
        missed += rest < 0
        time.sleep(max(0.0, rest))
    return missed


def loop(image_size: int, cycles: int = 600) -> dict[str, Any]:
    """Read, look and command 30 times a second, with both cameras streaming."""
    spent: list[float] = []
    ages: list[float] = []
    with SO101Emulator(task_id=1, image_size=image_size) as emulator, arm_of(emulator) as arm:
        cameras = [
            Camera(CameraConfig(name, url, image_size, image_size)) for name, url in emulator.camera_urls.items()
        ]
        for camera in cameras:
            camera.open()
        goal, before = arm.observe().positions, emulator.status()

        def cycle(index: int) -> None:
            began = time.monotonic()
            arm.observe()
            arm.send(goal + np.array([25.0, 0, 0, 0, 25.0, 0]) * np.sin(index / 15))
            spent.append(time.monotonic() - began)
            ages.extend(time.monotonic() - frame.time for camera in cameras if (frame := camera.latest()) is not None)

        missed = keep_time(cycle, cycles)
        after = emulator.status()
        for camera in cameras:
            camera.close()
        bus = {key: after["bus"][key] - before["bus"][key] for key in ("late_ticks", "left_out_ticks")}
        return {
            "image_size": image_size,
            "cycles": cycles,
            "missed": missed,
            "read_and_command_ms": percentiles(spent),
            "age_of_pictures_ms": percentiles(ages),
            "retries": arm.statistics.retries,
            "failures": arm.statistics.failures,
            "physics": {
                "simulated_seconds_per_second": (after["simulated_seconds"] - before["simulated_seconds"])
                / (after["time"] - before["time"]),
                "steps": int((after["time"] - before["time"]) * 480),
                **bus,
            },
        }


def pictures(image_size: int) -> dict[str, Any]:
    """How far pictures through JPEG, HTTP and OpenCV are from the renderer's, in 255ths."""
    with SO101Emulator(task_id=2, image_size=image_size) as emulator:
        environment = SO101Environment(2, image_size)
        environment.reset_to("eval", 0)
        time.sleep(1.0)
        environment.data.qpos[:6] = to_radians(np.array(emulator.status()["positions"]))
        mujoco.mj_kinematics(environment.model, environment.data)
        mujoco.mj_camlight(environment.model, environment.data)
        drawn: Mapping[str, NDArray[np.uint8]] = environment.render_observation()["images"]
        found: dict[str, Any] = {"image_size": image_size}
        for name, url in emulator.camera_urls.items():
            with Camera(CameraConfig(name, url, image_size, image_size)) as camera:
                error = np.abs(camera.fresh().image.astype(int) - drawn[name])
            found[name] = {
                "mean": float(error.mean()),
                "p99": float(np.percentile(error, 99)),
                "most": int(error.max()),
            }
        return found


def replay(task: int, states: int) -> dict[str, Any]:
    """The expert's commands of an episode in the suite, sent to the emulated arm in real time without looking."""
    suite, successes, apart = SO101Suite(), 0, []
    with SO101Emulator(task_id=task, frames_per_second=0) as emulator:
        for state in range(states):
            actions, positions = expert_episode(suite, task, state)
            emulator.reset(init_state=state)
            with arm_of(emulator) as arm:
                apart += play(arm, actions, positions)
            successes += emulator.status()["has_succeeded"]
    p95 = np.percentile(apart, 95, axis=0).round(2).tolist()
    return {
        "task": task,
        "episodes": states,
        "successes": successes,
        "p95_from_simulator": dict(zip(JOINTS, p95, strict=True)),
    }


def play(arm: SO101Arm, actions: list[Any], positions: list[Any]) -> list[NDArray[np.float64]]:
    """Send commands in real time; returns how far the arm was from where the simulator's was, command by command."""
    apart: list[NDArray[np.float64]] = []

    def cycle(index: int) -> None:
        if 0 < index < len(actions):
            apart.append(np.abs(arm.observe().positions - positions[index - 1]))
        arm.send(actions[min(index, len(actions) - 1)].astype(np.float64))

    keep_time(cycle, len(actions) + 10)
    return apart


def expert_episode(suite: SO101Suite, task: int, state: int) -> tuple[list[Any], list[Any]]:
    """Commands, and positions after each."""
    environment, expert = SO101Environment(task), suite.make_expert(task, state)
    environment.reset_to("eval", state)
    expert.reset(environment)
    actions, positions = [], []
    for _ in range(suite.horizon(task)):
        actions.append(expert.act(environment))
        outcome = environment.advance(actions[-1])
        positions.append(environment.robot_state())
        if outcome.success:
            break
    return actions, positions


def fault(emulator: SO101Emulator, values: Mapping[str, Any], brown_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What becomes of a fault that strikes while the arm is read and moved, and how fast the arm got."""
    emulator.set_faults()
    emulator.reset(init_state=0)
    with arm_of(emulator) as arm:
        start, error, seconds = arm.observe().positions, "", 0.0
        for index in range(60):
            if index == 20:
                struck = time.monotonic()
                if brown_out:
                    emulator.brown_out(brown_out)
                emulator.set_faults(**values)
            try:
                arm.observe()
                arm.send(start + np.array([20.0 * np.sin(index / 10), 0, 0, 0, 0, 0]))
            except ArmError as raised:
                error, seconds = str(raised), time.monotonic() - struck
                break
            time.sleep(PERIOD)
        statistics = arm.statistics
        emulator.set_faults()
        status = emulator.status()
    return {
        "error": error.replace(emulator.port, "PORT"),
        "seconds_until_raised": round(seconds, 3) if error else None,
        "retries": statistics.retries,
        "implausible": statistics.implausible,
        "peak_velocity": dict(zip(JOINTS, np.round(status["peak_velocity"], 1).tolist(), strict=True)),
    }


def main() -> None:
    """Measure everything and write it."""
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0]}
    result["loop"] = [loop(size) for size in (64, 224)]
    result["pictures"] = [pictures(size) for size in (64, 224)]
    result["replayed_expert"] = [replay(task, 10) for task in range(3)]
    with SO101Emulator(task_id=1, frames_per_second=0) as emulator:
        result["faults"] = {name: fault(emulator, values) for name, values in FAULTS.items()}
        result["faults"]["a brown-out"] = fault(emulator, {}, ("shoulder_lift", "elbow_flex"))
    result["load_after"] = os.getloadavg()[0]
    write_json(Path(sys.argv[1]), result)


if __name__ == "__main__":
    main()
