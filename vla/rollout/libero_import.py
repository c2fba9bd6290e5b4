"""`vla libero import`: LIBERO's own demonstrations as a LeRobotDataset v3.0.

Published policies were not trained on the recorded pictures of 128 px but on demonstrations played again in the
simulator at 256 px, without the steps in which nothing moves and without those that then fail (Kim et al., "OpenVLA",
2024). That is the default; `pictures=recorded` takes what the files hold and simulates nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from sim.libero.suite import LiberoSuite
from vla.data.lerobot_writer import LeRobotWriter, check_same_settings
from vla.data.libero_hdf5 import demonstration_files, demonstration_names, read_demonstration, task_name
from vla.data.staging import staged_keys
from vla.data.video import PIXEL_FORMAT, PixelFormat, check_pixel_format
from vla.errors import ReflexError
from vla.rollout.libero_replay import Demonstration, DemonstrationReader, ReplaySettings
from vla.run.progress_bar import progress_bar
from vla.run.worker_processes import run_jobs

Pictures = Literal["replayed", "recorded"]


@dataclass(frozen=True)
class ImportConfig:
    """Which demonstrations to take, and where to."""

    demonstrations: str
    """A file <task>_demo.hdf5, or a folder of them, as LIBERO publishes them."""
    suite: str
    """Suite of the tasks: libero_spatial, or a variant for replayed pictures, such as libero_spatial_plain."""
    output: str = "datasets/libero"
    """Folder of the finished dataset; must not exist yet."""
    pictures: Pictures = "replayed"
    """replayed: play the actions in the simulator and keep what succeeds; recorded: take the pictures in the files."""
    image_size: int = 256
    """Side of replayed pictures in pixels; recorded ones keep theirs."""
    drop_idle: bool = True
    """Leave out actions that move nothing (replayed pictures only)."""
    tasks: list[int] | None = None
    """Task numbers; null takes every task that the files demonstrate."""
    episodes_per_task: int | None = None
    """Demonstrations to try of each task; null tries all."""
    pixel_format: PixelFormat = PIXEL_FORMAT
    """Colour format of the videos: yuv420p plays everywhere, yuv444p keeps colour at full resolution."""
    num_workers: int = 2
    """Processes that replay in parallel."""

    def __post_init__(self) -> None:
        if self.pictures not in get_args(Pictures):
            raise ReflexError(f"pictures={self.pictures!r} must be one of {', '.join(get_args(Pictures))}")
        check_pixel_format(self.pixel_format)
        for name in ("episodes_per_task", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ReflexError(f"{name}={value} must be at least 1")


def import_demonstrations(config: ImportConfig) -> Path:
    """Write the dataset `config` describes and return its folder.

    An interrupted import continues from its whole episodes when it is called again with the same settings.

    Raises:
        ReflexError: the output exists, a file cannot be read or fits no task of the suite, or nothing could be kept.
        EnvironmentRequestError: an unknown suite or task, or LIBERO is not installed.
    """
    suite = LiberoSuite(config.suite, config.image_size)
    jobs = find_jobs(config, suite)
    size = config.image_size
    if config.pictures == "recorded":
        size = read_demonstration(Path(jobs[0].file), jobs[0].name).images.shape[1]
    writer = LeRobotWriter(Path(config.output), suite.name, size, resume=True, pixel_format=config.pixel_format)
    console = Console(stderr=True)
    try:
        settings = {
            name: value for name, value in dataclasses.asdict(config).items() if name not in ("output", "num_workers")
        }
        check_same_settings(writer.staging / "import.json", settings)
        kept = Counter(_run(config, jobs, writer.staging, size))
        tried = Counter(job.task_id for job in jobs)
        tasks = {
            str(task_id): {"name": suite.task_name(task_id), "episodes": kept[task_id], "attempts": count}
            for task_id, count in sorted(tried.items())
        }
        folder = writer.finalize({"settings": settings, "tasks": tasks, "protocol": suite.protocol()})
    except KeyboardInterrupt:
        console.print(f"\nInterrupted: run the same command again to continue from {writer.staging}.")
        raise
    finally:
        writer.close()
    console.print(f"{kept.total()} of {len(jobs)} demonstrations of {len(tasks)} tasks in {folder}")
    return folder


def find_jobs(config: ImportConfig, suite: LiberoSuite) -> list[Demonstration]:
    """What to import, by task and number. Raises `ReflexError` when a file fits no task, or none is left."""
    numbers = {suite.task_name(task_id): task_id for task_id in suite.task_ids}
    jobs: list[Demonstration] = []
    for path in demonstration_files(Path(config.demonstrations)):
        if task_name(path) not in numbers:
            raise ReflexError(
                f"{path} demonstrates no task of {suite.name}: there is none with the name {task_name(path)!r}; choose "
                "the suite it belongs to"
            )
        task_id = numbers[task_name(path)]
        if config.tasks is None or task_id in config.tasks:
            names = demonstration_names(path)[: config.episodes_per_task]
            jobs += [Demonstration(task_id, str(path), name) for name in names]
    missing = set(config.tasks or ()) - {job.task_id for job in jobs}
    if missing or not jobs:
        raise ReflexError(
            f"{config.demonstrations} has no demonstration of "
            + (f"task {min(missing)} of {suite.name}" if missing else "any task")
        )
    return sorted(jobs, key=lambda job: job.key)


def _run(config: ImportConfig, jobs: Sequence[Demonstration], staging: Path, size: int) -> list[int]:
    """Import every demonstration that is not staged yet; returns the task numbers of all that are kept."""
    staged = set(staged_keys(staging))
    waiting = {job: None for job in jobs if job.key not in staged}
    kept = [job.task_id for job in jobs if job.key in staged]
    settings = ReplaySettings(
        config.suite, size, config.pictures == "replayed", config.drop_idle, config.pixel_format, staging
    )
    with progress_bar(f"import {config.suite}", total=len(jobs), start=len(kept)) as update:

        def finished(job: Demonstration, keep: bool) -> None:
            del waiting[job]
            kept.extend([job.task_id] if keep else [])
            update(len(jobs) - len(waiting), f"{len(kept)} kept")

        workers = min(config.num_workers, len(waiting))
        run_jobs(DemonstrationReader, (settings,), workers, lambda: list(waiting), finished)
    if not kept:
        raise ReflexError(
            f"none of {len(jobs)} demonstrations reached the goal when it was played again: simulator or assets are "
            "not those they were recorded with; pictures=recorded takes them as they are"
        )
    return kept
