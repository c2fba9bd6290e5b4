"""`python -m scripts.bench.action_filter [--json FILE]`: what the action filter takes, and whether it breaks.

Times are of single calls, in wall time and in processor time of the thread: on a busy machine the second is the
filter's own. The adversary is `scripts.bench.filter_adversary`; its second part has the SO-101's kinematics, a
workspace and a keep-out box.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.filter_adversary import Findings, play
from scripts.bench.timing import describe_machine
from sim.so101.embodiment import SO101
from sim.so101.hand import SO101Hand
from vla.safety.checks import ActionRequest
from vla.safety.config import FilterConfig
from vla.safety.filter import ActionFilter
from vla.safety.limits import Box, MotionLimits
from vla.safety.log import FilterLog
from vla.safety.replay import replay
from vla.safety.setup import FilterSetup
from vla.safety.stopping import Array
from vla.safety.workspace import Volumes, make_stop

SEVEN = MotionLimits(
    names=tuple(f"joint_{index}" for index in range(7)),
    units=("rad",) * 7,
    low=(-2.8,) * 7,
    high=(2.8,) * 7,
    velocity=(2.0,) * 7,
    acceleration=(10.0,) * 7,
    jerk=(200.0,) * 7,
)
"""An arm of the size of a Panda."""

SMALL = MotionLimits(
    names=SO101.action.names,
    units=SO101.action.units,
    low=SO101.action.low,
    high=SO101.action.high,
    velocity=(180.0,) * 6,
    acceleration=(1500.0,) * 6,
    jerk=(30000.0,) * 6,
    workspace=Box((0.05, -0.25, 0.02), (0.40, 0.25, 0.35)),
    keep_out=(Box((0.20, -0.05, 0.0), (0.26, 0.05, 0.10)),),
)
"""The SO-101 with a box around it and a post in front of it."""
SMALL_START = (0.0, -43.0, 22.0, 95.0, 94.0, 60.0)
"""A pose inside: the hand 18 cm in front of the first joint and 12 cm high."""


def call_times(action_filter: ActionFilter, ask: Callable[[int], Array], calls: int) -> dict[str, Any]:
    """Microseconds (median, p99, worst) of each call, wall and processor, and what was decided."""
    wall, processor, decisions = [], [], Counter[str]()
    period = action_filter.setup.period
    for index in range(calls):
        measured, now = action_filter.state.position, index * period
        request = ActionRequest(ask(index), now, now - 0.1, now + 1.0, index // 8, measured)
        start, used = time.perf_counter_ns(), time.thread_time_ns()
        filtered = action_filter.filter(request)
        processor.append(time.thread_time_ns() - used)
        wall.append(time.perf_counter_ns() - start)
        decisions[filtered.decision.value] += 1

    def summary(spent: list[int]) -> dict[str, float]:
        p50, p99, worst = np.percentile(spent, [50, 99, 100]) / 1000.0
        return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1), "worst_us": round(float(worst), 1)}

    return {
        "calls": calls,
        "wall": summary(wall),
        "processor": summary(processor),
        "decisions": dict(decisions),
    }


def seven_joint_times(calls: int) -> dict[str, Any]:
    """A motion within the limits, random positions, and oscillation between both ends; 30 Hz and 1 kHz."""
    generator = np.random.default_rng(0)
    config = FilterConfig(max_seam_jump=[0.3] * 7, max_tracking_error=[0.5] * 7)
    results = {}
    for rate in (30, 1000):
        period = 1.0 / rate
        asks: dict[str, Callable[[int], Array]] = {
            "within the limits": lambda index, period=period: np.full(7, 0.5 * np.sin(index * period)),  # type: ignore[misc]
            "random positions": lambda index: generator.uniform(-3.0, 3.0, 7),
            "oscillation at the limits": lambda index, rate=rate: np.full(7, 9.0 if index // rate % 2 else -9.0),  # type: ignore[misc]
        }
        for name, ask in asks.items():
            action_filter = ActionFilter(SEVEN, period, config)
            action_filter.start(np.zeros(7))
            results[f"{name}, {rate} Hz"] = call_times(action_filter, ask, calls)
    return results


def random_goals(seed: int) -> Callable[[int], Array]:
    """Poses anywhere in the SO-101's range, each asked for during half a second."""
    generator = np.random.default_rng(seed)
    goal = np.array(SMALL_START)

    def ask(index: int) -> Array:
        nonlocal goal
        if index % 15 == 0:
            goal = generator.uniform(SMALL.low, SMALL.high)
        return goal

    return ask


def workspace_findings(sequences: int, steps: int) -> dict[str, Any]:
    """Random goals: the hand's least distance to what is forbidden, and whether logs replay bit by bit."""
    hand, volumes, decisions = SO101Hand(), Volumes.of(SMALL), Counter[str]()
    assert volumes is not None
    least, differences, asked = np.inf, 0, 0
    for seed in range(sequences):
        log = FilterLog()
        action_filter, ask = ActionFilter(SMALL, 1 / 30, FilterConfig(), hand, log), random_goals(seed)
        action_filter.start(SMALL_START)
        sent = []
        for index in range(steps):
            filtered = action_filter.filter(ActionRequest(ask(index), index / 30, index / 30))
            sent.append(filtered.action)
            decisions[filtered.decision.value] += 1
        least = min(least, make_stop(np.array(sent), hand, volumes).clearance)
        again = replay(list(log.rows()), hand)
        differences, asked = differences + len(again.differences), asked + again.actions
    return {
        "sequences": sequences,
        "steps": asked,
        "decisions": dict(decisions),
        "least_distance_m": float(least),
        "replay_differences": differences,
    }


def bounds() -> dict[str, float]:
    """Seconds to rest, at most, of both robots at 30 Hz."""
    setups = {"seven joints": FilterSetup(SEVEN, 1 / 30, FilterConfig())}
    setups["SO-101"] = FilterSetup(SMALL, 1 / 30, FilterConfig(), SO101Hand())
    return {name: round(setup.longest_stop * setup.period, 4) for name, setup in setups.items()}


def main() -> None:
    """Measure, attack, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.action_filter", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--calls", type=int, default=20000, help="timed calls of each kind")
    parser.add_argument("--sequences", type=int, default=100_000, help="sequences of the adversary")
    parser.add_argument("--steps", type=int, default=20, help="requests of each sequence, before its final hold")
    parser.add_argument("--workspace-sequences", type=int, default=300, help="sequences with workspace, 100 steps each")
    options = parser.parse_args()
    walled = ActionFilter(SMALL, 1 / 30, FilterConfig(), SO101Hand())
    walled.start(SMALL_START)
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "time_to_rest_s": bounds(),
        "seven_joints": seven_joint_times(options.calls),
        "so101_workspace": call_times(walled, random_goals(0), options.calls),
        "workspace_adversary": workspace_findings(options.workspace_sequences, 100),
    }
    findings, started = Findings(), time.process_time()
    for seed in range(options.sequences):
        play(findings, seed, options.steps)
    results["adversary"] = {**asdict(findings), "processor_seconds": round(time.process_time() - started, 1)}
    text = json.dumps(results, indent=1) + "\n"
    if options.json:
        options.json.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
