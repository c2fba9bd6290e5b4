"""Updates per second of IQL here, of CORL's and of d3rlpy's, by turns in one process on one core.

    pip install d3rlpy
    python -m scripts.offline_speed data=hopper/steps_150000 corl=CORL/algorithms/offline/iql.py \\
        output=docs/results/offline_speed.json

Turns are short and alternate, so that whatever else the machine does meets all of them. Two rates are given: by the
clock, and by the processor time of this process, which others on the machine disturb less. The best turn counts.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from scripts.offline_peers import Corl, d3rlpy_updates, load_corl
from vla.offline.sources import read_transitions
from vla.offline.training import OfflineSettings, OfflineTrainer
from vla.run.files import write_json

PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
TURNS, UPDATES = 8, 200


def rates(learners: dict[str, Callable[[int], Any]]) -> dict[str, dict[str, list[float]]]:
    """Updates per second of every turn of every learner."""
    found: dict[str, dict[str, list[float]]] = {name: {"by_clock": [], "by_processor": []} for name in learners}
    for run in learners.values():
        run(5)  # compiles, and fills caches
    for _ in range(TURNS):
        for name, run in learners.items():
            clock, processor = time.perf_counter(), time.process_time()
            run(UPDATES)
            found[name]["by_clock"].append(round(UPDATES / (time.perf_counter() - clock), 1))
            found[name]["by_processor"].append(round(UPDATES / (time.process_time() - processor), 1))
        print({name: values["by_processor"][-1] for name, values in found.items()}, flush=True)
    return found


def product_rates() -> dict[str, float]:
    """GFLOP a second of products of 256 x 256 matrices, one at a time and many: the limit of any implementation.

    Several runs at once (a study's seeds, as a leading axis) can win no more than what is between one and many.
    """
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        for count in (1, 2, 16):
            left, right = (torch.randn(count, 256, 256).to(kind) for _ in range(2))
            seconds = []
            for _ in range(20):
                started = time.process_time()
                for _ in range(4):
                    torch.bmm(left, right)
                seconds.append((time.process_time() - started) / 4)
            name = f"{str(kind).removeprefix('torch.')}, {count} at once"
            found[name] = round(2 * count * 256**3 / min(seconds) / 1e9, 1)
    return found


def main() -> None:
    """Measure and write."""
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    torch.set_num_threads(1)
    data = read_transitions(arguments["data"])
    updates = 1_000_000
    corl = Corl(load_corl(Path(arguments["corl"])), data, updates, 0)
    learners: dict[str, Callable[[int], Any]] = {}
    for precision in PRECISIONS:
        settings = OfflineSettings(updates=updates, precision=precision, device="cpu")
        learners[precision] = OfflineTrainer(data, settings, 0).run
    learners |= {"corl": corl.run, "d3rlpy": d3rlpy_updates(data)}
    found = rates(learners)
    best = {name: {kind: max(values) for kind, values in kinds.items()} for name, kinds in found.items()}
    ratios = {
        f"{name}/{peer}": round(best[name]["by_processor"] / best[peer]["by_processor"], 2)
        for name in PRECISIONS
        for peer in ("corl", "d3rlpy")
    }
    record: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": 1,
        "updates_a_turn": UPDATES,
        "best": best,
        "ratios": ratios,
    }
    record["gflops_of_products"] = product_rates()
    write_json(Path(arguments["output"]), record | {"turns": found})
    print(best, ratios)


if __name__ == "__main__":
    main()
