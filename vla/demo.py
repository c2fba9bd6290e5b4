"""`vla demo`: the whole idea in one run: demonstrations, fine-tuning, SRPO, and the gain on unseen initial states."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from vla.evaluation.report import write_report
from vla.imitation.augmentation import small_picture_augmentation
from vla.imitation.fine_tune import FineTuneConfig, fine_tune
from vla.rl.config import AlgoConfig, TrainConfig
from vla.rl.loop import train
from vla.rollout.collect import CollectConfig, collect
from vla.run.files import read_json, write_json
from vla.run.run_folder import RunFolder
from vla.run.settings import Checks

SUMMARY_KEYS = ("success_rate", "episodes", "wilson_low", "wilson_high")


@dataclass
class DemoConfig:
    """A short run on a few tasks of the embedded suite, or a longer one on another; every value can be overridden."""

    suite: str = "tabletop"
    """Which suite, e.g. "tabletop" or "libero_spatial_fast_plain"."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
    output: str = "runs/demo"
    """Run folder. Running the command again continues an unfinished one."""
    tasks: list[int] = field(default_factory=lambda: [0, 1, 3, 4])
    """Task numbers of the suite; for the tabletop's see `sim/tabletop/tasks.py`."""
    policy: str = "reflex-tiny"
    """Pretrained policy to start from."""
    demonstrations_per_task: int = 3
    """Scripted demonstrations of each task that fine-tuning sees."""
    demonstration_pace: float | None = 0.45
    """Speed of the demonstrations as a share of full speed: slow, as people's are; null for the expert's own."""
    fine_tune_steps: int = 60
    """Optimiser steps of fine-tuning."""
    train_minutes: float = 11.0
    """SRPO stops after the iteration that uses up this much time."""
    target_success: float | None = 0.97
    """SRPO stops early when held-out success reaches this share."""
    evaluation_episodes_per_task: int = 50
    """Held-out initial states of each task, before and after."""
    evaluate_every: int = 10
    """Iterations between evaluations."""
    algo: AlgoConfig = field(default_factory=lambda: AlgoConfig(groups_per_iteration=24, advantage="critic"))
    """The reinforcement-learning algorithm."""
    seed: int = 0
    """Seed of everything random."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "demonstrations_per_task", "fine_tune_steps", "evaluate_every")
        check.positive("train_minutes")


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run (or continue) the demo; returns what it writes to `summary.json`."""
    clock = _Clock(Path(config.output))
    console = Console(soft_wrap=True, highlight=False)
    output = Path(config.output)
    dataset, tuned, trained = output / "demonstrations", output / "fine_tuning", output / "srpo"

    console.print(f"[bold]1/4[/] {config.demonstrations_per_task} demonstrations of each of {len(config.tasks)} tasks")
    if not (dataset / "meta" / "info.json").exists():
        collect(
            CollectConfig(
                suite=config.suite,
                image_size=config.image_size,
                tasks=config.tasks,
                episodes_per_task=config.demonstrations_per_task,
                pace=config.demonstration_pace,
                output=str(dataset),
                seed=config.seed,
                num_workers=config.num_workers,
            )
        )
    console.print("[bold]2/4[/] fine-tuning on them")
    fine_tune(fine_tune_config(config, dataset, tuned))
    console.print("[bold]3/4[/] SRPO from the fine-tuned policy, on training initial states")
    summary = train(train_config(config, dataset, tuned, trained))
    console.print("[bold]4/4[/] report")
    return _finish(output, trained, summary, clock, console)


def fine_tune_config(config: DemoConfig, dataset: Path, output: Path) -> FineTuneConfig:
    """Fine-tuning of the demo."""
    return FineTuneConfig(
        dataset=str(dataset),
        policy=config.policy,
        output=str(output),
        tasks=config.tasks,
        steps=config.fine_tune_steps,
        learning_rate=2e-4,
        warmup_steps=10,
        batch_size=32,
        augmentation=small_picture_augmentation(),
        seed=config.seed,
        device=config.device,
        threads=config.threads,
        resume=output.exists(),
    )


def train_config(config: DemoConfig, dataset: Path, tuned: Path, output: Path) -> TrainConfig:
    """Reinforcement learning of the demo."""
    return TrainConfig(
        suite=config.suite,
        image_size=config.image_size,
        tasks=config.tasks,
        policy=str(tuned / "checkpoints" / "last"),
        output=str(output),
        algo=config.algo,
        demonstrations=str(dataset),
        iterations=10_000,
        max_minutes=config.train_minutes,
        target_success=config.target_success,
        evaluate_every=config.evaluate_every,
        evaluation_episodes_per_task=config.evaluation_episodes_per_task,
        seed=config.seed,
        num_workers=config.num_workers,
        device=config.device,
        threads=config.threads,
        keep_checkpoints=2,
        resume=output.exists(),
    )


def _finish(output: Path, run: Path, training: dict[str, Any], clock: _Clock, console: Console) -> dict[str, Any]:
    summary = {
        "sft": {key: training["start"][key] for key in SUMMARY_KEYS},
        "srpo": {key: training[key] for key in SUMMARY_KEYS},
        "training_episodes": training["training_episodes"],
        "iterations": training["iterations"],
        # A process that was killed wrote no time down; what the checkpoints know of it is the least that it took.
        "wall_seconds": round(max(clock.seconds(), training["wall_seconds"]), 1),
    }
    run_folder = RunFolder(run, resume=True)
    rest = {name: value for name, value in training.items() if name != "start"}  # "sft" says it
    run_folder.write_summary({**rest, **summary})
    run_folder.close()
    report = write_report(run)
    shutil.copyfile(report, output / "report.html")
    write_json(output / "summary.json", summary)
    for name, label in (("sft", "fine-tuned"), ("srpo", "after SRPO")):
        part = summary[name]
        console.print(
            f"{label:>12}: {part['success_rate']:.1%} of {part['episodes']} held-out episodes "
            f"(95 % interval {part['wilson_low']:.1%} to {part['wilson_high']:.1%})"
        )
    console.print(f"report: {output / 'report.html'}   ({summary['wall_seconds']:.0f} s)")
    return summary


class _Clock:
    """Wall-clock time of the demo, over interruptions."""

    def __init__(self, output: Path) -> None:
        self._path = output / "clock.json"
        self._before = float(read_json(self._path)["seconds"]) if self._path.exists() else 0.0
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Seconds so far; also written down."""
        total = self._before + time.perf_counter() - self._started
        write_json(self._path, {"seconds": total})
        return total
