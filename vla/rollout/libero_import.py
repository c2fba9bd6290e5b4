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
from functools import partial
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np
from rich.console import Console

from sim.contract import Observation, StepOutcome, Suite
from sim.embodiments import Embodiment
from sim.libero.environment import LiberoEnvironment
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import OFFICIAL_IMAGE_SIZE
from sim.pool.worker import EpisodeRequest
from vla.data.episode import Episode
from vla.data.lerobot_reader import UNKNOWN
from vla.data.lerobot_writer import LeRobotWriter, check_same_settings
from vla.data.libero_hdf5 import (
    RecordedDemonstration,
    demonstration_files,
    demonstration_names,
    fixture_poses,
    read_demonstration,
    task_name,
    without_idle_steps,
)
from vla.data.staging import stage_episode, staged_keys
from vla.data.video import PIXEL_FORMAT, PixelFormat
from vla.errors import ReflexError
from vla.rollout.actors import Replayed
from vla.rollout.builder import EpisodeBuilder
from vla.rollout.collect import Stage
from vla.rollout.play import Player, play_episode
from vla.rollout.requests import RolloutRequest
from vla.run.cores import worker_count
from vla.run.progress_bar import progress_bar
from vla.run.settings import Checks
from vla.run.worker_processes import run_jobs

Pictures = Literal["replayed", "recorded"]

DEMONSTRATION = "demonstration"
"""Who acted, in the dataset."""


@dataclass(frozen=True)
class Demonstration:
    """One demonstration of one file."""

    task_id: int
    file: str
    name: str
    """"demo_<number>"."""

    @property
    def key(self) -> str:
        """Name in the staging folder; sorts by task, then by number."""
        return f"task-{self.task_id:04d}-demo-{int(self.name.split('_')[1]):06d}"


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
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own. Recorded pictures keep theirs."""
    drop_idle: bool = True
    """Leave out actions that move nothing (replayed pictures only)."""
    tasks: list[int] | None = None
    """Task numbers; null takes every task that the files demonstrate."""
    episodes_per_task: int | None = None
    """Demonstrations to try of each task; null tries all."""
    pixel_format: PixelFormat = PIXEL_FORMAT
    """Colour format of the videos: yuv420p plays everywhere, yuv444p keeps colour at full resolution."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "num_workers", reason="demonstrations are read and played again in processes of their own")


def import_demonstrations(config: ImportConfig) -> Path:
    """Write the dataset `config` describes and return its folder.

    An interrupted import continues from its whole episodes when it is called again with the same settings.

    Raises:
        ReflexError: the output exists, a file cannot be read or fits no task of the suite, or nothing could be kept.
        EnvironmentRequestError: an unknown suite or task, or LIBERO is not installed.
    """
    suite = _suite(config)
    jobs = find_jobs(config, suite)
    embodiment = suite.embodiment
    if config.pictures == "recorded":
        first = read_demonstration(Path(jobs[0].file), jobs[0].name)
        embodiment = embodiment.with_image_size(first.images.shape[1])
    writer = LeRobotWriter(Path(config.output), suite.name, embodiment, resume=True, pixel_format=config.pixel_format)
    console = Console(stderr=True)
    try:
        settings = {
            name: value for name, value in dataclasses.asdict(config).items() if name not in ("output", "num_workers")
        }
        check_same_settings(writer.staging / "import.json", settings)
        kept = Counter(_run(config, jobs, writer.staging))
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


def _run(config: ImportConfig, jobs: Sequence[Demonstration], staging: Path) -> list[int]:
    """Import every demonstration that is not staged yet; returns the task numbers of all that are kept."""
    staged = set(staged_keys(staging))
    waiting = [job for job in jobs if job.key not in staged]
    kept = [job.task_id for job in jobs if job.key in staged]
    stage = partial(stage_episode, staging, pixel_format=config.pixel_format)
    done = len(kept)
    with progress_bar(f"import {config.suite}", total=len(jobs), start=done) as update:

        def finished(job: Demonstration, keep: bool) -> None:
            nonlocal done
            done += 1
            kept.extend([job.task_id] if keep else [])
            update(done, f"{len(kept)} kept")

        workers = worker_count(config.num_workers, len(jobs))
        run_jobs(DemonstrationReader, (config, stage), workers, waiting, finished)
    if not kept:
        raise ReflexError(
            f"none of {len(jobs)} demonstrations reached the goal when it was played again: simulator or assets are "
            "not those they were recorded with; pictures=recorded takes them as they are"
        )
    return kept


def _suite(config: ImportConfig) -> LiberoSuite:
    return LiberoSuite(config.suite, config.image_size or OFFICIAL_IMAGE_SIZE)


class DemonstrationReader(Player):
    """Makes one demonstration after another an episode, in a worker process."""

    def __init__(self, config: ImportConfig, stage: Stage) -> None:
        super().__init__(_suite(config))
        self._config, self._stage = config, stage

    def run(self, job: Demonstration, restarted: bool = False) -> bool:
        """Stage one as an episode; returns False, with nothing staged, when it fails on being played again.

        A worker's death (`restarted`) leaves no trace in it. Raises `ReflexError` when the file cannot be used or the
        disk is full.
        """
        recorded = read_demonstration(Path(job.file), job.name)
        if self._config.pictures == "replayed":
            episode = self._replay(job, recorded)
        else:
            episode = as_recorded(recorded, self.suite, job.task_id)
        if episode.success:
            self._stage(job.key, episode)
        return episode.success

    def _replay(self, demonstration: Demonstration, recorded: RecordedDemonstration) -> Episode:
        environment = self.environment_of(demonstration.task_id)
        assert isinstance(environment, LiberoEnvironment)
        model = environment.scene.model
        bodies = [
            mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, body)
            for body in environment.scene.definition.fixture_bodies
        ]
        try:
            poses = fixture_poses(recorded.model_xml, bodies)
        except ReflexError as error:
            raise ReflexError(f"{demonstration.file}, {demonstration.name}: {error}") from error
        environment.reset_to_recorded(recorded.simulator_states[0], poses)
        actions = np.clip(recorded.actions, -1.0, 1.0)
        if self._config.drop_idle:
            actions = without_idle_steps(actions)
        builder = _builder(self.suite, self.suite.embodiment, demonstration.task_id)
        return play_episode(environment, Replayed(actions), builder, frame_stride=1)


def as_recorded(recorded: RecordedDemonstration, suite: Suite, task_id: int) -> Episode:
    """A demonstration with its own pictures: T - 1 steps, each action with what was seen before it."""
    instruction = suite.instruction(task_id)
    builder = _builder(suite, suite.embodiment.with_image_size(recorded.images.shape[1]), task_id)
    columns = (recorded.images, recorded.wrist_images, recorded.robot_states, np.clip(recorded.actions[1:], -1.0, 1.0))
    for image, wrist_image, state, action in zip(*columns, strict=False):  # the last observation has no action
        images = {"image": image, "wrist_image": wrist_image}
        builder.observe(Observation(images=images, state=state, instruction=instruction))
        success = builder.steps == len(recorded.actions) - 2  # LIBERO publishes successes
        builder.step(action, StepOutcome(success, truncated=False, cost=0.0, progress=float(success)))
    return builder.build(instruction)


def _builder(suite: Suite, embodiment: Embodiment, task_id: int) -> EpisodeBuilder:
    """The record of a demonstration, whose initial state is none of the suite's."""
    wanted = RolloutRequest(EpisodeRequest(task_id, "train", UNKNOWN), UNKNOWN)
    return EpisodeBuilder(suite.name, embodiment, wanted, DEMONSTRATION)
