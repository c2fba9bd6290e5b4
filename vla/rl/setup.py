"""Opening a run: suite, tasks, policy and optimiser (new or from a checkpoint), reward model; and checks before it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch

from sim.contract import Suite
from sim.pool import EnvironmentPool
from vla.policies.protocol import PolicySpec
from vla.rewards.embeddings import WITHOUT_PICTURES, FrameEmbedding, PolicyEmbedding, RolloutEmbedding
from vla.rewards.models import BinaryReward, CalibratedReward, RewardModel, SiirlReward, SrpoReward
from vla.rewards.success_bank import SuccessBank
from vla.rl.averaging import WeightAverage
from vla.rl.batch import TrainablePolicy
from vla.rl.config import ConfigError, TrainConfig
from vla.rl.critic import Critic
from vla.rl.encoder import demonstration_rollouts, train_encoder
from vla.rl.implicit_reward import FOLDER as IMPLICIT_FOLDER
from vla.rl.implicit_reward import ImplicitReward
from vla.rl.replay import Replay
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
from vla.run.run_folder import RunFolder

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


def open_state(
    run: RunFolder, config: TrainConfig, load_policy: PolicyLoader, horizons: Mapping[int, int]
) -> TrainingState:
    """The run's newest checkpoint when resuming and there is one, else the starting policy and nothing done.

    `horizons` are the control steps of each task's episodes. Lines of metrics and episodes past that point are dropped.

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

    def implicit(source: str) -> ImplicitReward | None:
        return ImplicitReward(load(source), config.algo) if config.algo.step_credit == "implicit" else None

    critic = Critic(horizons, config.algo.critic_window) if config.algo.advantage == "critic" else None
    bank = SuccessBank(config.algo.success_bank, config.algo.success_age) if config.algo.success_bank else None
    replay = Replay(config.algo.replay) if config.algo.replay else None
    last = run.last_checkpoint() if config.resume else None
    _drop_lines_after(run, -1 if last is None else last[0])
    if last is None:
        policy = load(config.policy)
        begun = make_optimiser(policy, config.algo), Progress(), average(policy), critic, implicit(config.policy), bank
        return TrainingState(policy, *begun, replay)
    iteration, folder = last
    policy = load(str(folder / POLICY_FOLDER))
    optimiser = make_optimiser(policy, config.algo)
    load_optimiser(folder, optimiser, torch.device(config.device))
    averaged = average(policy)
    if averaged is not None:
        averaged.load_weights(folder)
    if critic is not None:
        critic.load(folder)
    judge = implicit(str(folder / IMPLICIT_FOLDER))
    if judge is not None:
        judge.load_optimiser(folder)
    if bank is not None:
        bank.load(folder)
    if replay is not None:
        replay.load(folder)
    restored = optimiser, load_progress(folder), averaged, critic, judge, bank, replay
    return TrainingState(policy, *restored, saved_iteration=iteration)


def _drop_lines_after(run: RunFolder, iteration: int) -> None:
    """Drop lines of later iterations, and the episodes of an evaluation whose result was never written."""
    run.truncate_after(iteration)
    evaluated = any(line["step"] == iteration and "eval/success_rate" in line for line in run.read_metrics())
    episodes = run.read_episodes()
    kept = [line for line in episodes if evaluated or line["step"] != iteration or line["split"] != "eval"]
    if len(kept) < len(episodes):
        run.replace_episodes(kept)


def open_reference(run: RunFolder, config: TrainConfig, load_policy: PolicyLoader) -> TrainablePolicy | None:
    """The frozen starting policy for a KL penalty or "pacs", kept in the run folder; None where neither needs it."""
    if config.algo.kl_coefficient == 0 and config.algo.advantage != "pacs":
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
    load_policy: PolicyLoader,
    *,
    fresh: bool,
    log: Callable[[str], None],
) -> RewardModel:
    """The reward of `config.algo.reward`.

    What the run makes for itself, a "jepa" encoder or the starting policy as encoder, is written to the run folder when
    the run is fresh and read from there when it resumes. Raises `WorldModelError` when an encoder cannot be loaded or
    trained.
    """
    algo, folder = config.algo, run.path / ENCODER_FOLDER
    if algo.reward == "binary":
        return BinaryReward()
    demonstrations = demonstration_rollouts(config, tasks, state.policy.spec.execute_steps)
    if config.encoder == "jepa" and fresh:
        train_encoder(config, state.policy, pool, suite, tasks, state.progress, folder, demonstrations, log)
    if config.encoder == "policy" and fresh:
        state.policy.save_pretrained(folder)
    embedding = _open_embedding(config, str(folder), load_policy)
    if algo.reward == "siirl":
        return SiirlReward(embedding, bank=state.bank)
    if algo.reward == "calibrated":
        return CalibratedReward(embedding, algo.alpha, demonstrations, state.bank)
    return SrpoReward(embedding, algo.alpha, algo.metric, demonstrations, state.bank)


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
