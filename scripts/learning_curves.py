"""Learning curves of several algorithms over seeds, from one start: the comparison behind "which earns its place".

    python scripts/learning_curves.py OUTPUT --policy FINE_TUNED --arms grpo srpo --seeds 3 --iterations 40 \
        [--target 0.9] [--finished] [-- suite=tabletop algo.groups_per_iteration=40 ...]

Runs `vla train` once for each arm and seed, one after another, seeds first, so that arms stay paired when the study is
cut short. A run that was interrupted goes on, a finished one is skipped: the same command continues the study. After
each run OUTPUT holds `curves.json` (raw curves, episodes to the target, ratios to the first arm) and `curves.svg`.
What follows `--` is given to every run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from vla.evaluation.curves import Curve, band, episodes_to_reach, paired_ratios
from vla.training.run_folder import RunFolder

ARMS: dict[str, list[str]] = {
    "grpo": ["algo=grpo"],
    "srpo": ["algo=srpo"],
    "srpo_policy": ["algo=srpo", "encoder=policy"],
    "srpo_policy_cosine": ["algo=srpo", "encoder=policy", "algo.metric=cosine"],
    "srpo_without_success": ["algo=srpo", "encoder=policy", "algo.metric=cosine", "algo.pay_failures=without_success"],
    "srpo_stepwise": [
        "algo=srpo",
        "encoder=policy",
        "algo.metric=cosine",
        "algo.pay_failures=without_success",
        "algo.step_credit=progress",
    ],
    "srpo_bank": ["algo=srpo", "algo.success_bank=16"],
    "srpo_calibrated": ["algo=srpo", "algo.reward=calibrated"],
    "srpo_group": ["algo=srpo", "algo.reference_scope=group"],
    "grpo_critic": ["algo=grpo", "algo.advantage=critic"],
    "srpo_critic": ["algo=srpo", "algo.advantage=critic"],
    "lite_ppo": ["algo=grpo", "algo.advantage=lite_ppo"],
    "rloo": ["algo=grpo", "algo.advantage=rloo"],
    "raft": ["algo=grpo", "algo.advantage=raft"],
    "pacs": ["algo=grpo", "algo.advantage=pacs"],
    "shared_steps": ["algo=grpo", "algo.step_credit=shared"],
    "progress_steps": ["algo=grpo", "algo.step_credit=progress"],
    "implicit_steps": ["algo=grpo", "algo.step_credit=implicit"],
    "likely_successes": ["algo=grpo", "algo.likely_success_bonus=0.5"],
    "difficulty": ["algo=grpo", "algo.difficulty_weight=true"],
    "replay": ["algo=grpo", "algo.replay=16"],
    "gate": ["algo=grpo", "algo.sampling=gate"],
    "even": ["algo=grpo", "algo.sampling=even"],
}
"""Name -> what it sets. Advantages are compared under the binary reward, so that only they differ."""


def run(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Train one arm with one seed, or go on with it; returns its run folder."""
    folder = Path(options.output) / arm / f"seed_{seed}"
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "vla", "train", *ARMS[arm], f"policy={options.policy}", f"output={folder}"]
        command += [f"seed={seed}", f"iterations={options.iterations}", "videos_per_task=0", "keep_checkpoints=1"]
        command += ["evaluation_episodes_per_task=50", *options.overrides]
        command += ["resume=true"] if folder.exists() else []
        print(" ".join(command), flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, env=os.environ)
    return folder


def curve_of(folder: Path) -> Curve:
    """Held-out success over training episodes of a run."""
    with RunFolder(folder, resume=True) as opened:
        lines = [line for line in opened.read_metrics() if "eval/success_rate" in line]
    return Curve.of([line["progress/episodes"] for line in lines], [line["eval/success_rate"] for line in lines])


def summarise(curves: dict[str, dict[int, Curve]], target: float) -> dict[str, Any]:
    """What `curves.json` holds."""
    first = next(iter(curves))
    arms: dict[str, Any] = {}
    for arm, by_seed in curves.items():
        reached = {seed: episodes_to_reach(curve, target) for seed, curve in by_seed.items()}
        shared = [seed for seed in by_seed if seed in curves[first]]
        baseline = [episodes_to_reach(curves[first][seed], target) for seed in shared]
        ratios = paired_ratios([reached[seed] for seed in shared], baseline)
        arms[arm] = {
            "settings": ARMS[arm],
            "final": {seed: float(curve.rates[-1]) for seed, curve in by_seed.items()},
            "final_mean": statistics.fmean(float(curve.rates[-1]) for curve in by_seed.values()),
            "episodes_to_target": reached,
            f"ratio_to_{first}": ratios,
            "ratio_mean": statistics.geometric_mean(ratios) if ratios else None,
            "curves": {
                seed: {"episodes": curve.episodes.tolist(), "success": curve.rates.tolist()}
                for seed, curve in by_seed.items()
            },
        }
    return {"target": target, "compared_with": first, "arms": arms}


def draw(curves: dict[str, dict[int, Curve]], target: float, path: Path) -> None:
    """Means with intervals over seeds."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for arm, by_seed in curves.items():
        episodes, mean, low, high = band(list(by_seed.values()))
        (line,) = axes.plot(episodes, 100 * mean, label=f"{arm} ({len(by_seed)} seeds)")
        axes.fill_between(episodes, 100 * low, 100 * high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(100 * target, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("training episodes")
    axes.set_ylabel("held-out success (%)")
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--arms", nargs="+", required=True, choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--finished", action="store_true", help="start no run; draw what is finished")
    # argparse gives what follows "--" to the first positional argument that takes any number, however far back it is.
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:end], argparse.Namespace(overrides=sys.argv[end + 1 :]))
    curves: dict[str, dict[int, Curve]] = {arm: {} for arm in options.arms}
    output = Path(options.output)
    for seed in range(options.seeds):
        for arm in options.arms:
            if options.finished and not (output / arm / f"seed_{seed}" / "summary.json").exists():
                continue
            curves[arm][seed] = curve_of(run(arm, seed, options))
            begun = {name: found for name, found in curves.items() if found}
            summary = json.dumps(summarise(begun, options.target), indent=1)
            (output / "curves.json").write_text(summary + "\n", encoding="utf-8")
            draw(begun, options.target, output / "curves.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
