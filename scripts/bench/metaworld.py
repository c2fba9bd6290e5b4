"""`python -m scripts.bench.metaworld [--json FILE]`: MetaWorld here and in its own environment, in turns on one core.

The same actions from the same initial state, of four tasks: control steps of 50 ms, pictures of 64 px beside
`mujoco.Renderer` with MetaWorld's camera corner2, resets, builds, and memory. All times are processor time, so that
other work on the machine does not count; software GL draws in this process (LP_NUM_THREADS=0, which `sim` sets).
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from scripts.bench.timing import Measurement, describe_machine, milliseconds, per_second
from sim.metaworld.installation import check_installation
from sim.metaworld.suite import MetaWorldSuite
from sim.metaworld.tasks import ACTION_REPEAT, SEEDS, TASKS

SIZE = 64
STEPS = 40
PICTURES = 20
PEER_PICTURES = 2
MORE_ENVIRONMENTS = 16
STUDIED = ("drawer-open", "plate-slide", "pick-place", "sweep-into")
"""Two that MetaWorld evaluates quickly, and two that it takes longest for."""


def speeds(name: str, seconds: float) -> list[Measurement]:
    """Rates of one task, each beside the package's."""
    suite, task = MetaWorldSuite("metaworld", SIZE), [task.name for task in TASKS].index(name)
    environment, theirs = suite.make(task), _original(name)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (STEPS, 4)).astype(np.float32)
    renderer = mujoco.Renderer(theirs.model, SIZE, SIZE, max_geom=1000)

    def step() -> None:
        environment.reset_to("train", 0)
        for action in actions:
            environment.advance(action)

    def step_theirs() -> None:
        theirs.reset()
        for action in actions:
            for _ in range(ACTION_REPEAT):
                theirs.step(action)

    def draw() -> None:
        for _ in range(PICTURES):
            environment.render_observation()

    def draw_theirs() -> None:
        for _ in range(PEER_PICTURES):
            renderer.update_scene(theirs.data, camera="corner2")
            renderer.render()

    work: dict[str, tuple[Callable[[], None], int, str]] = {
        "control steps with their reset, none drawn": (step, STEPS, "step"),
        "the same in MetaWorld's environment": (step_theirs, STEPS, "step"),
        f"pictures of {SIZE} px": (draw, PICTURES, "picture"),
        f"pictures of {SIZE} px of camera corner2, mujoco.Renderer": (draw_theirs, PEER_PICTURES, "picture"),
    }
    durations = _processor_times([block for block, _, _ in work.values()], seconds)
    rows = [
        per_second(f"{name}: {what}", count, unit, spent)
        for (what, (_, count, unit)), spent in zip(work.items(), durations, strict=True)
    ]
    (resets,) = _processor_times([lambda: environment.reset_to("train", 1)], seconds / 4)
    renderer.close()
    return [*rows, milliseconds(f"{name}: a reset", 1, "reset", resets)]


def starting(name: str) -> list[Measurement]:
    """Processor time and memory of a task's first environment, its first picture, and more environments."""
    suite, task = MetaWorldSuite("metaworld", SIZE), [task.name for task in TASKS].index(name)
    kept: list[Any] = []
    rows = []

    def measure(what: str, work: Callable[[], Any], count: int = 1) -> None:
        memory, start = _resident_mib(), time.process_time()
        kept.append(work())
        rows.append(Measurement(f"{name}: {what}", 1000 * (time.process_time() - start) / count, "ms", 1))
        rows.append(Measurement(f"{name}: {what}", (_resident_mib() - memory) / count, "MiB", 1))

    def drawn(split_index: int) -> Any:
        environment = suite.make(task)
        environment.reset_to("train", split_index)
        environment.render_observation()
        return environment

    measure("the first environment", lambda: suite.make(task))
    kept[0].reset_to("train", 0)
    measure("its first picture", kept[0].render_observation)
    measure("one more environment, drawn", lambda: [drawn(n) for n in range(MORE_ENVIRONMENTS)], MORE_ENVIRONMENTS)
    return rows


def _processor_times(blocks: Sequence[Callable[[], Any]], seconds: float) -> list[list[float]]:
    """As `scripts.bench.timing.time_in_turns`, in processor time, until the first block has taken `seconds` of it."""
    durations: list[list[float]] = [[] for _ in blocks]
    for block in blocks:
        block()
    while sum(durations[0]) < seconds or len(durations[0]) < 5:
        for block, spent in zip(blocks, durations, strict=True):
            start = time.process_time()
            block()
            spent.append(time.process_time() - start)
    return durations


def _original(name: str) -> Any:
    metaworld = importlib.import_module("metaworld")
    benchmark = metaworld.MT1(f"{name}-v3", seed=SEEDS["train"])
    environment = benchmark.train_classes[f"{name}-v3"]()
    environment.set_task(benchmark.train_tasks[0])
    environment.reset()
    return environment


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.metaworld", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--seconds", type=float, default=0.3, help="processor time of each task's steps")
    options = parser.parse_args()
    check_installation()
    importlib.import_module("metaworld.policies")  # not a part of the first environment's time
    rows = [*starting(STUDIED[0]), *starting(STUDIED[2])]
    rows += [row for name in STUDIED for row in speeds(name, options.seconds)]
    for row in rows:
        print(f"{row.value:10.2f} {row.unit:12} {row.name}")
    if options.json:
        results = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
