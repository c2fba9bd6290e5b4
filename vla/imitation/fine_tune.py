"""`vla sft`: supervised fine-tuning of a policy on a LeRobot dataset, in a run folder, resumable step for step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from sim.embodiments import Embodiment
from vla.data.advantages import Advantages
from vla.data.conventions import check_actions
from vla.data.episode import Episode
from vla.data.feature_map import infer
from vla.errors import ReflexError
from vla.imitation.loop import ImitationConfig, ImitationTrainer, Metrics
from vla.imitation.samples import EpisodeSamples, actions_for, fit_normalisation
from vla.imitation.weighting import Weighting, critic_weights, sample_weights
from vla.policies import TinyPolicy, load_policy, reflex_tiny_config
from vla.policies.connect import connected, what_it_needs
from vla.policies.decisions import Decision, with_decision
from vla.policies.flow.configuration import FlowConfig
from vla.policies.normalisation import ScaleFrom
from vla.policies.protocol import AdaptablePolicy, Adapted, TrainablePolicy
from vla.run.cores import worker_count
from vla.run.devices import in_float32, resolve_device, set_threads
from vla.run.interrupts import held_interrupts
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import Logger, RunFolder, dated_folder, run_name
from vla.run.settings import Checks

SCRATCH = "scratch"
"""Policy name that means a tiny policy with random weights."""

Evaluator = Callable[[TrainablePolicy, int], Metrics]
"""Called with the policy and the steps done; returns metrics such as `eval/success_rate`."""

_MAY_CHANGE = frozenset(
    {
        "output",
        "resume",
        "device",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "num_workers",
        "threads",
        "logger",
    }
)


@dataclass(kw_only=True)
class FineTuneConfig(ImitationConfig):
    """Supervised fine-tuning of a policy on demonstrations."""

    dataset: str
    """LeRobot v3 dataset: a local folder or a hub id."""
    policy: str = "reflex-tiny"
    """Where to start: a policy folder, a run folder, a shipped name, or "scratch" for random weights."""
    decision: Decision | None = None
    """"tokens" or "flow": give the policy a head of that kind, fresh if it had none; null keeps the policy's own."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """The flow head that `decision=flow` makes."""
    output: str = field(default_factory=partial(dated_folder, "sft"))
    """Run folder to write; it has the date where none is given."""
    policy_id: str | None = None
    """Name written into episodes of the result; null takes the run folder's."""
    tasks: list[int] | None = None
    """Task ids to train on; null takes all in the dataset."""
    episodes_per_task: int | None = None
    """Demonstrations of each task (the dataset's first ones); null takes all."""
    weighting: Weighting = "none"
    """What moments of the dataset count: "none" all the same, "success" those of successful episodes, "progress" more
    where the next actions came nearer to the task's successes: failed rollouts teach what was right about them,
    "advantage" more where the critics of `advantages` say that the next actions were better than usual, "interventions"
    what a person did, as in HG-DAgger, "sirius" also the policy's actions, but for those before it."""
    weighting_temperature: float = 1.0
    """Under "progress" and "advantage": the smaller, the more the best moments stand out."""
    weighting_steps_before: int = 30
    """Under "sirius": control steps before a person took over that count nothing."""
    advantages: str | None = None
    """Run folder of `vla offline` on the same dataset, for weighting=advantage; its chunk_horizon should be that of the
    policy."""
    normalisation: Literal["keep", "dataset"] = "keep"
    """"keep" the base policy's action quantiles (so its action space stays), or take the dataset's."""
    normalisation_scale: ScaleFrom = "quantiles"
    """What a dataset's scale is taken by: "quantiles" (1 % and 99 %), or "mean_std" where numbers hardly ever move."""
    embodiment: Literal["policy", "dataset"] = "policy"
    """Whose robot the result is for: "policy" as the base policy is, which the dataset must fit, or "dataset": the
    weights that depend on cameras, state, action and chunk are then learnt anew where these differ. A policy from
    "scratch" is for the dataset's."""
    feature_map: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the dataset calls the policy's cameras and numbers, where names do not say, e.g.
    feature_map.cameras.wrist_image=gripper_cam."""
    chunk_horizon: int | None = None
    """Actions in a chunk; null for the base policy's. Another number makes what depends on it be learnt anew."""
    execute_steps: int | None = None
    """Actions of a chunk that are executed before the next decision; null for the base policy's."""
    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 48
    """Samples a step."""
    learning_rate: float = 6e-4
    """Peak of the schedule: linear warm-up, then cosine."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    evaluate_every: int = 0
    """Steps between evaluations in simulation; 0 for none."""
    evaluation_suite: str | None = None
    """Suite to evaluate in; null takes the dataset's."""
    evaluation_episodes_per_task: int = 10
    """Episodes of each task in an evaluation."""
    evaluation_split: Literal["train", "eval"] = "eval"
    """Initial states to evaluate from."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    keep_checkpoints: int | None = 2
    """Delete all but this many newest checkpoints; null keeps all."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""
    logger: Logger = "tensorboard"
    """Where metrics are shown beside `metrics.jsonl`: "tensorboard", or "wandb" as well (the extra `wandb`)."""
    resume: bool = False
    """Continue the run in `output` from its last checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        check.at_least(1, "log_every", "chunk_horizon", "execute_steps")
        check.positive("weighting_temperature")
        check.at_least(0, "weighting_steps_before")


def fine_tune(
    config: FineTuneConfig, on_evaluate: Evaluator | None = None, log: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Fine-tune and return the summary; checkpoints hold the policy in `checkpoints/<step>/policy`.

    `on_evaluate` replaces the evaluation in simulation that `evaluate_every` asks for; `log` gets what there is to say
    beside the progress bar. Raises `ReflexError` for settings, datasets and checkpoints that cannot be used. Ctrl-C
    leaves a checkpoint of the last whole step.
    """
    from vla.data.lerobot_reader import LeRobotDataset, choose_episodes, read_demonstrations

    device = resolve_device(config.device)
    set_threads(config.threads)
    known = _read_advantages(config)
    with RunFolder(config.output, config.resume, config.logger) as run:
        restart = run.restart_point(dataclasses.asdict(config), _MAY_CHANGE)
        dataset = LeRobotDataset(config.dataset)
        opened = open_policy(config, dataset.embodiment, restart, device)
        if opened.fresh and restart is None:
            (log or Console(soft_wrap=True, highlight=False).print)(opened.describe())
        policy = opened.policy
        cameras = policy.feature_map.cameras_to_read(policy.spec.embodiment)
        episodes = read_demonstrations(dataset, config.tasks, config.episodes_per_task, cameras=cameras)
        scale_actions(config, policy, episodes)
        # Weights are the starting policy's, also after a resume, so that a resumed run is the one that was begun.
        judge = policy
        if restart is not None and config.weighting == "progress":
            judge = open_policy(config, dataset.embodiment, None, device).policy
            scale_actions(config, judge, episodes)
        weights = sample_weights(
            judge, episodes, config.weighting, config.weighting_temperature, config.weighting_steps_before
        )
        if known is not None:
            indices = choose_episodes(dataset, config.tasks, config.episodes_per_task)
            weights = critic_weights(known, indices, episodes, config.weighting_temperature)
        samples = EpisodeSamples(policy, episodes, weights)
        trainer = ImitationTrainer(policy, samples, config)
        if restart is not None:
            trainer.load(restart)
        run.truncate_after(trainer.steps_done if restart is not None else -1)
        run.write_config(dataclasses.asdict(config))
        evaluate = on_evaluate or _simulation_evaluator(config, episodes, policy)
        _train(trainer, run, config, evaluate)
        return _summarise(run, config, episodes, len(samples))


def _read_advantages(config: FineTuneConfig) -> Advantages | None:
    """What critics say of the dataset, where samples are weighed by it. Raises `ReflexError` for half a request."""
    if (config.weighting == "advantage") != (config.advantages is not None):
        raise ReflexError(
            f"weighting is {config.weighting} and advantages is {config.advantages}; weighting=advantage needs "
            "advantages=, the run folder of vla offline, and nothing else uses it"
        )
    return None if config.advantages is None else Advantages.read(Path(config.advantages))


def scale_actions(config: FineTuneConfig, policy: TrainablePolicy, episodes: Sequence[Episode]) -> None:
    """Check that the actions can mean what the base policy's do, and take their scale where the policy has none.

    Raises `ReflexError` for actions in other units, or where there is no episode.
    """
    if not episodes:
        raise ReflexError("no demonstrations to train on; check the dataset and the chosen tasks")
    if config.embodiment == "policy" and config.policy != SCRATCH:
        actions = np.concatenate([actions_for(policy, episode) for episode in episodes])
        check_actions(actions, policy.spec.embodiment, config.dataset)
    if config.normalisation == "dataset" or not policy.has_normalisation:
        fit_normalisation(policy, episodes, config.normalisation_scale)


def open_policy(config: FineTuneConfig, data: Embodiment, restart: Path | None, device: torch.device) -> Adapted:
    """The policy to train, which knows what the dataset calls its features: the base policy, or one made from it.

    Args:
        config: of the fine-tuning.
        data: the dataset's embodiment.
        restart: the checkpoint to go on from; None to begin.
        device: where it is.

    Raises:
        ReflexError: the policy cannot be read, does not fit the dataset, or cannot be made to.
    """
    if restart is not None:
        opened = Adapted(load_policy(restart, str(device)), (), ())
    else:
        torch.manual_seed(config.seed)
        opened = _base_policy(config, data, device)
        opened.policy.policy_id = config.policy_id or run_name(Path(config.output))
    opened.policy.feature_map = infer(what_it_needs(opened.policy.spec), data, config.feature_map)
    return opened


def _base_policy(config: FineTuneConfig, data: Embodiment, device: torch.device) -> Adapted:
    scratch = config.policy == SCRATCH
    base: TrainablePolicy = (
        TinyPolicy.from_config(reflex_tiny_config()).to(device) if scratch else load_policy(config.policy, str(device))
    )
    base = with_decision(base, config.decision, config.flow)
    own = base.spec.embodiment
    wanted = data if scratch or config.embodiment == "dataset" else own
    if wanted == own and config.chunk_horizon is None and config.execute_steps is None:
        return Adapted(base, (), ())
    if not isinstance(base, AdaptablePolicy):
        raise ReflexError(
            f"policy {config.policy} cannot be made one for another robot or chunk (its class has no `adapt`); leave "
            "out embodiment=dataset, chunk_horizon and execute_steps"
        )
    return base.adapt(wanted, chunk_horizon=config.chunk_horizon, execute_steps=config.execute_steps)


def _train(trainer: ImitationTrainer, run: RunFolder, config: FineTuneConfig, evaluate: Evaluator | None) -> None:
    started, first = time.perf_counter(), trainer.steps_done
    evaluated = {line["step"] for line in run.read_metrics() if "eval/success_rate" in line}
    saved = first

    def evaluate_and_save() -> None:
        nonlocal saved
        step = trainer.steps_done
        # also at the first pass after a resume: the run may have been stopped during this evaluation
        due = config.evaluate_every and step and step % config.evaluate_every == 0 and step not in evaluated
        if evaluate is not None and due:
            run.append_metrics(step, evaluate(trainer.policy, step))
        if step > saved and (step % config.checkpoint_every == 0 or step == config.steps):
            run.save_checkpoint(step, trainer.save, keep=config.keep_checkpoints)
            saved = step

    with progress_bar("fine-tuning", config.steps, first) as update:
        try:
            evaluate_and_save()
            while trainer.steps_done < config.steps:
                with held_interrupts():
                    metrics = trainer.step()
                    step = trainer.steps_done
                    if step % config.log_every == 0 or step == config.steps:
                        metrics["time/step_seconds"] = (time.perf_counter() - started) / (step - first)
                        run.append_metrics(step, metrics)
                evaluate_and_save()
                update(step, f"loss {metrics['train/loss']:.3f}")
        except KeyboardInterrupt:
            if trainer.steps_done > saved:
                run.save_checkpoint(trainer.steps_done, trainer.save, keep=config.keep_checkpoints)
            raise


def _simulation_evaluator(
    config: FineTuneConfig, episodes: Sequence[Episode], policy: TrainablePolicy
) -> Evaluator | None:
    """Success rate in the simulator; the pool lives for one evaluation, so that training has the cores to itself.

    Raises `ReflexError` now, and not after the first steps, where the policy does not fit the suite.
    """
    if not config.evaluate_every:
        return None
    from sim.suites import get_suite

    tasks = sorted({episode.task_id for episode in episodes})
    suite_name = config.evaluation_suite or episodes[0].suite
    with connected(policy, get_suite(suite_name).embodiment):
        pass

    def evaluate_policy(policy: TrainablePolicy, step: int) -> Metrics:
        from sim.pool import EnvironmentPool
        from sim.suites import get_suite
        from vla.evaluation.runner import evaluate

        suite = get_suite(suite_name)
        slots = min(32, len(tasks) * config.evaluation_episodes_per_task)
        with (
            EnvironmentPool(suite_name, slots, worker_count(config.num_workers, slots)) as pool,
            in_float32(policy, config.precision),
            connected(policy, suite.embodiment),
        ):
            result = evaluate(
                policy,
                suite,
                pool,
                tasks=tasks,
                episodes_per_task=config.evaluation_episodes_per_task,
                split=config.evaluation_split,
                seed=config.seed,
            )
        return {f"eval/{name}": float(value) for name, value in result.summary().items()}

    return evaluate_policy


def _summarise(run: RunFolder, config: FineTuneConfig, episodes: Sequence[Episode], samples: int) -> dict[str, Any]:
    lines = run.read_metrics()
    trained = [line for line in lines if "train/loss" in line]
    evaluated = [line for line in lines if "eval/success_rate" in line]
    summary: dict[str, Any] = {
        "steps": config.steps,
        "episodes": len(episodes),
        "samples": samples,
        "policy": str(run.path / "checkpoints" / str(config.steps) / "policy"),
        "final_loss": trained[-1]["train/loss"] if trained else None,
        "threads": torch.get_num_threads(),
    }
    if trained and "train/token_accuracy" in trained[-1]:
        summary["token_accuracy"] = trained[-1]["train/token_accuracy"]
    if evaluated:
        summary |= {key.removeprefix("eval/"): evaluated[-1][key] for key in evaluated[-1] if key.startswith("eval/")}
        summary["episodes"] = len(episodes)
        summary["eval_episodes"] = evaluated[-1].get("eval/episodes")
    run.write_summary(summary)
    return summary
