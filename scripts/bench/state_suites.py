"""`python -m scripts.bench.state_suites [FILE]`: control steps a second of the state suites, with and without pictures.

Both take turns, in processor time of one core; software GL draws in this process (LP_NUM_THREADS=0).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from scripts.bench.timing import describe_machine, per_second, time_in_turns
from sim.suites import get_suite
from vla.cli import prepare_environment

STEPS = 40
SIZE = 64
STUDIED = {"tabletop_state": 0, "metaworld_state": 19}
"""A task of each suite: pick_red and drawer-open."""


def episodes(name: str, task_id: int, image_size: int | None) -> Callable[[], None]:
    """A block that plays `STEPS` control steps from an initial state and observes after each."""
    environment = get_suite(name, image_size).make(task_id)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (STEPS, environment.embodiment.action.size))

    def play() -> None:
        environment.reset_to("train", 0)
        for action in actions:
            environment.advance(action)
            environment.render_observation()

    return play


def main() -> None:
    """Measure, print, and write where asked."""
    prepare_environment()
    rows = []
    for name, task_id in STUDIED.items():
        sizes = (None, SIZE)
        durations = time_in_turns([episodes(name, task_id, size) for size in sizes], seconds=6, clock=time.process_time)
        rows += [
            per_second(f"{name}, {'no pictures' if size is None else f'{size} px'}", STEPS, "step", spent)
            for size, spent in zip(sizes, durations, strict=True)
        ]
    for row in rows:
        print(f"{row.value:10.1f} {row.unit:10} {row.name}")
    if len(sys.argv) > 1:
        results = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
        Path(sys.argv[1]).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
