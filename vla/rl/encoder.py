"""The encoder of the SRPO reward: loaded, or trained for this run on its first rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sim.contract import Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from vla.data.episode import Episode
from vla.rewards.embeddings import rollout_clip, thinned
from vla.rl.collection import play_training_rollouts
from vla.rl.config import TrainConfig
from vla.rl.sampling import stream_generator
from vla.rl.state import ENCODER_FOLDER, TrainingState
from vla.rollout.requests import RolloutRequest
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import RunFolder
from vla.run.seeding import derive_seed


def prepare_encoder(
    run: RunFolder,
    config: TrainConfig,
    state: TrainingState,
    pool: EnvironmentPool,
    suite: Suite,
    tasks: Sequence[int],
    demonstrations: Mapping[int, Sequence[Episode]],
    log: Callable[[str], None],
) -> None:
    """Write what a fresh run makes for itself into its folder: a "jepa" encoder, or the starting policy as encoder.

    A "jepa" encoder is trained on rollouts of the starting policy, which count as training episodes, and on the
    demonstrations by task. Raises `world_models.errors.WorldModelError` when its latents collapse; more rollouts
    (`encoder_episodes_per_task`) or `encoder=pixels` are the ways out.
    """
    folder = run.path / ENCODER_FOLDER
    if config.encoder == "policy":
        state.policy.save_pretrained(folder)
    if config.encoder != "jepa":
        return
    from world_models.jepa import JepaConfig, train_jepa

    frames = config.algo.reward_frames
    clips = [rollout_clip(episode, frames) for of_task in demonstrations.values() for episode in of_task]

    requests = encoder_requests(config, suite, tasks)
    counted = "" if config.max_minutes is None else f"; its time counts towards max_minutes={config.max_minutes:g}"
    log(f"training the reward's encoder on {len(requests)} rollouts and {len(clips)} demonstrations{counted}")
    with progress_bar("rollouts for the encoder", len(requests)) as show:

        def keep(_: int, episode: Episode) -> None:
            clips.append(rollout_clip(episode, frames))
            state.counters.episodes += 1
            state.counters.control_steps += episode.length
            show(state.counters.episodes, "")

        play_training_rollouts(state.policy, pool, suite, requests, config.algo, keep)
    jepa = JepaConfig(steps=config.encoder_steps, seed=derive_seed("jepa", config.seed) % 2**31, device=config.device)
    with progress_bar("encoder", config.encoder_steps) as show_step:
        _, telemetry = train_jepa(clips, jepa, folder, lambda step, _, now: show_step(step, f"loss {now['loss']:.3f}"))
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


def demonstration_rollouts(config: TrainConfig, tasks: Sequence[int], stride: int) -> dict[int, list[Episode]]:
    """Each task's demonstrations, with observations as far apart as rollouts have them; none without any."""
    if config.demonstrations is None:
        return {}
    from vla.data.lerobot_reader import read_demonstrations

    found: dict[int, list[Episode]] = {task: [] for task in tasks}
    for episode in read_demonstrations(config.demonstrations, list(tasks), None):
        found[episode.task_id].append(thinned(episode, config.algo.frame_stride or stride))
    return found
