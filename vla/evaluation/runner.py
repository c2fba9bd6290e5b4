"""Evaluate a policy on initial states it was never trained on; every episode is a record, and a killed run resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sim.contract import Split, Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from sim.suites import get_suite
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.evaluation.protocol import Protocol
from vla.evaluation.report import write_report
from vla.evaluation.results import EvaluationResult, episode_key
from vla.evaluation.videos import write_videos
from vla.policies import load_policy
from vla.policies.connect import connect
from vla.policies.fingerprint import policy_fingerprint
from vla.policies.protocol import Policy
from vla.policies.remote.address import is_address
from vla.policies.sampling import GREEDY, Sampling, as_it_is
from vla.rollout.actors import EXPERT
from vla.rollout.pool_rollouts import play_rollouts
from vla.rollout.requests import RolloutRequest
from vla.rollout.scripted import run_experts
from vla.run.cores import worker_count
from vla.run.devices import draw_beside, resolve_device, set_threads
from vla.run.files import write_json
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import Logger, RunFolder, dated_folder
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

__all__ = [
    "EvaluationConfig",
    "episode_record",
    "evaluate",
    "finish",
    "parse_shard",
    "policy_fingerprint",
    "run_evaluation",
    "without_step",
]

_log = logging.getLogger(__name__)

FRAME_BUDGET = 1 << 30
"""Bytes of frames that rollouts may hold; LIBERO's 256-pixel frames would fill a machine otherwise."""

FILM_STRIDE = 2
"""Control steps between the frames of a filmed rollout: 10 frames per second."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of ``vla eval``."""

    output: str = field(default_factory=partial(dated_folder, "eval"))
    """Run folder to write; it has the date where none is given."""
    policy: str = "reflex-tiny"
    """Folder of a saved policy, the name of a shipped one, the address of one that is served (ws://host:port), or
    "expert" for the suite's scripted experts (no videos)."""
    feature_map: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the suite calls the policy's cameras, where names do not say, e.g. feature_map.cameras.wrist_image=hand."""
    suite: str = "tabletop"
    """Which suite: tabletop, libero_spatial, _object, _goal, _10 or _90 (with _512, _fast and _plain behind it),
    robosuite, metaworld, so101, or package.module:Class of your own."""
    protocol: str | None = None
    """For a LIBERO suite: "libero-official" (horizons of OpenVLA, OpenVLA-OFT and openpi) or "libero-512" (512 steps,
    as in SimpleVLA-RL and SRPO); null takes the suite as it is named."""
    tasks: list[int] | None = None
    """Task numbers; null takes all of the suite."""
    episodes_per_task: int = 50
    """Initial states per task, numbers 0 .. n-1."""
    split: Split = "eval"
    """Which initial states: "eval" (held out) or "train"."""
    mode: Literal["greedy", "sample"] = "greedy"
    """Decoding: "greedy" or "sample"."""
    temperature: float = 1.0
    """Sampling temperature; greedy decoding ignores it."""
    seed: int = 0
    """Seed of the action sampling; greedy decoding ignores it."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
    num_slots: int = 16
    """Episodes that run at the same time (the policy's batch)."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process (experts take one)."""
    shard: str | None = None
    """Part of the evaluation to run, e.g. "2/4" for the second quarter of its episodes; `vla merge` joins the parts."""
    videos_per_task: int = 1
    """Initial states per task whose rollout is filmed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""
    logger: Logger = "tensorboard"
    """Where metrics are shown beside `metrics.jsonl`: "tensorboard", or "wandb" as well (the extra `wandb`)."""
    resume: bool = False
    """Continue the run in `output`, skipping the episodes it already holds."""

    def __post_init__(self) -> None:
        Checks(self).shared()
        parse_shard(self.shard)
        suite_name(self.suite, self.protocol)
        if self.mode == "sample" and self.temperature == 0:
            raise ReflexError("temperature is 0; mode=sample needs one above 0, mode=greedy none")
        if self.policy == EXPERT and self.mode != "greedy":
            raise ReflexError(f"mode={self.mode} is for policies; experts have no distribution to sample from")
        if is_address(self.policy) and self.mode != "greedy":
            raise ReflexError(f"mode={self.mode}: a policy that is served decides greedily; leave mode out")

    @property
    def sampling(self) -> Sampling:
        """How the policy's actions are drawn."""
        return GREEDY if self.mode == "greedy" else as_it_is(self.temperature)


PROTOCOLS = {"libero-official": "", "libero-512": "_512"}
"""Protocol -> what it adds to the name of a LIBERO suite."""


def suite_name(suite: str, protocol: str | None) -> str:
    """The name of a suite under a protocol. Raises `ReflexError` for an unknown one, or one that is not the suite's."""
    if protocol is None:
        return suite
    if protocol not in PROTOCOLS:
        raise ReflexError(f"unknown protocol {protocol!r}; it is one of {', '.join(PROTOCOLS)}, or null")
    if not suite.startswith("libero_") or suite.count("_") > 1:
        raise ReflexError(f"protocol={protocol} is for a LIBERO suite, such as libero_spatial, not {suite!r}")
    return suite + PROTOCOLS[protocol]


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/4" as (2, 4); None as (1, 1), the whole. Raises `ReflexError` for anything but i/n with 1 <= i <= n."""
    if text is None:
        return 1, 1
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ReflexError(f"shard={text!r} must be part/parts, counted from 1, such as 2/4")
    return int(part), int(parts)


def evaluate(
    policy: Policy,
    suite: Suite,
    pool: EnvironmentPool,
    *,
    tasks: Sequence[int] | None = None,
    episodes_per_task: int,
    split: Split = "eval",
    sampling: Sampling = GREEDY,
    seed: int = 0,
    shard: str | None = None,
    on_episode: Callable[[int, Episode], None] | None = None,
    completed: Sequence[Mapping[str, Any]] = (),
    video_folder: Path | None = None,
    videos_per_task: int = 1,
) -> EvaluationResult:
    """Run a policy once from each of the first ``episodes_per_task`` initial states of each task.

    Args:
        suite: gives tasks, initial states and the protocol; ``pool`` is of the same suite, and stays open.
        tasks, episodes_per_task: task numbers, None for all; initial states 0 .. n-1 of the split.
        split, sampling: which initial states; how actions are drawn.
        seed: every rollout's own seed derives from (seed, split, task, initial state), never from their order.
        shard: "i/n" runs the i-th of n parts of the episodes; None runs all.
        on_episode: called with (index, episode) as each finishes, in no fixed order; the index counts tasks first,
            then initial states.
        completed: records of an earlier, interrupted evaluation under the same protocol; they are not run again.
        video_folder: where to write rollout videos (``videos/<phase>`` of a run folder); None films nothing.
        videos_per_task: initial states 0 .. n-1 of each task that are filmed.

    Returns:
        Records of all requested episodes, completed ones included.

    Raises:
        ReflexError: more initial states were asked for than there are, or an unknown task or split.
    """
    protocol_hash = Protocol.of(suite, split, sampling, seed).digest()
    wanted = dict(enumerate(_requests(suite, tasks, episodes_per_task, split, seed, shard)))
    records = {episode_key(record): dict(record) for record in completed if record.get("protocol") == protocol_hash}
    films = videos_per_task if video_folder is not None else 0

    def play(requests: Mapping[int, RolloutRequest], frame_stride: int | None) -> None:
        indices = list(requests)

        def finished(position: int, episode: Episode) -> None:
            index = indices[position]
            records[_key(wanted[index])] = episode_record(episode, protocol_hash)
            if video_folder is not None and episode.init_state_id < films:
                write_videos(video_folder, [episode])
            if on_episode is not None:
                on_episode(index, episode)

        play_rollouts(
            policy,
            pool,
            suite,
            list(requests.values()),
            finished,
            sampling=sampling,
            frame_stride=frame_stride,
            frame_budget=FRAME_BUDGET,
        )

    pending = {index: item for index, item in wanted.items() if _key(item) not in records}
    filmed = {index: item for index, item in pending.items() if item.request.init_state_id < films}
    play(filmed, FILM_STRIDE)
    play({index: item for index, item in pending.items() if index not in filmed}, None)
    return EvaluationResult([records[_key(item)] for item in wanted.values()], protocol_hash)


def episode_record(episode: Episode, protocol_hash: str) -> dict[str, Any]:
    """The line of ``episodes.jsonl``: the episode's own record, its instruction and the protocol it ran under."""
    return {**episode.record(), "instruction": episode.instruction, "protocol": protocol_hash}


def run_evaluation(config: EvaluationConfig) -> dict[str, Any]:
    """Evaluate a saved policy into a run folder and write its report; shows a progress bar on a terminal.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        ReflexError: the policy, suite, a task, an initial state or the output folder cannot be used, or the folder
            resumed holds results of another policy or protocol.
    """
    name = suite_name(config.suite, config.protocol)
    suite = get_suite(name, image_size=config.image_size)
    protocol = Protocol.of(suite, config.split, config.sampling, config.seed)
    wanted = _requests(suite, config.tasks, config.episodes_per_task, config.split, config.seed, config.shard)
    policy = None if config.policy == EXPERT else _load(config)
    if policy is not None:
        connect(policy, suite.embodiment, config.feature_map)
    findings = suite.self_test(pictures=policy is not None)
    for reason in findings["off_protocol"]:
        _log.warning("off the published protocol: %s", reason)
    with RunFolder(config.output, config.resume, config.logger) as run:
        completed = _open_run(run, config, protocol, EXPERT if policy is None else policy_fingerprint(policy))
        write_json(run.path / "self_test.json", findings)
        keys = {_key(item) for item in wanted}
        outcomes = [bool(row["success"]) for row in completed if episode_key(row) in keys]
        slots = min(config.num_slots, len(wanted))
        workers = worker_count(config.num_workers, slots)
        with progress_bar("evaluating", len(wanted), len(outcomes)) as show:

            def finished(_: int, episode: Episode) -> None:
                run.append_episodes([episode_record(episode, protocol.digest())], step=0)
                outcomes.append(episode.success)
                show(len(outcomes), f"success {sum(outcomes)}/{len(outcomes)}")

            if policy is None:
                ran = {episode_key(row) for row in completed}
                pending = [item for item in wanted if _key(item) not in ran]
                run_experts(name, config.image_size, pending, workers, partial(finished, 0))
                records = {episode_key(row): row for row in run.read_episodes()}
                result = EvaluationResult([without_step(records[_key(item)]) for item in wanted], protocol.digest())
                return finish(run, result, EXPERT)
            with EnvironmentPool(name, slots, workers, image_size=config.image_size) as pool:
                result = evaluate(
                    policy,
                    suite,
                    pool,
                    tasks=config.tasks,
                    episodes_per_task=config.episodes_per_task,
                    split=config.split,
                    sampling=config.sampling,
                    seed=config.seed,
                    shard=config.shard,
                    on_episode=finished,
                    completed=completed,
                    video_folder=run.videos_path / "eval",
                    videos_per_task=config.videos_per_task,
                )
        return finish(run, result, policy.policy_id)


def _load(config: EvaluationConfig) -> Policy:
    set_threads(config.threads)
    device = resolve_device(config.device)
    draw_beside(device)
    return load_policy(config.policy, device=str(device))


def without_step(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record as `evaluate` returns it, from its line of ``episodes.jsonl``."""
    return {name: value for name, value in line.items() if name != "step"}


def _open_run(run: RunFolder, config: EvaluationConfig, protocol: Protocol, fingerprint: str) -> list[dict[str, Any]]:
    """Write what describes the run and return the episodes it already holds.

    Raises:
        ReflexError: they were measured with another policy or under another protocol.
    """
    previous = run.read_config().get("policy_sha256", fingerprint)
    if previous != fingerprint:
        raise ReflexError(
            f"{run.path} holds results of a policy with other weights than {config.policy}; "
            "choose another output folder"
        )
    run.write_protocol(protocol.document())
    run.write_config({**asdict(config), "policy_sha256": fingerprint})
    run.truncate_metrics_after(-1)
    return run.read_episodes()


def finish(run: RunFolder, result: EvaluationResult, policy_id: str) -> dict[str, Any]:
    """Write the files that describe an evaluation whose episodes are written; returns its summary.

    Each of them may already be there from an earlier try.
    """
    # Episodes were appended as they finished; in their own order the file is the same however the run went.
    run.replace_episodes(sorted(run.read_episodes(), key=episode_key))
    run.append_metrics(0, result.metrics())
    summary: dict[str, Any] = {
        **result.summary(),
        "policy": policy_id,
        "policy_sha256": run.read_config().get("policy_sha256"),
        "protocol": result.protocol_hash,
        "tasks": {str(task.task_id): task.success_rate for task in result.per_task},
    }
    run.write_summary(summary)
    write_report(run.path)
    return summary


def _requests(
    suite: Suite, tasks: Sequence[int] | None, episodes_per_task: int, split: Split, seed: int, shard: str | None
) -> list[RolloutRequest]:
    """One rollout per task and initial state, in that order, or a consecutive part of them.

    Raises:
        ReflexError: an unknown task, or more initial states than the split has.
    """
    if episodes_per_task < 1:
        raise ReflexError(f"episodes_per_task must be at least 1, not {episodes_per_task}")
    chosen = list(suite.task_ids if tasks is None else dict.fromkeys(tasks))
    unknown = [task for task in chosen if task not in suite.task_ids]
    if unknown or not chosen:
        known = f"{min(suite.task_ids)} to {max(suite.task_ids)}"
        raise ReflexError(f"suite {suite.name} has tasks {known}; tasks={chosen} asks for others or none")
    requests: list[RolloutRequest] = []
    for task in chosen:
        available = suite.num_init_states(task, split)
        if episodes_per_task > available:
            raise ReflexError(
                f"task {task} of {suite.name} has {available} {split} initial states, fewer than "
                f"episodes_per_task={episodes_per_task}; set it to at most {available}"
            )
        for init_state in range(episodes_per_task):
            own_seed = derive_seed(seed, split, task, init_state)
            requests.append(RolloutRequest(EpisodeRequest(task, split, init_state), own_seed))
    part, parts = parse_shard(shard)
    if parts > len(requests):
        raise ReflexError(f"shard={shard} asks for more parts than there are episodes ({len(requests)})")
    return requests[(part - 1) * len(requests) // parts : part * len(requests) // parts]


def _key(item: RolloutRequest) -> tuple[int, int]:
    return item.request.task_id, item.request.init_state_id
