"""The encoder of the SRPO reward: loaded, or trained for this run on its first rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.contract import Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from vla.data.episode import Episode
from vla.rl.batch import TrainablePolicy
from vla.rl.collection import play_episodes
from vla.rl.config import TrainConfig
from vla.rl.rewards import rollout_clip, spaced_frames
from vla.rl.rollout import RolloutRequest
from vla.rl.sampler import stream_generator
from vla.rl.state import Progress
from vla.training.seeding import derive_seed


def train_encoder(
    config: TrainConfig,
    policy: TrainablePolicy,
    pool: EnvironmentPool,
    suite: Suite,
    tasks: Sequence[int],
    progress: Progress,
    folder: Path,
    demonstrations: Mapping[int, list[NDArray[np.uint8]]],
    log: Callable[[str], None],
) -> None:
    """Train a small world model on rollouts of the starting policy and clips of demonstrations by task into `folder`.

    The rollouts count as training episodes in `progress`. Raises `world_models.errors.WorldModelError` when the latents
    collapse; more rollouts (`encoder_episodes_per_task`) or `encoder=pixels` are the ways out.
    """
    from world_models.jepa import JepaConfig, train_jepa

    clips = [clip for of_task in demonstrations.values() for clip in of_task]

    def keep(_: int, episode: Episode) -> None:
        clips.append(rollout_clip(episode, config.algo.reward_frames))
        progress.episodes += 1
        progress.control_steps += episode.length

    requests = encoder_requests(config, suite, tasks)
    log(f"training the reward's encoder on {len(requests)} rollouts and {len(clips)} demonstrations")
    play_episodes(policy, pool, suite, requests, config.algo, keep)
    jepa = JepaConfig(steps=config.encoder_steps, seed=derive_seed("jepa", config.seed) % 2**31, device=config.device)
    _, telemetry = train_jepa(clips, jepa, folder)
    log(
        f"encoder trained in {telemetry.seconds:.0f} s: latent deviation {telemetry.latent_deviation:.2f}, "
        f"effective rank {telemetry.effective_rank:.1f}, prediction error {telemetry.copy_ratio:.2f} of a copy's"
    )


def encoder_requests(config: TrainConfig, suite: Suite, tasks: Sequence[int]) -> list[RolloutRequest]:
    """`encoder_episodes_per_task` rollouts of each task from training states drawn at random."""
    generator = stream_generator("encoder", config.seed, 0)
    requests = []
    for task in tasks:
        states = generator.integers(suite.num_init_states(task, "train"), size=config.encoder_episodes_per_task)
        for number, state in enumerate(states.tolist()):
            seed = derive_seed("encoder", config.seed, task, number)
            requests.append(RolloutRequest(EpisodeRequest(task, "train", state), seed))
    return requests


def demonstration_clips(config: TrainConfig, tasks: Sequence[int], stride: int) -> dict[int, list[NDArray[np.uint8]]]:
    """Clips of each task's demonstrations, framed as rollouts are; none without `config.demonstrations`."""
    if config.demonstrations is None:
        return {}
    from vla.data.lerobot_reader import read_demonstrations

    clips: dict[int, list[NDArray[np.uint8]]] = {task: [] for task in tasks}
    for episode in read_demonstrations(config.demonstrations, list(tasks), None):
        last = len(episode.images) - 1
        frames = episode.images[sorted({*range(0, last, config.algo.frame_stride or stride), last})]
        clips[episode.task_id].append(spaced_frames(frames, config.algo.reward_frames))
    return clips
