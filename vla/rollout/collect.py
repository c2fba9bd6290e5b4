"""Records demonstrations of a suite as a LeRobotDataset v3.0: the code behind `vla collect`.

Which attempts end up in the dataset, and in which order, follows from the seed alone: neither the number of workers nor
an interruption changes it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sim.contract import CONTROL_FREQUENCY, Split, Suite
from sim.pool.worker import load_factory
from vla.data.episode import Episode
from vla.data.lerobot_writer import LeRobotWriter, check_same_settings
from vla.data.staging import stage_episode, staged_keys
from vla.data.video import PIXEL_FORMAT, PixelFormat
from vla.errors import ReflexError, writing
from vla.rollout.collect_worker import (
    EXPERT,
    RANDOM,
    Attempt,
    AttemptResult,
    AttemptRunner,
    AttemptSettings,
    run_in_worker,
    start_worker,
)
from vla.run.cores import worker_count
from vla.run.settings import Checks
from vla.run.worker_processes import JobRunner

ATTEMPTS = "attempts.jsonl"
POLICY_BATCH = 32
"""Episodes of a policy that are in memory at once."""

OnResult = Callable[[AttemptResult], None]


@dataclass(frozen=True)
class CollectConfig:
    """What to record and where."""

    suite: str = "tabletop"
    """Suite to record in, such as tabletop or libero_spatial."""
    policy: str = EXPERT
    """Who acts: expert (only its successes are kept), random, or a policy folder or name (every episode is kept)."""
    tasks: list[int] | None = None
    """Task numbers; null records every task of the suite."""
    episodes_per_task: int = 40
    """Episodes to keep of each task."""
    split: Split = "train"
    """Which initial states to start from; train and eval are disjoint."""
    output: str = "datasets/tabletop"
    """Folder of the finished dataset; must not exist yet."""
    seed: int = 0
    """Seed of the expert's variation, the action noise and a policy's sampling."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
    pace: float | None = None
    """The expert's greatest speed as a share of full speed, for demonstrations as slow as people's; null: its own."""
    action_noise: float = 0.0
    """Deviation of Gaussian noise on the expert's executed actions (recorded clean), for data that shows recoveries."""
    pixel_format: PixelFormat = PIXEL_FORMAT
    """Colour format of the videos: yuv420p plays everywhere, yuv444p keeps colour at full resolution."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.within(0, 1, "action_noise", reason="in units of full-scale action")
        check.positive("pace")
        check.within(0, 1, "pace", reason="a share of full speed")
        for name in ("action_noise", "pace"):
            if getattr(self, name) and self.policy != EXPERT:
                raise ReflexError(f"{name}={getattr(self, name)} needs policy=expert, not {self.policy!r}")


@dataclass
class TaskPlan:
    """Which attempts at one task to make: the first `wanted`, and one more for each that failed.

    The set of attempts therefore does not depend on the order in which they end.
    """

    task_id: int
    wanted: int
    kept: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    def outstanding(self) -> list[int]:
        """Numbers of the attempts still to be made."""
        return [
            number
            for number in range(self.wanted + len(self.failed))
            if number not in self.kept and number not in self.failed
        ]

    @property
    def hopeless(self) -> bool:
        """Whether failures are so many that the expert cannot do this task."""
        return len(self.failed) > 10 + 4 * self.wanted


def collect(config: CollectConfig, factory: str = "sim.suites:get_suite") -> Path:
    """Record the dataset `config` describes and return its folder.

    An interrupted collection (Ctrl-C, a crash, a full disk) continues from its whole episodes when it is called again
    with the same settings; `num_workers` may differ. `factory` is the import path of `(suite, image_size) -> Suite`.

    Raises:
        ReflexError: the output exists, an interrupted collection there has other settings, the expert keeps failing,
            workers keep dying or the disk is full.
        EnvironmentRequestError: unknown suite or task, or a task without an expert.
    """
    suite = load_factory(factory)(config.suite, config.image_size)
    task_ids = list(suite.task_ids) if config.tasks is None else list(dict.fromkeys(config.tasks))
    for task_id in task_ids:
        suite.task_name(task_id)  # raises for an unknown task, before anything is written
    console = Console(stderr=True)
    writer = LeRobotWriter(
        Path(config.output), suite.name, suite.image_size, resume=True, pixel_format=config.pixel_format
    )
    try:
        varying = ("output", "num_workers")
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in varying}
        check_same_settings(writer.staging / "collect.json", settings)
        plans = _load_plans(writer.staging, task_ids, config.episodes_per_task)
        _run_plans(config, factory, suite, plans, writer.staging, console)
        folder = writer.finalize(_collection_record(config, suite, plans))
    except KeyboardInterrupt:
        console.print(
            f"\nInterrupted: {writer.num_episodes} whole episodes are kept in {writer.staging}. "
            "Run the same command again to continue."
        )
        raise
    finally:
        writer.close()
    _report(console, folder, config, plans)
    return folder


def _load_plans(staging: Path, task_ids: Sequence[int], wanted: int) -> dict[int, TaskPlan]:
    """The plans, with what an interrupted collection already did."""
    plans = {task_id: TaskPlan(task_id, wanted) for task_id in task_ids}
    keys = set(staged_keys(staging))
    for task_id, plan in plans.items():
        prefix = Attempt(task_id, 0).key.rpartition("-")[0] + "-"
        plan.kept = {int(key.removeprefix(prefix)) for key in keys if key.startswith(prefix)}
    path = staging / ATTEMPTS
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the crash that interrupted the collection tore this line; the attempt is made again
            if entry["task_id"] in plans:
                plans[entry["task_id"]].failed.add(entry["attempt"])
    return plans


def _run_plans(
    config: CollectConfig, factory: str, suite: Suite, plans: dict[int, TaskPlan], staging: Path, console: Console
) -> None:
    """Make every outstanding attempt, with a progress bar."""
    total = config.episodes_per_task * len(plans)
    with _progress(console) as progress:
        bar = progress.add_task(f"collect {config.suite}", total=total, completed=_num_kept(plans))

        def on_result(result: AttemptResult) -> None:
            plan = plans[result.attempt.task_id]
            if result.kept:
                plan.kept.add(result.attempt.number)
            else:
                plan.failed.add(result.attempt.number)
                _log_failure(staging, result.attempt)
            if plan.hopeless:
                raise ReflexError(
                    f"the expert of {config.suite} task {plan.task_id} failed {len(plan.failed)} of "
                    f"{len(plan.failed) + len(plan.kept)} attempts; lower action_noise={config.action_noise} or leave "
                    "this task out with tasks=[...]"
                )
            progress.update(bar, completed=_num_kept(plans))

        if config.policy in (EXPERT, RANDOM):
            settings = AttemptSettings(
                factory=factory,
                suite=config.suite,
                image_size=suite.image_size,
                policy=config.policy,
                split=config.split,
                seed=config.seed,
                action_noise=config.action_noise,
                pace=config.pace,
                pixel_format=config.pixel_format,
                staging=staging,
            )
            workers = worker_count(config.num_workers, total)
            if workers <= 1:
                _run_here(settings, plans, on_result)
            else:
                _run_in_processes(settings, plans, on_result, workers)
        else:
            _run_policy(config, factory, suite, plans, staging, on_result)


def _outstanding(plans: dict[int, TaskPlan]) -> list[Attempt]:
    return [Attempt(plan.task_id, number) for plan in plans.values() for number in plan.outstanding()]


def _num_kept(plans: dict[int, TaskPlan]) -> int:
    return sum(len(plan.kept) for plan in plans.values())


def _run_here(settings: AttemptSettings, plans: dict[int, TaskPlan], on_result: OnResult) -> None:
    """Make the attempts one after another in this process."""
    runner = AttemptRunner(settings)
    try:
        for plan in plans.values():
            while outstanding := plan.outstanding():
                on_result(runner.run(Attempt(plan.task_id, outstanding[0])))
    finally:
        runner.close()


def _run_in_processes(
    settings: AttemptSettings, plans: dict[int, TaskPlan], on_result: OnResult, num_workers: int
) -> None:
    """Make the attempts in worker processes; one whose worker died is made again."""
    runner = JobRunner(run_in_worker, start_worker, (settings,), num_workers)
    runner.run(lambda: _outstanding(plans), lambda _, result: on_result(result))


def _run_policy(
    config: CollectConfig, factory: str, suite: Suite, plans: dict[int, TaskPlan], staging: Path, on_result: OnResult
) -> None:
    """Roll out a policy (sampled, temperature 1) with a frame at every control step."""
    # Here, because torch and the policies take seconds to import and an expert needs neither.
    from sim.pool import EnvironmentPool, EpisodeRequest
    from vla.policies import load_policy
    from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts

    policy = load_policy(config.policy)
    attempts = _outstanding(plans)
    num_slots = max(1, min(len(attempts), POLICY_BATCH))
    workers = worker_count(config.num_workers, num_slots)
    with EnvironmentPool(config.suite, num_slots, workers, suite.image_size, factory=factory) as pool:
        for start in range(0, len(attempts), POLICY_BATCH):
            batch = attempts[start : start + POLICY_BATCH]
            requests = []
            for attempt in batch:
                init_state_id = attempt.number % suite.num_init_states(attempt.task_id, config.split)
                request = EpisodeRequest(attempt.task_id, config.split, init_state_id)
                requests.append(RolloutRequest(request, attempt.seed(config.seed)))

            def keep(index: int, episode: Episode, batch: Sequence[Attempt] = batch) -> None:
                attempt = batch[index]
                stage_episode(staging, attempt.key, episode, suite.image_size, CONTROL_FREQUENCY, config.pixel_format)
                on_result(AttemptResult(attempt, episode.success, kept=True))

            collect_rollouts(
                policy, pool, suite, requests, mode="sample", temperature=1.0, on_episode=keep, frame_stride=1
            )


def _log_failure(staging: Path, attempt: Attempt) -> None:
    """Remember a failed attempt, so that a resumed collection does not make it again."""
    with writing(staging), (staging / ATTEMPTS).open("a") as file:
        file.write(json.dumps({"task_id": attempt.task_id, "attempt": attempt.number}) + "\n")


def _collection_record(config: CollectConfig, suite: Suite, plans: dict[int, TaskPlan]) -> dict[str, Any]:
    """What `meta/reflex_collection.json` holds. Without `output` and `num_workers`, which do not change the data."""
    settings = dataclasses.asdict(config)
    del settings["output"], settings["num_workers"]
    tasks = {
        str(plan.task_id): {
            "name": suite.task_name(plan.task_id),
            "episodes": len(plan.kept),
            "attempts": len(plan.kept) + len(plan.failed),
        }
        for plan in plans.values()
    }
    return {"settings": settings, "tasks": tasks, "protocol": suite.protocol()}


def _report(console: Console, folder: Path, config: CollectConfig, plans: dict[int, TaskPlan]) -> None:
    kept, failed = _num_kept(plans), sum(len(plan.failed) for plan in plans.values())
    line = f"{kept} episodes of {len(plans)} tasks in {folder}"
    if config.policy == EXPERT:
        line += f"; the expert succeeded in {kept} of {kept + failed} attempts ({kept / (kept + failed):.1%})"
        for plan in plans.values():
            if plan.failed:
                line += f"\n  task {plan.task_id}: {len(plan.kept)} of {len(plan.kept) + len(plan.failed)}"
    console.print(line)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress
