"""`vla audit`: which encoder and reward mode to trust, on rollouts whose true progress is known."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sim.contract import Split, Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from sim.suites import get_suite
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies import TrainablePolicy, load_policy
from vla.policies.connect import connect
from vla.policies.sampling import Sampling
from vla.rewards.audit.embeddings import CONTROLS, TimeEmbedding
from vla.rewards.audit.measures import Estimate
from vla.rewards.audit.rollouts import SCRIPTED, AuditRollout, Kind, RolloutMaker, from_policy, make_rollouts
from vla.rewards.audit.scoring import MEASURES, MODES, Row, recommend, score
from vla.rewards.embeddings import WITHOUT_PICTURES, FrameEmbedding, PolicyEmbedding, RolloutEmbedding, rollout_clip
from vla.rewards.reward import reward_class
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts
from vla.run.cores import worker_count
from vla.run.devices import resolve_device, set_threads
from vla.run.files import write_json
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import dated_folder
from vla.run.seeding import derive_seed
from vla.run.settings import Checks
from world_models.encoders import load_encoder

SPLIT: Split = "train"
"""A reward is chosen by these numbers, so held-out initial states are left alone."""

TABLE_WIDTH = 140
"""Characters a line of the table has in a log."""


@dataclass(frozen=True)
class AuditConfig:
    """What to audit, on which rollouts."""

    suite: str = "tabletop"
    """Suite with scripted experts, such as tabletop or libero_spatial."""
    output: str = field(default_factory=partial(dated_folder, "audit"))
    """Folder for reward.json, and for the encoder trained here; must not hold one yet. It has the date where none is
    given."""
    tasks: list[int] | None = None
    """Task numbers; null takes all of the suite. Intervals are over tasks, so a few tasks give wide ones."""
    encoders: list[str] = field(default_factory=lambda: ["pixels", "jepa", "policy", *CONTROLS])
    """Encoders: "pixels", "jepa" (trained here, on other rollouts), "policy" (what the policy makes of what it sees), a
    folder or hub id, the controls "proprioception" and "time", which see no picture, and "true_progress", the
    simulator's own, which is as good as any could be."""
    modes: list[str] = field(default_factory=lambda: list(MODES))
    """Reward modes: srpo, srpo_cosine, siirl, calibrated, another reward's name, or package.module:Class."""
    rollouts: int = 6
    """Rollouts of each kind and task; of successes there are twice as many, half of them references."""
    policy: str | None = "reflex-tiny"
    """Also audit on this policy's rollouts, sampled as training samples them; null for none."""
    group_size: int = 4
    """Rollouts of the policy from each initial state: "own" compares them, as training does."""
    sampling: Sampling = field(default_factory=Sampling)
    """How the policy's actions are sampled; the defaults are those of training."""
    frame_stride: int = 8
    """Control steps between the frames that are kept of a rollout."""
    reward_frames: int = 16
    """Evenly spaced ones of these that an embedding sees, at most."""
    encoder_steps: int = 600
    """Gradient steps of the "jepa" encoder."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
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
        check.at_least(2, "rollouts", "group_size", "reward_frames")
        check.at_least(1, "frame_stride", "encoder_steps")
        if not self.modes or not self.encoders:
            raise ReflexError(f"modes={self.modes} and encoders={self.encoders}: name one of each at least")
        for mode in self.modes:
            if mode not in MODES:
                reward_class(mode, f"modes are {', '.join(MODES)}, or rewards by name; one of them")
        if "policy" in self.encoders and self.policy is None:
            raise ReflexError("encoders=[policy] needs a policy: give policy=..., or leave it out of encoders")


def audit(config: AuditConfig) -> None:
    """Make the rollouts, score every encoder and mode, print the table and write `reward.json`.

    Raises:
        ReflexError: the output holds an audit, or the policy cannot be loaded.
        EnvironmentRequestError: unknown suite or task, or a task without an expert.
        WorldModelError: an encoder cannot be loaded or trained.
    """
    output = Path(config.output)
    if (output / "reward.json").exists():
        raise ReflexError(f"{output} already holds an audit; choose another output folder or delete it")
    set_threads(config.threads)
    suite = get_suite(config.suite, image_size=config.image_size)
    tasks = list(suite.task_ids if config.tasks is None else config.tasks)
    rollouts = _make_all(config, suite, tasks, config.rollouts, derive_seed("audited", config.seed))
    policy = None if config.policy is None else load_policy(config.policy, str(resolve_device(config.device)))
    if policy is not None:
        connect(policy, suite.embodiment)
        rollouts += from_policy(_policy_episodes(config, policy, suite, tasks))
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in config.encoders:
        embedding = _embedding(name, config, policy, suite, tasks, output)
        started = time.perf_counter()
        rows += score(rollouts, name, embedding, config.modes)
        seconds[name] = time.perf_counter() - started
    advice = recommend(rows)
    counts: Counter[str] = Counter(rollout.kind for rollout in rollouts)
    document = {
        "settings": asdict(config),
        "protocol": suite.protocol(),
        "tasks": tasks,
        "rollouts": dict(counts),
        "policy_success": _success_share(rollouts, "policy"),
        "measures": MEASURES,
        "rows": [_row_document(row) for row in rows],
        "seconds_to_score": seconds,
        "advice": advice,
    }
    write_json(output / "reward.json", document)
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(_table(rows, counts))
    console.print(advice)


def _make_all(config: AuditConfig, suite: Suite, tasks: Sequence[int], each: int, seed: int) -> list[AuditRollout]:
    """Scripted rollouts of every kind, task by task."""
    kinds = {kind: 2 * each if kind == "success" else each for kind in SCRIPTED}
    rollouts: list[AuditRollout] = []
    with progress_bar("rollouts", len(tasks) * len(kinds)) as show:
        for position, task in enumerate(tasks):
            maker = RolloutMaker(suite, task, SPLIT, config.frame_stride, seed)
            try:
                for number, (kind, count) in enumerate(kinds.items()):
                    rollouts += make_rollouts(maker, kind, count)
                    show(position * len(kinds) + number + 1, f"task {task}")
            finally:
                maker.close()
    return rollouts


def _policy_episodes(config: AuditConfig, policy: TrainablePolicy, suite: Suite, tasks: Sequence[int]) -> list[Episode]:
    """Sampled rollouts of the policy: of each task as many as there are successes of the expert, in whole groups."""
    groups = -(-2 * config.rollouts // config.group_size)
    requests = [
        RolloutRequest(
            EpisodeRequest(task, SPLIT, number // config.group_size % suite.num_init_states(task, SPLIT)),
            derive_seed("audit policy", config.seed, task, number),
        )
        for task in tasks
        for number in range(groups * config.group_size)
    ]
    slots = min(16, len(requests))
    with EnvironmentPool(config.suite, slots, worker_count(config.num_workers, slots), config.image_size) as pool:
        return collect_rollouts(
            policy,
            pool,
            suite,
            requests,
            sampling=config.sampling,
            frame_stride=config.frame_stride,
        )


def _embedding(
    name: str,
    config: AuditConfig,
    policy: TrainablePolicy | None,
    suite: Suite,
    tasks: Sequence[int],
    output: Path,
) -> RolloutEmbedding:
    if name in WITHOUT_PICTURES:
        return WITHOUT_PICTURES[name](config.reward_frames)
    if name == "time":
        return TimeEmbedding()
    if name == "policy" and policy is not None:
        return PolicyEmbedding(policy, config.reward_frames)
    device = str(resolve_device(config.device))
    if name != "jepa":
        return FrameEmbedding(load_encoder(name, device), config.reward_frames)
    from world_models.jepa import JepaConfig, train_jepa

    others = _make_all(config, suite, tasks, config.rollouts, derive_seed("encoder", config.seed))
    clips = [rollout_clip(rollout.episode, config.reward_frames) for rollout in others if rollout.kind != "shuffled"]
    jepa = JepaConfig(steps=config.encoder_steps, seed=derive_seed("jepa", config.seed) % 2**31, device=device)
    with progress_bar("encoder", config.encoder_steps) as show:
        encoder, _ = train_jepa(clips, jepa, output / "jepa", lambda step, *_: show(step, name))
    return FrameEmbedding(encoder, config.reward_frames)


def _success_share(rollouts: Sequence[AuditRollout], kind: Kind) -> float | None:
    outcomes = [rollout.episode.success for rollout in rollouts if rollout.kind == kind]
    return float(np.mean(outcomes)) if outcomes else None


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "encoder": row.embedding,
        "mode": row.mode,
        "estimates": {name: _finite(asdict(value)) for name, value in row.estimates().items()},
        "per_task": {
            name: [None if np.isnan(value) else float(value) for value in values]
            for name, values in row.per_task.items()
        },
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in values.items()}


def _table(rows: Sequence[Row], counts: Counter[str]) -> Table:
    shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    table = Table("encoder", "mode", *MEASURES, title=f"rewards on {shown}")
    for row in rows:
        table.add_row(row.embedding, row.mode, *(_cell(value) for value in row.estimates().values()))
    return table


def _cell(value: Estimate) -> str:
    return "-" if value.tasks == 0 else f"{value.value:.2f}\n{value.low:.2f}..{value.high:.2f}"
