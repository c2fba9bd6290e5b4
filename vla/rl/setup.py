"""Opening a run: suite, policy and optimiser (new or from a checkpoint), reward and methods; and checks before it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from sim.contract import Suite
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.connect import connect
from vla.policies.protocol import PolicySpec, TrainablePolicy
from vla.rewards.embeddings import WITHOUT_PICTURES, FrameEmbedding, PolicyEmbedding, RolloutEmbedding
from vla.rewards.reward import Reward, RewardParts, make_reward, reward_class
from vla.rl.averaging import WeightAverage
from vla.rl.config import TrainConfig
from vla.rl.parts import TrainingParts
from vla.rl.state import (
    ENCODER_FOLDER,
    POLICY_FOLDER,
    REFERENCE_FOLDER,
    Counters,
    TrainingState,
    check_same_run,
    load_counters,
    load_optimiser,
)
from vla.rl.update import make_optimiser
from vla.run.run_folder import RunFolder, run_name

PolicyLoader = Callable[[str, str], TrainablePolicy]


def make_suite(factory: str, config: TrainConfig) -> Suite:
    """The suite that the import path `factory` makes. Raises `EnvironmentRequestError` for an unknown name."""
    module, _, name = factory.partition(":")
    suite: Suite = getattr(importlib.import_module(module), name)(config.suite, config.image_size)
    return suite


def policies_for(suite: Suite, load_policy: PolicyLoader, feature_map: Mapping[str, Any] | None = None) -> PolicyLoader:
    """Loads policies as `load_policy` does, and lets each act on the suite's robot, by a `feature_map` as of `connect`.

    It raises `ReflexError` showing both sides for a policy that does not fit the suite.
    """

    def load(source: str, device: str) -> TrainablePolicy:
        policy = load_policy(source, device)
        connect(policy, suite.embodiment, feature_map)
        return policy

    return load


def chosen_tasks(config: TrainConfig, suite: Suite) -> list[int]:
    """The tasks to train on. Raises `ReflexError` for an unknown task or more evaluation states than there are."""
    tasks = list(suite.task_ids) if config.tasks is None else list(config.tasks)
    unknown = [task for task in tasks if task not in suite.task_ids]
    if unknown:
        raise ReflexError(
            f"tasks names {unknown}, which suite {suite.name} does not have; its tasks are "
            f"{min(suite.task_ids)} to {max(suite.task_ids)}"
        )
    if config.evaluate_every:
        available = min(suite.num_init_states(task, "eval") for task in tasks)
        if config.evaluation_episodes_per_task > available:
            raise ReflexError(
                f"evaluation_episodes_per_task is {config.evaluation_episodes_per_task}; suite {suite.name} has "
                f"{available} held-out initial states per task, set it to at most that"
            )
    return tasks


def default_slots(suite: Suite) -> int:
    """Environments stepped together: fewer where each of them draws and holds large pictures."""
    return 32 if suite.embodiment.frame_bytes <= 2 * 3 * 128 * 128 else 8


def check_frame_memory(config: TrainConfig, spec: PolicySpec, suite: Suite, tasks: Sequence[int]) -> None:
    """Refuse a run whose batches may not fit in memory, with the arithmetic. Raises `ReflexError`."""
    algo = config.algo
    decisions = math.ceil(max(suite.horizon(task) for task in tasks) / spec.execute_steps)
    rollouts = algo.groups_per_iteration * algo.group_size * algo.max_sampling_rounds
    size = rollouts * decisions * spec.embodiment.frame_bytes
    if size > config.max_frame_gigabytes * 1e9:
        raise ReflexError(
            f"one iteration may hold {size / 1e9:.1f} GB of frames ({rollouts} rollouts x {decisions} decisions x "
            f"{spec.embodiment.frame_bytes} bytes of pictures), more than max_frame_gigabytes="
            f"{config.max_frame_gigabytes:g}; lower algo.groups_per_iteration or algo.max_sampling_rounds, or raise it"
        )


def load_trainable(config: TrainConfig, load_policy: PolicyLoader, source: str) -> TrainablePolicy:
    """A policy to be trained, from a folder or by name. Raises `ReflexError` when it cannot be read."""
    policy = load_policy(source, config.device)
    policy.set_precision(config.precision)
    if config.algo.freeze_vision:
        policy.freeze_vision()
    return policy


def open_state(run: RunFolder, config: TrainConfig, load_policy: PolicyLoader) -> TrainingState:
    """The run's newest checkpoint when resuming and there is one, else the starting policy and nothing done.

    Lines of metrics and episodes past that point are dropped.

    Raises:
        ReflexError: the policy or checkpoint cannot be read, or the run was started with other settings.
    """
    if config.resume:
        check_same_run(run, asdict(config))
    last = run.last_checkpoint() if config.resume else None
    _drop_lines_after(run, -1 if last is None else last[0])
    source = config.policy if last is None else str(last[1] / POLICY_FOLDER)
    policy = load_trainable(config, load_policy, source)
    if last is None:
        policy.policy_id = run_name(run.path)  # what episodes and reports call it from here on
    optimiser = make_optimiser(policy, config.algo)
    decay = config.algo.average_decay
    average = WeightAverage(policy.parameters(), decay) if decay else None
    if last is None:
        return TrainingState(policy, optimiser, Counters(), average)
    iteration, folder = last
    load_optimiser(folder, optimiser, torch.device(config.device))
    if average is not None:
        average.load_weights(folder)
    return TrainingState(policy, optimiser, load_counters(folder), average, saved_iteration=iteration)


def _drop_lines_after(run: RunFolder, iteration: int) -> None:
    """Drop lines of later iterations, and the episodes of an evaluation whose result was never written."""
    run.truncate_after(iteration)
    evaluated = any(line["step"] == iteration and "eval/success_rate" in line for line in run.read_metrics())
    episodes = run.read_episodes()
    kept = [line for line in episodes if evaluated or line["step"] != iteration or line["split"] != "eval"]
    if len(kept) < len(episodes):
        run.replace_episodes(kept)


def training_parts(
    run: RunFolder,
    config: TrainConfig,
    state: TrainingState,
    load_policy: PolicyLoader,
    horizons: Mapping[int, int],
    demonstrations: Mapping[int, Sequence[Episode]],
) -> TrainingParts:
    """What the run's estimator and variants may be made of; `horizons` are control steps by task."""

    @cache
    def reference() -> TrainablePolicy:
        """The frozen starting policy, kept in the run folder."""
        folder = run.path / REFERENCE_FOLDER
        if not folder.exists():
            load_policy(config.policy, config.device).save_pretrained(folder)
        policy = load_policy(str(folder), config.device)
        policy.set_precision(config.precision)
        policy.eval()
        for parameter in policy.parameters():
            parameter.requires_grad_(False)
        return policy

    return TrainingParts(
        algo=config.algo,
        policy=state.policy,
        horizons=horizons,
        seed=config.seed,
        averaged=state.averaged,
        start=config.policy,
        trainable=lambda source: load_trainable(config, load_policy, source),
        reference=reference,
        demonstrations=demonstrations,
    )


def open_reward(
    run: RunFolder,
    config: TrainConfig,
    load_policy: PolicyLoader,
    demonstrations: Mapping[int, Sequence[Episode]],
) -> Reward:
    """The reward of `config.algo.reward`; what the run made for itself is read from its folder.

    Raises `WorldModelError` when the encoder cannot be loaded.
    """
    embedding = None
    if reward_class(config.algo.reward).looks_at_rollouts:
        embedding = _open_embedding(config, str(run.path / ENCODER_FOLDER), load_policy)
    return make_reward(config.algo.reward, RewardParts(embedding, demonstrations, config.algo.settings))


def _open_embedding(config: TrainConfig, own: str, load_policy: PolicyLoader) -> RolloutEmbedding:
    """What `config.encoder` names; `own` is the folder of what the run made for itself."""
    frames = config.algo.reward_frames
    if config.encoder in WITHOUT_PICTURES:
        return WITHOUT_PICTURES[config.encoder](frames)
    if config.encoder == "policy":
        frozen = load_policy(own, config.device)
        frozen.set_precision(config.precision)
        frozen.eval()
        return PolicyEmbedding(frozen, frames, shares_vision=config.algo.freeze_vision)
    from world_models.encoders import load_encoder

    return FrameEmbedding(load_encoder(own if config.encoder == "jepa" else config.encoder, config.device), frames)
