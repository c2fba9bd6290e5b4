"""A collection of LIBERO episodes whose workers are killed with SIGKILL every few seconds, checked against a quiet one.

    python -m scripts.libero_killed_workers OUTPUT_FOLDER [EPISODES_PER_TASK]

Collects `libero_spatial_fast_plain` at 64 px twice, ten tasks, 20 episodes of each unless told otherwise: once with one
of the workers killed every 8 to 14 seconds, once without. All episodes must arrive, and equal the quiet ones; only the
mark that a worker died may differ. Prints what happened and exits with 1 when an episode is missing or differs. Needs
`make libero` and LIBERO_ASSETS; half an hour on 2 cores.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vla.data.lerobot_reader import LeRobotDataset

SUITE = "libero_spatial_fast_plain"
TASKS = 10


def collect(output: Path, episodes_per_task: int, kill: bool) -> tuple[int, float, list[str]]:
    """Run `vla collect`; returns how many workers were killed, the seconds it took, and what it logged."""
    command = [sys.executable, "-m", "vla", "collect", f"suite={SUITE}", "policy=expert", "image_size=64"]
    command += [f"episodes_per_task={episodes_per_task}", f"output={output}", "num_workers=2"]
    log = output.with_suffix(".log")
    output.parent.mkdir(parents=True, exist_ok=True)
    started, killed, generator = time.monotonic(), 0, random.Random(0)
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=stream)
        due = started + 15.0  # time to start
        while process.poll() is None:
            time.sleep(0.2)
            if kill and time.monotonic() >= due:
                killed += kill_one(process.pid, generator)
                due = time.monotonic() + generator.uniform(8.0, 14.0)
    if process.returncode != 0:
        raise SystemExit(f"vla collect ended with status {process.returncode}; see {log}")
    return killed, time.monotonic() - started, log.read_text(encoding="utf-8").splitlines()


def kill_one(parent: int, generator: random.Random) -> int:
    """SIGKILL one worker process; returns how many were killed (0 when none is up)."""
    listed = subprocess.run(
        ["pgrep", "-P", str(parent), "-f", "spawn_main"], capture_output=True, text=True, check=False
    )
    if not listed.stdout.split():
        return 0
    try:
        os.kill(int(generator.choice(listed.stdout.split())), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def differences(disturbed: Path, quiet: Path) -> list[str]:
    """What two datasets' episodes differ in, by task and attempt."""
    first, second = LeRobotDataset(disturbed), LeRobotDataset(quiet)
    if first.num_episodes != second.num_episodes:
        return [f"{first.num_episodes} episodes, not {second.num_episodes}"]
    found = []
    for index in range(first.num_episodes):
        one, other = first.episode(index), second.episode(index)
        for name in ("actions", "states", "progress"):
            if not np.array_equal(getattr(one, name), getattr(other, name)):
                found.append(f"episode {index} (task {one.task_id}): {name}")
        for camera, frames in one.images.items():
            if not np.array_equal(frames, other.images[camera]):
                found.append(f"episode {index} (task {one.task_id}): pictures of {camera}")
        if not one.success:
            found.append(f"episode {index} (task {one.task_id}) did not succeed")
    return found


def main() -> int:
    """See the module."""
    output = Path(sys.argv[1])
    episodes = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    killed, seconds, lines = collect(output / "disturbed", episodes, kill=True)
    _, quiet_seconds, _ = collect(output / "quiet", episodes, kill=False)
    found = differences(output / "disturbed", output / "quiet")
    report = {
        "episodes": TASKS * episodes,
        "workers_killed": killed,
        "seconds": round(seconds, 1),
        "seconds_undisturbed": round(quiet_seconds, 1),
        "lines_about_deaths": sum("died" in line for line in lines),
        "differences": found,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    for line in [line for line in lines if "died" in line][:3]:
        sys.stdout.write(line + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
