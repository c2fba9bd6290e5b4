"""Learning curves of several algorithms over seeds, from one start: the comparison behind "which earns its place".

    python -m scripts.learning_curves OUTPUT --policy FINE_TUNED --arms grpo srpo --seeds 3 --iterations 40 \
        [--target 0.9] [--at-once 2] [--finished] [-- suite=tabletop algo.groups_per_iteration=40 ...]

Runs `vla train` once for each arm and seed, seeds first, so that arms stay paired when the study is cut short; with
`--at-once` several at a time, each on its share of the cores. A run that was interrupted goes on, a finished one is
skipped: the same command continues the study. After each run OUTPUT holds `curves.json` (raw curves, success at equal
episodes, episodes to the target, ratios to the first arm) and `curves.svg`. A curve that is in `curves.json` is not run
again even where its run folder is gone, so a study goes on from that one file. What follows `--` is given to every run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from scripts.curves import Curve, Ratio, band, episodes_to_reach, mean_ratio, ratio_to_reach
from vla.run.cores import core_numbers
from vla.run.files import read_json, write_json
from vla.run.run_folder import RunFolder

CRITIC, COSINE = "algo.advantage=critic", "algo.settings.srpo.metric=cosine"
ARMS: dict[str, list[str]] = {
    "grpo": ["algo=grpo"],
    "srpo": ["algo=srpo"],
    "srpo_policy": ["algo=srpo", "encoder=policy"],
    "srpo_policy_cosine": ["algo=srpo", "encoder=policy", COSINE],
    "srpo_without_success": ["algo=srpo", "algo.reward=without_success", "encoder=policy", COSINE],
    "srpo_stepwise": [
        "algo=srpo",
        "algo.reward=without_success",
        "encoder=policy",
        COSINE,
        "algo.variants=[step_progress]",
    ],
    "srpo_bank": ["algo=srpo", "algo.reward=success_bank"],
    "srpo_true": ["algo=srpo", "encoder=true_progress"],
    "srpo_true_without_success": ["algo=srpo", "algo.reward=without_success", "encoder=true_progress"],
    "srpo_true_critic": ["algo=srpo", "encoder=true_progress", CRITIC],
    "srpo_low": ["algo=srpo", "algo.settings.srpo.alpha=0.3"],
    "srpo_calibrated": ["algo=srpo", "algo.reward=calibrated"],
    "srpo_group": ["algo=srpo", "algo.reward=reference_scope"],
    "grpo_critic": ["algo=grpo", CRITIC],
    "srpo_critic": ["algo=srpo", CRITIC],
    "lite_ppo": ["algo=grpo", "algo.advantage=lite_ppo"],
    "rloo": ["algo=grpo", "algo.advantage=rloo"],
    "raft": ["algo=grpo", "algo.advantage=raft"],
    "pacs": ["algo=grpo", "algo.advantage=pacs"],
    "shared_steps": ["algo=grpo", "algo.variants=[salt]"],
    "progress_steps": ["algo=grpo", "algo.variants=[step_progress]"],
    "implicit_steps": ["algo=grpo", "algo.variants=[oprl]"],
    "likely_successes": ["algo=grpo", "algo.variants=[grpo_care]"],
    "difficulty": ["algo=grpo", "algo.variants=[difficulty_weight]"],
    "replay": ["algo=grpo", "algo.variants=[webrl_replay]"],
    "gate": ["algo=grpo", "algo.variants=[webrl_gate]", "algo.initial_states=even"],
    "even": ["algo=grpo", "algo.initial_states=even"],
    "kl": ["algo=grpo", "algo.kl_coefficient=0.3", "algo.variants=[demonstration_regularisation]"],
    "demonstration_starts": ["algo=grpo", "algo.variants=[demonstration_starts]"],
}
"""Name -> what it sets. Advantages are compared under the binary reward, so that only they differ.

"demonstration_starts" needs `demonstrations=` among the overrides; so does an "srpo" that is to compare with them.
"""


Curves = dict[str, dict[int, Curve]]
"""Arm, then seed."""


def run_folder(output: Path, arm: str, seed: int) -> Path:
    """Where a run of an arm is kept."""
    return output / arm / f"seed_{seed}"


def is_finished(output: Path, arm: str, seed: int) -> bool:
    """Whether that run has come to its end."""
    return (run_folder(output, arm, seed) / "summary.json").exists()


def run(arm: str, seed: int, options: argparse.Namespace, places: SimpleQueue[list[int]]) -> None:
    """Train one arm with one seed, or go on with it, on the cores of a free place."""
    cores = places.get()
    try:
        folder = run_folder(Path(options.output), arm, seed)
        command = [sys.executable, "-m", "vla", "train", *ARMS[arm], f"policy={options.policy}", f"output={folder}"]
        command += [f"seed={seed}", f"iterations={options.iterations}", "videos_per_task=0", "keep_checkpoints=1"]
        command += ["evaluation_episodes_per_task=50", *options.overrides]
        command += ["resume=true"] if folder.exists() else []
        print(" ".join(command), flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        pinned = ["taskset", "-c", ",".join(map(str, cores))] if options.at_once > 1 else []
        subprocess.run(pinned + command, check=True, env=os.environ)
    finally:
        places.put(cores)


def places_of(at_once: int) -> SimpleQueue[list[int]]:
    """The cores of this process in `at_once` parts."""
    cores = core_numbers()
    if not 1 <= at_once <= len(cores):
        raise SystemExit(f"--at-once must be between 1 and the {len(cores)} cores here, got {at_once}")
    places: SimpleQueue[list[int]] = SimpleQueue()
    for place in range(at_once):
        places.put(cores[place::at_once])
    return places


def curve_of(folder: Path) -> Curve:
    """Held-out success over training episodes of a run."""
    with RunFolder(folder, resume=True) as opened:
        lines = [line for line in opened.read_metrics() if "eval/success_rate" in line]
    return Curve.of([line["progress/episodes"] for line in lines], [line["eval/success_rate"] for line in lines])


def recorded(path: Path) -> Curves:
    """The curves of an earlier `curves.json`; none where there is no such file.

    Raises:
        SystemExit: an arm of it is set otherwise here, so that old and new runs of it would not be of one kind.
    """
    if not path.exists():
        return {}
    arms = read_json(path)["arms"]
    for arm, found in arms.items():
        if found["settings"] != ARMS.get(arm):
            raise SystemExit(
                f"{path}: its arm {arm} is {found['settings']} and here {ARMS.get(arm)}; use another OUTPUT"
            )
    return {
        arm: {int(seed): Curve.of(curve["episodes"], curve["success"]) for seed, curve in found["curves"].items()}
        for arm, found in arms.items()
    }


def summarise(curves: Curves, target: float) -> dict[str, Any]:
    """What `curves.json` holds."""
    first = next(iter(curves))
    equal = min(float(curve.episodes[-1]) for by_seed in curves.values() for curve in by_seed.values())
    arms: dict[str, Any] = {}
    for arm, by_seed in curves.items():
        ratios = ratios_of(by_seed, curves[first], target)
        arms[arm] = {
            "settings": ARMS[arm],
            "final": {seed: float(curve.rates[-1]) for seed, curve in by_seed.items()},
            "final_mean": statistics.fmean(float(curve.rates[-1]) for curve in by_seed.values()),
            "at_equal_episodes": {
                seed: float(np.interp(equal, curve.episodes, curve.rates)) for seed, curve in by_seed.items()
            },
            "episodes_to_target": {seed: episodes_to_reach(curve, target) for seed, curve in by_seed.items()},
            f"ratio_to_{first}": [ratio.as_json() for ratio in ratios],
            "ratio_mean": mean_ratio(ratios).as_json() if ratios else None,
            "curves": {
                seed: {"episodes": curve.episodes.tolist(), "success": curve.rates.tolist()}
                for seed, curve in by_seed.items()
            },
        }
    return {"target": target, "compared_with": first, "equal_episodes": equal, "arms": arms}


def ratios_of(ours: dict[int, Curve], theirs: dict[int, Curve], target: float) -> list[Ratio]:
    """Episodes to the target over those of another arm, for each seed that both have."""
    return [ratio_to_reach(curve, theirs[seed], target) for seed, curve in ours.items() if seed in theirs]


def draw(curves: Curves, target: float, path: Path) -> None:
    """Means with intervals over seeds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm, by_seed in curves.items():
        episodes, mean, low, high = band(list(by_seed.values()))
        (line,) = axes.plot(episodes, 100 * mean, label=f"{arm} ({len(by_seed)} seed{'s' * (len(by_seed) > 1)})")
        axes.fill_between(episodes, 100 * low, 100 * high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(100 * target, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("training episodes")
    axes.set_ylabel("held-out success (%)")
    axes.legend(frameon=False)
    with rc_context({"svg.hashsalt": "reflex"}):  # the same curves give the same file
        figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--arms", nargs="+", required=True, choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("--finished", action="store_true", help="start no run; draw what is finished")
    # argparse gives what follows "--" to the first positional argument that takes any number, however far back it is.
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:end], argparse.Namespace(overrides=sys.argv[end + 1 :]))
    study(options)
    show(Path(options.output))
    return 0


def study(options: argparse.Namespace) -> None:
    """Run what is missing, and write what is known after each run."""
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    known = recorded(output / "curves.json")
    curves: Curves = {arm: dict(known.get(arm, {})) for arm in options.arms}
    curves |= {arm: by_seed for arm, by_seed in known.items() if arm not in curves}
    wanted = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    for arm, seed in wanted:
        if is_finished(output, arm, seed):
            curves[arm][seed] = curve_of(run_folder(output, arm, seed))
    write(curves, options.target, output)
    if options.finished:
        return
    places = places_of(options.at_once)
    with ThreadPoolExecutor(options.at_once) as pool:
        missing = [(arm, seed) for arm, seed in wanted if seed not in curves[arm]]
        begun: dict[Future[None], tuple[str, int]] = {
            pool.submit(run, arm, seed, options, places): (arm, seed) for arm, seed in missing
        }
        for future in as_completed(begun):
            arm, seed = begun[future]
            try:
                future.result()
            except subprocess.CalledProcessError:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            curves[arm][seed] = curve_of(run_folder(output, arm, seed))
            write(curves, options.target, output)


def write(curves: Curves, target: float, output: Path) -> None:
    """`curves.json` and `curves.svg` of the arms that have a curve."""
    begun = {arm: by_seed for arm, by_seed in curves.items() if by_seed}
    if not begun:
        return
    write_json(output / "curves.json", summarise(begun, target))
    draw(begun, target, output / "curves.svg")


def show(output: Path) -> None:
    """Print what `curves.json` says of each arm."""
    if not (output / "curves.json").exists():
        print("no run is finished yet")
        return
    summary = read_json(output / "curves.json")
    first, target = summary["compared_with"], summary["target"]
    table = Table("arm", f"at {summary['equal_episodes']:.0f} episodes (%)", "mean", "at the end (%)")
    table.add_column(f"episodes to {100 * target:g} %, of {first}'s")
    for arm, found in summary["arms"].items():
        equal = list(found["at_equal_episodes"].values())
        ratios = [str(Ratio.from_json(ratio)) for ratio in found[f"ratio_to_{first}"]]
        table.add_row(
            arm,
            ", ".join(f"{100 * rate:.1f}" for rate in equal),
            f"{100 * statistics.fmean(equal):.1f}",
            ", ".join(f"{100 * rate:.1f}" for rate in found["final"].values()),
            ", ".join(ratios) + (f" (mean {Ratio.from_json(found['ratio_mean'])})" if len(ratios) > 1 else ""),
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
