"""Opening a run: suite, tasks, policy and optimiser (new or from a checkpoint), reward model; and checks before it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from sim.contract import Suite
from sim.pool import EnvironmentPool
from vla.policies.protocol import PolicySpec
from vla.rl.averaging import WeightAverage
from vla.rl.batch import TrainablePolicy
from vla.rl.config import ConfigError, TrainConfig
from vla.rl.encoder import demonstration_clips, train_encoder
from vla.rl.rewards import BinaryReward, CalibratedReward, RewardModel, SiirlReward, SrpoReward
from vla.rl.state import (
    ENCODER_FOLDER,
    POLICY_FOLDER,
    REFERENCE_FOLDER,
    Progress,
    TrainingState,
    check_same_run,
    load_optimiser,
    load_progress,
)
from vla.rl.update import make_optimiser
from vla.training.run_folder import RunFolder

PolicyLoader = Callable[[str, str], TrainablePolicy]


def make_suite(factory: str, config: TrainConfig) -> Suite:
    """The suite that the import path `factory` makes. Raises `EnvironmentRequestError` for an unknown name."""
    module, _, name = factory.partition(":")
    suite: Suite = getattr(importlib.import_module(module), name)(config.suite, config.image_size)
    return suite


def chosen_tasks(config: TrainConfig, suite: Suite) -> list[int]:
    """The tasks to train on. Raises `ConfigError` for an unknown task or more evaluation states than there are."""
    tasks = list(suite.task_ids) if config.tasks is None else list(config.tasks)
    unknown = [task for task in tasks if task not in suite.task_ids]
    if unknown:
        raise ConfigError(
            f"tasks names {unknown}, which suite {suite.name} does not have; its tasks are "
            f"{min(suite.task_ids)} to {max(suite.task_ids)}"
        )
    if config.evaluate_every:
        available = min(suite.num_init_states(task, "eval") for task in tasks)
        if config.evaluation_episodes_per_task > available:
            raise ConfigError(
                f"evaluation_episodes_per_task is {config.evaluation_episodes_per_task}; suite {suite.name} has "
                f"{available} held-out initial states per task, set it to at most that"
            )
    return tasks


def check_frame_memory(config: TrainConfig, spec: PolicySpec, suite: Suite, tasks: Sequence[int]) -> None:
    """Refuse a run whose batches may not fit in memory, with the arithmetic. Raises `ConfigError`."""
    algo = config.algo
    decisions = math.ceil(max(suite.horizon(task) for task in tasks) / spec.execute_steps)
    rollouts = algo.groups_per_iteration * algo.group_size * algo.max_sampling_rounds
    size = rollouts * decisions * len(spec.cameras) * 3 * spec.image_size**2
    if size > config.max_frame_gigabytes * 1e9:
        raise ConfigError(
            f"one iteration may hold {size / 1e9:.1f} GB of frames ({rollouts} rollouts x {decisions} decisions x "
            f"{len(spec.cameras)} cameras x {spec.image_size}^2 pixels), more than max_frame_gigabytes="
            f"{config.max_frame_gigabytes:g}; lower algo.groups_per_iteration or algo.max_sampling_rounds, or raise it"
        )


def open_state(run: RunFolder, config: TrainConfig, load_policy: PolicyLoader) -> TrainingState:
    """The run's newest checkpoint when resuming and there is one, else the starting policy and nothing done.

    Lines of metrics and episodes past that point are dropped.

    Raises:
        ReflexError: the policy or checkpoint cannot be read, or the run was started with other settings.
    """
    if config.resume:
        check_same_run(run, asdict(config))

    def load(source: str) -> TrainablePolicy:
        policy = load_policy(source, config.device)
        policy.set_precision(config.precision)
        if config.algo.freeze_vision:
            policy.freeze_vision()
        return policy

    def average(policy: TrainablePolicy) -> WeightAverage | None:
        decay = config.algo.average_decay
        return WeightAverage(policy.parameters(), decay) if decay else None

    last = run.last_checkpoint() if config.resume else None
    _drop_lines_after(run, -1 if last is None else last[0])
    if last is None:
        policy = load(config.policy)
        return TrainingState(policy, make_optimiser(policy, config.algo), Progress(), average(policy))
    iteration, folder = last
    policy = load(str(folder / POLICY_FOLDER))
    optimiser = make_optimiser(policy, config.algo)
    load_optimiser(folder, optimiser, torch.device(config.device))
    averaged = average(policy)
    if averaged is not None:
        averaged.load_weights(folder)
    return TrainingState(policy, optimiser, load_progress(folder), averaged, saved_iteration=iteration)


def _drop_lines_after(run: RunFolder, iteration: int) -> None:
    """Drop lines of later iterations, and the episodes of an evaluation whose result was never written."""
    run.truncate_after(iteration)
    evaluated = any(line["step"] == iteration and "eval/success_rate" in line for line in run.read_metrics())
    episodes = run.read_episodes()
    kept = [line for line in episodes if evaluated or line["step"] != iteration or line["split"] != "eval"]
    if len(kept) < len(episodes):
        run.replace_episodes(kept)


def open_reference(run: RunFolder, config: TrainConfig, load_policy: PolicyLoader) -> TrainablePolicy | None:
    """The frozen starting policy for the KL penalty, kept in the run folder; None without a penalty."""
    if config.algo.kl_coefficient == 0:
        return None
    folder = run.path / REFERENCE_FOLDER
    if run.last_checkpoint() is None:
        load_policy(config.policy, config.device).save_pretrained(folder)
    reference = load_policy(str(folder), config.device)
    reference.set_precision(config.precision)
    reference.eval()
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


def make_reward(
    config: TrainConfig,
    run: RunFolder,
    state: TrainingState,
    pool: EnvironmentPool,
    suite: Suite,
    tasks: Sequence[int],
    *,
    fresh: bool,
    log: Callable[[str], None],
) -> RewardModel:
    """The reward of `config.algo.reward`. A "jepa" encoder is trained when the run is fresh and loaded when it resumes.

    Raises `WorldModelError` when an encoder cannot be loaded or trained.
    """
    algo = config.algo
    if algo.reward == "binary":
        return BinaryReward()
    from world_models.encoders import load_encoder

    clips = demonstration_clips(config, tasks, state.policy.spec.execute_steps)
    name = config.encoder
    if name == "jepa":
        folder = run.path / ENCODER_FOLDER
        if fresh:
            train_encoder(config, state.policy, pool, suite, tasks, state.progress, folder, clips, log)
        name = str(folder)
    encoder = load_encoder(name, config.device)
    if algo.reward == "siirl":
        return SiirlReward(encoder, algo.reward_frames)
    if algo.reward == "calibrated":
        return CalibratedReward(encoder, algo.alpha, algo.reward_frames, clips)
    return SrpoReward(encoder, algo.alpha, algo.metric, algo.reward_frames, clips)
