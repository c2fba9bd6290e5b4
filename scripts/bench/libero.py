"""`python -m scripts.bench libero`: LIBERO here and in hf-libero's own environment, on the same actions."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.bench import libero_processes as processes
from scripts.bench.libero_processes import DECISIONS, SIZE, SUITE, TASK, WORKERS
from scripts.bench.timing import CHUNK, Measurement, milliseconds, per_second, time_blocks, time_in_turns
from sim.libero.environment import LiberoEnvironment
from sim.libero.installation import find_installation, import_libero
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import InstalledTask, load_tasks
from sim.pool import EnvironmentPool, EpisodeRequest

STEPS = 40
"""Control steps of a block: the first ones of an episode from initial state 0."""


def bench_libero(seconds: float) -> list[Measurement]:
    """Control steps and decisions per second, resets and builds, and how many times faster than hf-libero.

    Raises `EnvironmentRequestError` when hf-libero, robosuite or the assets are missing.
    """
    installation = find_installation()
    task = load_tasks(SUITE, installation)[TASK]
    import_libero(installation)
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (STEPS, 7))
    part = seconds / 4
    rows = [
        *_steps(task, actions, part),
        _original(task, actions, part),
        *(_ours(suite, actions, part) for suite in (SUITE, f"{SUITE}_fast_plain")),
    ]
    rows += [_ratio(rows, first, second) for first, second in ((1, 0), (2, 0), (4, 3), (5, 3))]
    rows += _starting(part)
    rows += _memory()
    pools = [_pool(workers, part) for workers in (1, 2)]
    vector, peer_memory = _original_vector()
    return [*rows, peer_memory, *pools, _ratio(pools, 1, 0), vector, _ratio([pools[1], vector], 0, 1)]


def _steps(task: InstalledTask, actions: NDArray[np.float64], seconds: float) -> list[Measurement]:
    """Control steps without pictures: hf-libero, `exact` and `fast`, block by block in turns."""
    environment, theirs = _original_block(task, actions, use_camera_obs=False, has_offscreen_renderer=False)
    suites = (SUITE, f"{SUITE}_fast")
    environments = [LiberoSuite(suite, SIZE).make(TASK) for suite in suites]
    ours = [partial(_play, own, actions, pictures=False) for own in environments]
    found = time_in_turns([theirs, *ours], seconds)
    for opened in (environment.env, *environments):
        opened.close()
    return [
        per_second(f"{who}: control steps, no pictures", STEPS, "step", durations)
        for who, durations in zip(("hf-libero", *suites), found, strict=True)
    ]


def _original_block(
    task: InstalledTask, actions: NDArray[np.float64], **options: Any
) -> tuple[Any, Callable[[], None]]:
    """hf-libero's environment, and what plays the actions in it from the same state each time."""
    from libero.libero.envs.env_wrapper import ControlEnv

    environment = ControlEnv(bddl_file_name=str(task.bddl_file), ignore_done=True, **options)
    environment.seed(0)
    environment.reset()
    start = environment.get_sim_state()

    def block() -> None:
        environment.set_init_state(start)
        for action in actions:
            environment.step(action.tolist())

    return environment, block


def _play(environment: LiberoEnvironment, actions: NDArray[np.float64], pictures: bool) -> None:
    environment.reset_to("eval", 0)
    for number, action in enumerate(actions, start=1):
        environment.advance(action)
        if pictures and number % CHUNK == 0:
            environment.render_observation()


def _original(task: InstalledTask, actions: NDArray[np.float64], seconds: float) -> Measurement:
    environment, block = _original_block(task, actions, camera_heights=SIZE, camera_widths=SIZE)
    row = _decisions("hf-libero", time_blocks(block, seconds))
    environment.env.close()
    return row


def _ours(suite: str, actions: NDArray[np.float64], seconds: float) -> Measurement:
    environment = LiberoSuite(suite, SIZE).make(TASK)
    row = _decisions(suite, time_blocks(lambda: _play(environment, actions, pictures=True), seconds))
    environment.close()
    return row


def _decisions(who: str, durations: Sequence[float]) -> Measurement:
    name = f"{who}: decisions (chunks of {CHUNK} steps, two pictures of {SIZE} px)"
    return per_second(name, STEPS / CHUNK, "decision", durations)


def _ratio(rows: Sequence[Measurement], first: int, second: int) -> Measurement:
    ours, theirs = rows[first], rows[second]
    return Measurement(f"{ours.name} / {theirs.name.split(':')[0]}", ours.value / theirs.value, "x", ours.blocks)


def _starting(seconds: float) -> list[Measurement]:
    """Building a task a second time, one more environment of it, and resetting to an initial state seen before."""
    suite = LiberoSuite(SUITE, SIZE)
    again, builds, more = suite.make(TASK), [], []
    for _ in range(3):
        again.close()
        del again
        gc.collect()  # nothing of the task is left
        started = time.perf_counter()
        again = suite.make(TASK)
        builds.append(time.perf_counter() - started)
        started = time.perf_counter()
        other = suite.make(TASK)
        more.append(time.perf_counter() - started)
        del other
    environment = again
    durations = time_blocks(lambda: environment.reset_to("eval", 0), seconds)
    environment.close()
    return [
        milliseconds(f"{SUITE}: build a task once more", 1, "build", builds),
        milliseconds(f"{SUITE}: one more environment of a task", 1, "environment", more),
        milliseconds(f"{SUITE}: reset to an initial state once more", 1, "reset", durations),
    ]


def _memory() -> list[Measurement]:
    """Resident memory of a fresh process that only steps and draws: with one environment, and what more of them add."""
    first, again, other = _in_another_process("ours")["resident"]
    return [
        Measurement(f"{SUITE}: memory of a process with one environment, drawn and stepped", first, "MiB", 1),
        Measurement(f"{SUITE}: memory that one more environment of the same task adds", again - first, "MiB", 1),
        Measurement(f"{SUITE}: memory that one of another task adds", other - again, "MiB", 1),
    ]


def _original_vector() -> list[Measurement]:
    """hf-libero's vector environment, a process for each environment."""
    found = _in_another_process("original")
    name = f"hf-libero: vector environment of {WORKERS}, decisions of {CHUNK} steps and two pictures, a reset every 2"
    return [
        per_second(name, WORKERS * DECISIONS, "decision", found["durations"]),
        Measurement("hf-libero: memory that each environment adds", statistics.fmean(found["private"]), "MiB", WORKERS),
    ]


def _in_another_process(part: str) -> dict[str, Any]:
    command = [sys.executable, "-m", processes.__name__, part]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def _pool(workers: int, seconds: float) -> Measurement:
    slots = 4
    generator = np.random.default_rng(0)
    with EnvironmentPool(SUITE, slots, workers, SIZE) as pool:
        requests = [EpisodeRequest(TASK, "eval", slot) for slot in range(slots)]

        def block() -> None:
            pool.reset(range(slots), requests)
            for _ in range(2):
                pool.step_chunk(range(slots), generator.uniform(-0.3, 0.3, (slots, CHUNK, 7)).astype(np.float32))

        durations = time_blocks(block, seconds)
    name = f"pool, {workers} workers: decisions of {CHUNK} steps and two pictures, a reset every 2"
    return per_second(name, 2 * slots, "decision", durations)
