"""Parts of the LIBERO bench that need a process of their own: `python -m scripts.bench.libero_processes ours|original`.

`ours` prints the memory of this process with one environment, a second of the same task and one of another. `original`
prints the speed of hf-libero's own vector environment and the memory of each of its processes. Both as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.timing import CHUNK, time_blocks

SUITE, TASK, SIZE = "libero_spatial", 0, 256
WORKERS, DECISIONS = 2, 2
"""Processes, and decisions of each between resets."""
SECONDS = 10.0


def ours() -> dict[str, Any]:
    """Resident memory (MiB) after each of three environments was drawn and stepped."""
    from sim.libero.suite import LiberoSuite

    suite, kept, resident = LiberoSuite(SUITE, SIZE), [], []
    for task in (TASK, TASK, TASK + 1):
        environment = suite.make(task)
        environment.reset_to("eval", 0)
        environment.advance(np.zeros(7))
        environment.render_observation()
        kept.append(environment)
        gc.collect()
        resident.append(memory("self", "Rss"))
    return {"resident": resident}


def original() -> dict[str, Any]:
    """hf-libero's `SubprocVectorEnv`: seconds of blocks of `DECISIONS` decisions in each process, private memory."""
    from sim.libero.installation import find_installation, import_libero
    from sim.libero.tasks import load_tasks

    installation = find_installation()
    task = load_tasks(SUITE, installation)[TASK]
    import_libero(installation)
    from libero.libero.envs import OffScreenRenderEnv
    from libero.libero.envs.venv import SubprocVectorEnv

    def make() -> Any:
        environment = OffScreenRenderEnv(bddl_file_name=str(task.bddl_file), camera_heights=SIZE, camera_widths=SIZE)
        environment.seed(0)
        return environment

    environments = SubprocVectorEnv([make] * WORKERS)
    environments.reset()
    start = np.stack(environments.get_sim_state())
    generator = np.random.default_rng(0)

    def block() -> None:
        environments.set_init_state(start)
        for _ in range(DECISIONS * CHUNK):
            environments.step(generator.uniform(-0.3, 0.3, (WORKERS, 7)))

    durations = time_blocks(block, SECONDS)
    private = [memory(str(worker.process.pid), "Private") for worker in environments.workers]
    environments.close()
    return {"durations": durations, "private": private}


def memory(process: str, kind: str) -> float:
    """MiB of a process, by the kernel's account: all resident ("Rss"), or what no other process shares ("Private")."""
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(row.split()[1]) for row in rows if row.startswith(kind)) / 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"ours": ours, "original": original}[sys.argv[1]]()) + "\n")
