"""`vla offline`: a policy from logged transitions by offline RL, in a run folder, resumable update for update."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from vla.data.advantages import ADVANTAGES_FILE
from vla.data.lerobot_keys import REWARD
from vla.errors import ReflexError
from vla.offline.algorithms.algorithm import Algorithm
from vla.offline.bisimulation import BisimulationMonitor
from vla.offline.controls import TRUE, as_control
from vla.offline.episode_weights import EpisodeWeighting
from vla.offline.goals import GoalSettings, success_ends, with_goals
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.model_based.training import control_trainer, is_model_based, known_controls, new_trainer
from vla.offline.sources import is_minari, read_instructions, read_transitions
from vla.offline.training import OfflineSettings, OfflineTrainer
from vla.offline.transitions import Ends, RewardScale, Transitions, chunk_transitions, scale_rewards
from vla.policies.connect import connected
from vla.policies.gaussian import GaussianPolicy
from vla.run.cores import worker_count
from vla.run.devices import set_threads
from vla.run.files import read_json_object, write_json
from vla.run.interrupts import held_interrupts
from vla.run.plugins import load_class, settings_key, settings_of
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import Logger, RunFolder, dated_folder, run_name
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

ALGORITHMS = ("vla.offline.algorithms",)
"""Where the shipped algorithms are."""

IMAGINED_FOLDER = "imagined"
"""Of a run folder: what was imagined, and the model that did."""

CONTROLS_FILE = "controls.json"
"""Control -> the metrics of its evaluation."""

Evaluator = Callable[[GaussianPolicy], dict[str, float]]
"""Policy -> metrics such as `eval/success_rate`."""

_MAY_CHANGE = frozenset(
    {"output", "resume", "device", "threads", "logger", "checkpoint_every", "keep_checkpoints", "log_every",
     "num_workers", "compiled", "controls", "true_reward", "monitor"}
)  # fmt: skip


@dataclass(kw_only=True)
class OfflineConfig:
    """Offline RL on logged transitions."""

    dataset: str
    """LeRobot v3 dataset (a local folder or a hub id), or a file or folder in Minari's HDF5 format."""
    algo: str = "iql"
    """Algorithm: iql, awac, td3_bc, a2pr, bc, or package.module:Class of your own."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the algorithm, by its name, e.g. settings.iql.expectile=0.9."""
    reward: str = REWARD
    """Column of the dataset that holds the reward."""
    encoder: str | None = None
    """Also sees: frozen features of a camera's pictures stand beside the state. "pixels", an encoder's folder, or its
    name; null for the state alone, which decodes no picture."""
    camera: str | None = None
    """Whose pictures `encoder` is shown; null for the dataset's first."""
    goals: GoalSettings = field(default_factory=GoalSettings)
    """Learn without rewards, from goals in hindsight."""
    reward_scale: RewardScale = "none"
    """"none", "returns" (over the range of returns, times 1000), "nonpositive" (from -1 to 0, so that finishing is
    never worse than going on) or "values" (that times 1 - discount, so that values are from -1 to 0: for learned
    rewards)."""
    imagine: ImagineSettings = field(default_factory=ImagineSettings)
    """Learn from rollouts of a model, too."""
    ends: Ends = "success"
    """What ends an episode for good: its "success", or, where nobody knows that, the end itself, in which the robot is
    taken to stay ("absorbing")."""
    output: str = field(default_factory=partial(dated_folder, "offline"))
    """Run folder to write; it has the date where none is given."""
    tasks: list[int] | None = None
    """Task ids to learn; null takes all in the dataset."""
    updates: int = 100_000
    """Gradient updates."""
    batch_size: int = 256
    """Transitions an update."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of every network's hidden layers."""
    chunk_horizon: int = 1
    """Actions that the policy decides on at once."""
    episode_weighting: EpisodeWeighting = "uniform"
    """Which episodes are learnt from: "uniform" all alike, "success" successful ones, "best" those with the greatest
    returns, "return" and "advantage" the better the likelier."""
    episode_temperature: float = 0.1
    """Of the weightings "return" and "advantage": the smaller, the more the best episodes stand out."""
    best_share: float = 0.1
    """Share of the episodes that the weighting "best" keeps."""
    least_spread: float = 0.05
    """The weightings "return" and "advantage" are declined where returns spread less, as a share of the greatest."""
    suite: str | None = None
    """Suite to evaluate in; null for no evaluation."""
    evaluate_every: int = 0
    """Updates between evaluations in `suite`; 0 for one at the end."""
    evaluation_tasks: list[int] | None = None
    """Task ids to evaluate on; null takes `tasks`, or all of the suite."""
    evaluation_episodes_per_task: int = 20
    """Episodes of each task in an evaluation."""
    controls: list[str] = field(default_factory=list)
    """What is trained and evaluated beside it, as it is but for the reward: "zero", "constant", "shuffled", "true" (of
    `true_reward`), imitation, "bc" and "bc_10", and "replay", without imagined rollouts. A finished run takes more
    with `resume=true`."""
    true_reward: str = REWARD
    """Column of the reward that the control "true" is trained on, of which relabelling left the dataset's own."""
    monitor: Literal["none", "bisimulation"] = "none"
    """What is reported beside the losses: "bisimulation", whether states with equal future rewards lie together."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process."""
    checkpoint_every: int = 20_000
    """Updates between checkpoints."""
    keep_checkpoints: int | None = 2
    """Delete all but this many newest checkpoints; null keeps all."""
    log_every: int = 1000
    """Updates between lines of metrics.jsonl."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products of hidden layers: "auto" is bfloat16 where the hardware multiplies it."""
    compiled: bool | None = None
    """Compile the update; null where it pays and there is a C++ compiler."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""
    seed: int = 0
    """Determines weights and batches."""
    logger: Logger = "tensorboard"
    """Where metrics are shown beside `metrics.jsonl`: "tensorboard", or "wandb" as well (the extra `wandb`)."""
    resume: bool = False
    """Continue the run in `output` from its last checkpoint."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self)
        check.shared()
        check.at_least(1, "log_every")
        check.positive("episode_temperature")
        if self.camera is not None and self.encoder is None:
            raise ReflexError(f"camera={self.camera} has no use without an encoder; set encoder=pixels or another")
        if self.evaluate_every and self.suite is None:
            raise ReflexError(f"evaluate_every is {self.evaluate_every} and no suite is named; set suite=..., or 0")
        known = known_controls(self.training_settings(), self.imagine)
        if strange := [name for name in self.controls if name not in known]:
            raise ReflexError(f"controls has {strange[0]!r}; there are {', '.join(known)}")
        if self.controls and self.suite is None:
            raise ReflexError(f"controls={self.controls} are compared by their success, and no suite is named")
        if self.goals.method != "none":
            self._check_goals()

    def _check_goals(self) -> None:
        """What else goes by the rewards of a dataset, which goals replace."""
        if is_minari(self.dataset):
            raise ReflexError(f"{self.dataset} is in Minari's format, which names no tasks; leave goals.method out")
        for name, allowed in (
            ("reward", (REWARD,)),
            ("reward_scale", ("none", "nonpositive", "values")),
            ("ends", ("success",)),
            ("episode_weighting", ("uniform", "success")),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ReflexError(
                    f"{name}={value} goes by a dataset's rewards, and goals.method={self.goals.method} does without; "
                    f"set {name} to {' or '.join(allowed)}"
                )
        if is_model_based(self.training_settings(), self.imagine):
            raise ReflexError(
                f"goals.method={self.goals.method} and imagined rollouts do not go together; leave one out"
            )
        if self.monitor != "none":
            raise ReflexError(f"monitor={self.monitor} compares rewards, and with goals there are none; leave it out")
        if strange := [name for name in self.controls if name != "bc"]:
            raise ReflexError(f"controls has {strange[0]!r}, which is of rewards; with goals there is bc")

    def training_settings(self) -> OfflineSettings:
        """What the trainer is told. Raises `ReflexError` naming a wrong field."""
        kind = load_class(self.algo, Algorithm, ALGORITHMS, "algo")
        key = settings_key(self.algo)
        if strange := [name for name in self.settings if name != key]:
            raise ReflexError(f"settings.{strange[0]} has no use: algo is {self.algo}; write settings.{key}")
        algorithm = settings_of(kind, self.algo, self.settings, "settings")
        same = {entry.name for entry in dataclasses.fields(OfflineSettings)} - {
            "algorithm", "hidden", "weighting", "weighting_temperature"
        }  # fmt: skip
        return OfflineSettings(
            algorithm=algorithm,
            hidden=tuple(self.hidden),
            weighting=self.episode_weighting,
            weighting_temperature=self.episode_temperature,
            **{name: getattr(self, name) for name in same},
        )


def train_from_logs(config: OfflineConfig, on_evaluate: Evaluator | None = None) -> dict[str, Any]:
    """Train and return the summary; checkpoints hold the policy in `checkpoints/<updates>/policy`.

    `on_evaluate` replaces the evaluation in `suite`. Raises `ReflexError` for settings, datasets and checkpoints that
    cannot be used. Ctrl-C leaves a checkpoint of the last whole update.
    """
    set_threads(config.threads)
    with RunFolder(config.output, config.resume, config.logger) as run:
        restart = run.restart_point(dataclasses.asdict(config), _MAY_CHANGE)
        run.write_config(dataclasses.asdict(config))  # first, since what is imagined below belongs to these settings
        transitions = _read(config)
        trainer = new_trainer(
            transitions, config.training_settings(), config.imagine, config.seed, run_name(Path(config.output)),
            run.path / IMAGINED_FOLDER,
        )  # fmt: skip
        if restart is not None:
            trainer.load(restart)
        run.truncate_after(trainer.done if restart is not None else -1)
        evaluate = on_evaluate or _suite_evaluator(config, trainer.policy())
        _train(trainer, run, config, evaluate, _monitor(config, transitions))
        if (advantages := trainer.advantages()) is not None:
            advantages.write(run.path / ADVANTAGES_FILE)
        _train_controls(run, config, transitions, evaluate)
        return _summarise(run, config, transitions, trainer)


def _read(config: OfflineConfig) -> Transitions:
    """The transitions that are learnt from, with goals beside them where there are to be."""
    without_rewards = config.goals.method != "none"
    reward = None if without_rewards else config.reward
    data = read_transitions(config.dataset, reward, config.tasks, config.encoder, config.camera, config.device)
    if not without_rewards:
        return data
    discount = config.training_settings().algorithm.discount
    ends = success_ends(data, read_instructions(config.dataset))
    chunks = chunk_transitions(data, config.chunk_horizon, discount)
    return with_goals(chunks, config.goals, discount, ends, derive_seed("goals", config.seed))


def _monitor(config: OfflineConfig, transitions: Transitions) -> Evaluator:
    """What is reported of a policy beside its losses."""
    if config.monitor == "none":
        return lambda policy: {}
    discount = config.training_settings().algorithm.discount
    scaled = scale_rewards(transitions, config.reward_scale, discount)
    return BisimulationMonitor(scaled, discount, derive_seed("bisimulation", config.seed)).metrics


def _train(
    trainer: OfflineTrainer, run: RunFolder, config: OfflineConfig, evaluate: Evaluator | None, monitor: Evaluator
) -> None:
    """Updates, with what is due after them; all of it is due at multiples of its period, and at the end."""
    started, first = time.perf_counter(), trainer.done
    evaluated = {line["step"] for line in run.read_metrics() if "eval/success_rate" in line} | {0}
    saved = first

    def is_due(every: int) -> bool:
        return trainer.done == config.updates or bool(every and trainer.done % every == 0)

    with progress_bar("offline RL", config.updates, first) as show:
        try:
            while True:
                if evaluate is not None and is_due(config.evaluate_every) and trainer.done not in evaluated:
                    run.append_metrics(trainer.done, evaluate(trainer.policy()))
                if trainer.done > saved and is_due(config.checkpoint_every):
                    run.save_checkpoint(trainer.done, trainer.save, keep=config.keep_checkpoints)
                    saved = trainer.done
                if trainer.done == config.updates:
                    break
                with held_interrupts():
                    metrics = trainer.run(_until_something_is_due(trainer.done, config))
                    if is_due(config.log_every):
                        seconds = (time.perf_counter() - started) / (trainer.done - first)
                        seen = monitor(trainer.policy())
                        run.append_metrics(trainer.done, metrics | seen | {"time/update_seconds": seconds})
                show(trainer.done, f"policy loss {metrics['train/loss/policy']:.3f}")
        except KeyboardInterrupt:
            if trainer.done > saved:
                run.save_checkpoint(trainer.done, trainer.save, keep=config.keep_checkpoints)
            raise


def _train_controls(run: RunFolder, config: OfflineConfig, data: Transitions, evaluate: Evaluator | None) -> None:
    """Train and evaluate the controls that `CONTROLS_FILE` has not; each is written as soon as it is known."""
    known = _known_controls(run)
    for name in config.controls:
        if name in known or evaluate is None:
            continue
        truth = None
        if name == TRUE:
            truth = _read(dataclasses.replace(config, reward=config.true_reward)).rewards
        changed = as_control(name, data, config.training_settings(), config.seed, truth)
        trainer = control_trainer(name, *changed, config.imagine, config.seed)
        with progress_bar(f"control {name}", config.updates, 0) as show:
            while trainer.done < config.updates:
                metrics = trainer.run(min(100, config.updates - trainer.done))
                show(trainer.done, f"policy loss {metrics['train/loss/policy']:.3f}")
        known[name] = evaluate(trainer.policy())
        write_json(run.path / CONTROLS_FILE, known)


def _until_something_is_due(done: int, config: OfflineConfig) -> int:
    """Updates until the next line, evaluation, checkpoint or the end; no more than an interrupt can wait for."""
    periods = [config.log_every, config.checkpoint_every, config.evaluate_every or config.updates]
    return min(100, config.updates - done, *(every - done % every for every in periods))


def _suite_evaluator(config: OfflineConfig, policy: GaussianPolicy) -> Evaluator | None:
    """Success in the simulator; the pool lives for one evaluation, so that training has the cores to itself.

    Raises `ReflexError` now, and not after the updates, where the policy does not fit the suite.
    """
    if config.suite is None:
        return None
    from sim.pool import EnvironmentPool
    from sim.suites import get_suite
    from vla.evaluation.runner import evaluate

    name, suite = config.suite, get_suite(config.suite)
    tasks = config.evaluation_tasks or config.tasks or list(suite.task_ids)
    with connected(policy, suite.embodiment):
        pass

    def evaluate_policy(policy: GaussianPolicy) -> dict[str, float]:
        slots = min(32, len(tasks) * config.evaluation_episodes_per_task)
        with (
            EnvironmentPool(name, slots, worker_count(config.num_workers, slots)) as pool,
            connected(policy, suite.embodiment),
        ):
            result = evaluate(
                policy, suite, pool, tasks=tasks, episodes_per_task=config.evaluation_episodes_per_task,
                split="eval", seed=config.seed,
            )  # fmt: skip
        return {f"eval/{name}": float(value) for name, value in result.summary().items()}

    return evaluate_policy


def _summarise(
    run: RunFolder, config: OfflineConfig, transitions: Transitions, trainer: OfflineTrainer
) -> dict[str, Any]:
    lines = run.read_metrics()
    trained: dict[str, Any] = next((line for line in reversed(lines) if "train/loss/policy" in line), {})
    evaluated: dict[str, Any] = next((line for line in reversed(lines) if "eval/success_rate" in line), {})
    starts = transitions.episode_starts()
    summary: dict[str, Any] = {
        "algorithm": config.algo,
        "reward": config.reward,
        "updates": config.updates,
        "transitions": len(transitions),
        "episodes": len(starts),
        "successful_episodes": int(transitions.successes[starts].sum()),
        "return_spread": trainer.weights.spread,
        "weighting": "uniform" if trainer.weights.weights is None else config.episode_weighting,
        "weighting_declined": trainer.weights.declined,
        "policy": str(run.path / "checkpoints" / str(config.updates) / "policy"),
        "threads": torch.get_num_threads(),
        **{key.removeprefix("train/"): value for key, value in trained.items() if key.startswith("train/")},
        **{key.removeprefix("eval/"): value for key, value in evaluated.items() if key.startswith("eval/")},
        **{key: value for key, value in trained.items() if key.startswith("bisimulation/")},
        "controls": {name: metrics["eval/success_rate"] for name, metrics in _known_controls(run).items()},
    }
    summary["episodes"], summary["eval_episodes"] = len(starts), evaluated.get("eval/episodes")
    run.write_summary(summary)
    return summary


def _known_controls(run: RunFolder) -> dict[str, Any]:
    """The metrics of each control that was trained; empty where none was."""
    path = run.path / CONTROLS_FILE
    return read_json_object(path) if path.exists() else {}
