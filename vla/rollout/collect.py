"""Records demonstrations of a suite as a LeRobotDataset v3.0: the code behind `vla collect`.

Which attempts end up in the dataset, and in which order, follows from the seed alone: neither the number of workers nor
an interruption changes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sim.contract import Split, Suite
from sim.pool.worker import EpisodeRequest, load_factory
from vla.data.episode import Episode
from vla.data.lerobot_keys import PROVENANCE_PATH
from vla.data.lerobot_writer import LeRobotWriter, check_same_settings
from vla.data.staging import stage_episode, staged_keys
from vla.data.video import PIXEL_FORMAT, PixelFormat
from vla.errors import ReflexError
from vla.rollout.actors import EXPERT, RANDOM
from vla.rollout.behaviours import MIXED, Behaviour, Mixture, allot, play_behaviour
from vla.rollout.requests import RolloutRequest
from vla.rollout.scripted import ScriptedPlayer
from vla.run.cores import worker_count
from vla.run.jsonl import append_lines, drop_torn_line, read_lines
from vla.run.progress_bar import progress_bar
from vla.run.settings import Checks
from vla.run.worker_processes import run_jobs

ATTEMPTS = "attempts.jsonl"
POLICY_SLOTS = 32
"""Episodes of a policy that run at once, each with all its frames in memory."""

Stage = Callable[[str, Episode], None]
"""(key, episode): writes the episode into the staging folder."""


@dataclass(frozen=True)
class CollectConfig:
    """What to record and where."""

    suite: str = "tabletop"
    """Suite to record in, such as tabletop or libero_spatial."""
    policy: str = EXPERT
    """Who acts: expert (only its successes are kept), random, or a policy's folder, name or address (ws://host:port);
    of a policy every episode is kept, and one that is served decides greedily."""
    behaviour: Behaviour | None = None
    """How well the expert acts, for data of mixed quality: random, medium (with flaws), expert, or mixed. Every episode
    is then kept, failures too; null keeps the expert's successes only."""
    mixture: Mixture = field(default_factory=Mixture)
    """How much of behaviour=mixed is of which behaviour."""
    feature_map: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the suite calls the policy's cameras, where names do not say, e.g. feature_map.cameras.wrist_image=hand."""
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
    after_success: int = 0
    """Control steps for which the expert stays where it is after a success, recorded as well: a reward model that is to
    know the end must have seen it, and a dataset has no picture after an episode's last action."""
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
        check.at_least(0, "after_success")
        for name in ("action_noise", "pace", "after_success"):
            if getattr(self, name) and self.policy != EXPERT:
                raise ReflexError(f"{name}={getattr(self, name)} needs policy=expert, not {self.policy!r}")
        if self.behaviour is None:
            return
        if self.policy != EXPERT:
            raise ReflexError(f"behaviour={self.behaviour} needs policy=expert, not {self.policy!r}")
        if self.pace or self.action_noise:
            raise ReflexError(
                f"behaviour={self.behaviour} draws pace and noise of its own; leave out pace and action_noise, or "
                "behaviour"
            )

    @property
    def keeps_all(self) -> bool:
        """Whether failures are recorded too."""
        return self.behaviour is not None or self.policy != EXPERT


@dataclass(frozen=True)
class Attempt:
    """One episode to try."""

    task_id: int
    number: int
    """Counts the attempts at this task from 0; fixes the initial state and every random draw."""

    @property
    def key(self) -> str:
        """Name in the staging folder; sorts by task, then attempt."""
        return f"task-{self.task_id:04d}-attempt-{self.number:06d}"

    def seed(self, base: int) -> int:
        """Seed of this attempt's expert and noise, independent between attempts, below 2**31."""
        return int(np.random.SeedSequence([base, self.task_id, self.number]).generate_state(1)[0] >> 1)

    def wanted(self, suite: Suite, config: CollectConfig) -> RolloutRequest:
        """The episode and its seed; initial states take turns."""
        state = self.number % suite.num_init_states(self.task_id, config.split)
        return RolloutRequest(EpisodeRequest(self.task_id, config.split, state), self.seed(config.seed))


class AttemptRunner:
    """Makes attempts one after another, in a worker process or in this one."""

    def __init__(self, config: CollectConfig, factory: str, stage: Stage) -> None:
        self._player = ScriptedPlayer(
            factory, config.suite, config.image_size, config.policy, config.pace, config.action_noise,
            frame_stride=1, after_success=config.after_success,
        )  # fmt: skip
        self._config, self._stage = config, stage
        self._allotted: dict[int, list[str]] = {}
        """By task, the behaviour of each attempt in a mixture."""

    def run(self, job: Attempt, restarted: bool = False) -> bool:
        """Play one episode; stage it and return True if it is a success, or if failures are kept too.

        `restarted` marks an episode whose worker died before. Raises `EnvironmentRequestError` when the suite cannot
        serve the task, `ReflexError` when the disk is full.
        """
        wanted = job.wanted(self._player.suite, self._config)
        if self._config.behaviour is None:
            episode = self._player.run(wanted, restarted)
        else:
            episode = play_behaviour(self._player, self._behaviour(job), wanted, restarted)
        kept = episode.success or self._config.keeps_all
        if kept:
            self._stage(job.key, episode)
        return kept

    def _behaviour(self, job: Attempt) -> str:
        config = self._config
        if config.behaviour != MIXED:
            return str(config.behaviour)
        if job.task_id not in self._allotted:
            self._allotted[job.task_id] = allot(config.mixture, config.episodes_per_task, config.seed, job.task_id)
        return self._allotted[job.task_id][job.number]

    def close(self) -> None:
        """Free the environment."""
        self._player.close()


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
        Path(config.output), suite.name, suite.embodiment, resume=True, pixel_format=config.pixel_format
    )
    try:
        varying = ("output", "num_workers")
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in varying}
        check_same_settings(writer.staging / "collect.json", settings)
        plans = _load_plans(writer.staging, task_ids, config.episodes_per_task)
        acted = _run_plans(config, factory, suite, plans, writer.staging)
        tasks = {str(plan.task_id): _task_record(suite, plan) for plan in plans.values()}
        folder = writer.finalize({"settings": settings, **acted, "tasks": tasks, "protocol": suite.protocol()})
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
    drop_torn_line(staging / ATTEMPTS)  # the attempt of a line that a crash tore is made again
    for entry in read_lines(staging / ATTEMPTS):
        if entry["task_id"] in plans:
            plans[entry["task_id"]].failed.add(entry["attempt"])
    return plans


def _run_plans(
    config: CollectConfig, factory: str, suite: Suite, plans: dict[int, TaskPlan], staging: Path
) -> dict[str, Any]:
    """Make every outstanding attempt, with a progress bar. Returns what says which policy acted, if one did."""
    stage = partial(stage_episode, staging, pixel_format=config.pixel_format)
    attempts = [Attempt(plan.task_id, number) for plan in plans.values() for number in plan.outstanding()]
    with progress_bar(f"collect {config.suite}", config.episodes_per_task * len(plans), _num_kept(plans)) as show:

        def on_result(attempt: Attempt, kept: bool) -> list[Attempt]:
            """Note how it ended; returns the attempt that takes the place of one that failed."""
            plan = plans[attempt.task_id]
            if kept:
                plan.kept.add(attempt.number)
                show(_num_kept(plans), "")
                return []
            plan.failed.add(attempt.number)
            # So that a resumed collection does not make it again.
            append_lines(staging / ATTEMPTS, [{"task_id": attempt.task_id, "attempt": attempt.number}])
            if plan.hopeless:
                raise ReflexError(
                    f"the expert of {config.suite} task {plan.task_id} failed {len(plan.failed)} of "
                    f"{len(plan.failed) + len(plan.kept)} attempts; lower action_noise={config.action_noise} or leave "
                    "this task out with tasks=[...]"
                )
            following = plan.wanted + len(plan.failed) - 1
            return [] if following in plan.kept else [Attempt(plan.task_id, following)]

        if config.policy in (EXPERT, RANDOM):
            workers = worker_count(config.num_workers, config.episodes_per_task * len(plans))
            # A single one would only be waited for.
            run_jobs(AttemptRunner, (config, factory, stage), 0 if workers == 1 else workers, attempts, on_result)
            return {}
        return _run_policy(config, factory, suite, attempts, stage, on_result)


def _num_kept(plans: dict[int, TaskPlan]) -> int:
    return sum(len(plan.kept) for plan in plans.values())


def _run_policy(
    config: CollectConfig,
    factory: str,
    suite: Suite,
    attempts: Sequence[Attempt],
    stage: Stage,
    on_result: Callable[[Attempt, bool], object],
) -> dict[str, Any]:
    """Roll out a policy with a frame at every control step: sampled at temperature 1, or greedily behind a wire.

    Returns its id and the hash of its weights.
    """
    # Here, because torch and the policies take seconds to import and an expert needs neither.
    from sim.pool import EnvironmentPool
    from vla.policies import load_policy
    from vla.policies.connect import connect
    from vla.policies.fingerprint import policy_fingerprint
    from vla.policies.remote.address import is_address
    from vla.policies.sampling import GREEDY, as_it_is
    from vla.rollout.pool_rollouts import play_rollouts

    policy = load_policy(config.policy)
    connect(policy, suite.embodiment, config.feature_map)
    requests = [attempt.wanted(suite, config) for attempt in attempts]
    num_slots = max(1, min(len(attempts), POLICY_SLOTS))

    def keep(index: int, episode: Episode) -> None:
        stage(attempts[index].key, episode)
        on_result(attempts[index], True)

    workers = worker_count(config.num_workers, num_slots)
    sampling = GREEDY if is_address(config.policy) else as_it_is(1.0)
    with EnvironmentPool(config.suite, num_slots, workers, config.image_size, factory=factory) as pool:
        play_rollouts(policy, pool, suite, requests, keep, sampling=sampling, frame_stride=1)
    return {"policy": {"id": policy.policy_id, "sha256": policy_fingerprint(policy)}}


def _task_record(suite: Suite, plan: TaskPlan) -> dict[str, Any]:
    attempts = len(plan.kept) + len(plan.failed)
    return {"name": suite.task_name(plan.task_id), "episodes": len(plan.kept), "attempts": attempts}


def _report(console: Console, folder: Path, config: CollectConfig, plans: dict[int, TaskPlan]) -> None:
    kept, failed = _num_kept(plans), sum(len(plan.failed) for plan in plans.values())
    line = f"{kept} episodes of {len(plans)} tasks in {folder}"
    if config.behaviour is not None:
        line += "".join(f"\n  {text}" for text in _successes_by_behaviour(folder))
    elif config.policy == EXPERT:
        line += f"; the expert succeeded in {kept} of {kept + failed} attempts ({kept / (kept + failed):.1%})"
        for plan in plans.values():
            if plan.failed:
                line += f"\n  task {plan.task_id}: {len(plan.kept)} of {len(plan.kept) + len(plan.failed)}"
    console.print(line)


def _successes_by_behaviour(folder: Path) -> list[str]:
    """A line for each kind of episode in a finished dataset."""
    import pyarrow.parquet as pq

    successes: dict[str, list[bool]] = {}
    for row in pq.read_table(folder / PROVENANCE_PATH, columns=["policy_id", "success"]).to_pylist():
        successes.setdefault(row["policy_id"], []).append(row["success"])
    every = [success for kind in successes.values() for success in kind]
    return [
        f"{name}: {sum(found)} of {len(found)} succeeded ({sum(found) / len(found):.1%})"
        for name, found in [("all", every), *sorted(successes.items())]
    ]
