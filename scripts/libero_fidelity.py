"""Three checks of LIBERO that take too long for a test: that every task builds, that "fast" ends as "exact" does, and
that an archive gives the models that were packed.

    python -m scripts.libero_fidelity builds OUTPUT.json
    python -m scripts.libero_fidelity fast OUTPUT.json [EPISODES_PER_TASK]
    python -m scripts.libero_fidelity archives OUTPUT.json FOLDER

`builds` makes each of the 130 tasks twice (the second build is timed), starts it from an official initial state and
from a sampled one, holds still for ten steps and draws both cameras. `fast` records a scripted expert's episodes in
`exact` stepping, training states only, 17 of each of 30 tasks unless told otherwise, and plays the same actions in
`fast`: the share of episodes with the same outcome is what the documentation calls agreement. `archives` packs every
suite into FOLDER, opens each task and compares its model, byte for byte, with the built one. Needs `make libero` and
LIBERO_ASSETS; a quarter of an hour each on one core, `archives` half an hour. Exits with 1 when a task fails, fewer
than 99 % agree, an archive is larger than 48 MiB or gives another model.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sim.contract import EnvironmentRequestError, StepOutcome
from sim.libero.archive import ArchiveSource, archive_path, pack
from sim.libero.model_parts import saved
from sim.libero.source import InstalledSource
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import HORIZONS
from vla.evaluation.statistics import wilson_interval

EXPERT_SUITES = ("libero_spatial", "libero_object", "libero_goal")
WANTED_AGREEMENT = 0.99
LARGEST_ARCHIVE_MIB = 48


def builds() -> dict[str, Any]:
    """Every task of every suite."""
    tasks = []
    for name in HORIZONS:
        suite = LiberoSuite(name)
        for task_id in suite.task_ids:
            record = {"suite": name, "task": task_id, "name": suite.task_name(task_id)}
            try:
                record |= build(suite, task_id)
            except EnvironmentRequestError as error:
                record["error"] = str(error)
            print(json.dumps(record), flush=True)
            tasks.append(record)
    failed = [task for task in tasks if "error" in task]
    return {"tasks": len(tasks), "failed": len(failed), "ok": not failed, "each": tasks}


def build(suite: LiberoSuite, task_id: int) -> dict[str, Any]:
    """One task: seconds of its second build, and what it shows."""
    suite.make(task_id).close()
    started = time.perf_counter()
    environment = suite.make(task_id)
    seconds = time.perf_counter() - started
    still = np.array([0.0] * 6 + [-1.0])
    already_solved = False
    deviations = []
    for split in ("train", "eval"):
        environment.reset_to(split, 0)
        for _ in range(10):
            already_solved |= environment.advance(still).success
        observation = environment.render_observation()
        deviations += [float(picture.std()) for picture in observation["images"].values()]
    environment.close()
    if already_solved:
        raise EnvironmentRequestError("the goal holds before anything was done")
    if min(deviations) < 5.0:
        raise EnvironmentRequestError(f"a picture is nearly of one colour (deviations {deviations})")
    return {"second_build_s": round(seconds, 3)}


def fast(episodes_per_task: int) -> dict[str, Any]:
    """Outcomes of the same actions in both steppings."""
    episodes = []
    for name in EXPERT_SUITES:
        exact_suite, fast_suite = LiberoSuite(name), LiberoSuite(f"{name}_fast")
        for task_id in exact_suite.task_ids:
            exact, quick = exact_suite.make(task_id), fast_suite.make(task_id)
            for index in range(episodes_per_task):
                expert = exact_suite.make_expert(task_id, seed=index)
                exact.reset_to("train", index)
                quick.reset_to("train", index)
                expert.reset(exact)
                outcomes: list[tuple[StepOutcome, StepOutcome]] = []
                drift = 0.0
                while not outcomes or not outcomes[-1][0].done:
                    action = np.asarray(expert.act(exact))
                    outcomes.append((exact.advance(action), quick.advance(action)))
                    drift = max(drift, float(np.abs(exact.robot_state()[:3] - quick.robot_state()[:3]).max()))
                exact_success, fast_success = outcomes[-1][0].success, any(outcome.success for _, outcome in outcomes)
                if exact_success and not fast_success:  # the same goal, a few steps later, is the same outcome
                    fast_success = any(quick.advance(action).success for _ in range(10))
                record = {"suite": name, "task": task_id, "state": index, "steps": len(outcomes)}
                record |= {"exact": exact_success, "fast": fast_success, "drift_mm": round(1000 * drift, 3)}
                print(json.dumps(record), flush=True)
                episodes.append(record)
            exact.close()
            quick.close()
    agreeing = sum(episode["exact"] == episode["fast"] for episode in episodes)
    low, high = wilson_interval(agreeing, len(episodes))
    return {
        "episodes": len(episodes),
        "agreeing": agreeing,
        "agreement": agreeing / len(episodes),
        "wilson_low": low,
        "wilson_high": high,
        "exact_successes": sum(episode["exact"] for episode in episodes),
        "fast_successes": sum(episode["fast"] for episode in episodes),
        "median_drift_mm": float(np.median([episode["drift_mm"] for episode in episodes])),
        "ok": agreeing >= WANTED_AGREEMENT * len(episodes),
        "each": episodes,
    }


def archives(folder: Path) -> dict[str, Any]:
    """Size, processor seconds to pack, and seconds to open a task, of every suite's archive."""
    suites, ok = [], True
    for name in HORIZONS:
        path = archive_path(folder, name)
        started = time.process_time()
        pack(name, path)
        packing = time.process_time() - started
        built, packed = InstalledSource(name), ArchiveSource(path, name)
        equal, seconds = 0, []
        for task in packed.tasks:
            started = time.perf_counter()
            simulation = packed.open(task.index, "exact")
            seconds.append(round(time.perf_counter() - started, 3))
            original = built.open(task.index, "exact").scene
            model_is_equal = saved(simulation.scene.model) == saved(original.model)
            equal += model_is_equal and simulation.scene.definition == original.definition
        with zipfile.ZipFile(path) as file:
            folders: dict[str, int] = {}
            for entry in file.infolist():
                part = entry.filename.split("/")[0]
                folders[part] = folders.get(part, 0) + entry.compress_size
        record = {"suite": name, "tasks": len(packed.tasks), "equal": equal, "bytes": path.stat().st_size}
        record |= {"pack_cpu_s": round(packing, 1), "open_s": seconds, "bytes_of": folders}
        print(json.dumps(record), flush=True)
        suites.append(record)
        ok &= equal == len(packed.tasks) and path.stat().st_size <= LARGEST_ARCHIVE_MIB << 20
    return {"cores": len(os.sched_getaffinity(0)), "ok": ok, "each": suites}


def main() -> int:
    """See the module."""
    if len(sys.argv) < 3 or sys.argv[1] not in ("builds", "fast", "archives"):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if sys.argv[1] == "archives":
        result = archives(Path(sys.argv[3]))
    else:
        result = builds() if sys.argv[1] == "builds" else fast(int(sys.argv[3]) if len(sys.argv) > 3 else 17)
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print({name: value for name, value in result.items() if name != "each"})
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
