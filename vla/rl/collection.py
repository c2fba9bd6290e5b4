"""Collecting an iteration's batch: rollouts, rewards, dynamic sampling, advantages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sim.contract import Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from vla.data.episode import Episode
from vla.rewards.embedding_queue import EmbeddingQueue
from vla.rewards.models import RewardModel, Scores
from vla.rewards.modes import paid_without_success
from vla.rl.advantages import group_spread
from vla.rl.batch import Batch, Rollout, TrainablePolicy
from vla.rl.config import AlgoConfig
from vla.rl.credit import Judges, set_advantages
from vla.rl.demonstration_starts import Lead, with_demonstration_starts
from vla.rl.sampler import GroupRequest, Start, choose_groups
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts

MINIMUM_SPREAD = 1e-4
"""Rewards of a group that differ by less count as equal: such a group teaches nothing."""

FRAME_BUDGET = 1 << 30
"""Bytes of rendered frames that may be in memory together; what the update keeps is at the network's resolution."""


def collect_batch(
    policy: TrainablePolicy,
    pool: EnvironmentPool,
    suite: Suite,
    reward: RewardModel,
    init_states: Mapping[int, int],
    algo: AlgoConfig,
    *,
    seed: int,
    iteration: int,
    success_rates: Mapping[Start, float] | None = None,
    leads: Sequence[Lead] = (),
    judges: Judges | None = None,
    embed_beside: bool = False,
) -> Batch:
    """Roll out groups until `groups_per_iteration` of them have different rewards, or a limit is reached.

    Dynamic sampling: groups whose rewards are all equal carry no gradient and are replaced by groups from other initial
    states. It ends after `max_sampling_rounds`, or when no initial state is left, so it never loops for ever. Rewards
    are scored over everything rolled out in the iteration: under SRPO the successes of a dropped group still are
    references, and a group without any success is kept when another group of its task succeeded.

    With a critic among the `judges` every group teaches, since it tells decisions apart where rewards are equal; none
    is replaced.

    With `embed_beside` rollouts are embedded while others are played; see `EmbeddingQueue`.
    """
    judges = judges or Judges()
    batch = Batch()
    starts: set[Start] = set()
    seconds = {"rollout": 0.0, "encode": 0.0, "score": 0.0}
    kept, rounds = 0, 0
    scores = Scores(batch.rewards, {})
    most_rounds = algo.max_sampling_rounds if judges.critic is None else 1
    while rounds < most_rounds and kept < algo.groups_per_iteration:
        missing = algo.groups_per_iteration - kept
        requests = next_groups(init_states, missing, algo, seed, iteration, rounds, starts, success_rates or {}, leads)
        if not requests:
            break
        roll_out(policy, pool, suite, reward, requests, batch, algo, seconds, embed_beside)
        starts.update(request.start for request in requests)
        started = time.perf_counter()
        scores = _score(batch, reward, algo)
        seconds["score"] += time.perf_counter() - started
        kept = _wanted_groups(batch, scores.rewards, algo)
        if judges.critic is None:
            _release(batch, scores.rewards, reward.compares_rollouts)
        rounds += 1
    batch.rewards = scores.rewards
    judged = set_advantages(batch, policy, algo, judges, MINIMUM_SPREAD)
    described = batch_metrics(batch)
    batch.metrics = {
        **described,
        **judged,
        **scores.metrics,
        "groups/rounds": float(rounds),
        "groups/stalled": float(described["groups/kept"] < algo.groups_per_iteration),
        **{f"time/{part}_seconds": spent for part, spent in seconds.items()},
    }
    return batch


def _score(batch: Batch, reward: RewardModel, algo: AlgoConfig) -> Scores:
    scores = reward.score(np.stack(batch.embeddings), batch.successes, compared_with(batch, algo))
    if algo.pay_failures == "always":
        return scores
    return replace(scores, rewards=paid_without_success(scores.rewards, batch.successes, batch.groups))


def _wanted_groups(batch: Batch, rewards: NDArray[np.float32], algo: AlgoConfig) -> int:
    """How many groups count towards `groups_per_iteration`.

    Those that teach; where failures are paid without a success only, those of successes and failures: the others then
    come on top of what the same rollouts teach under GRPO.
    """
    telling = batch.successes.astype(np.float64) if algo.pay_failures == "without_success" else rewards
    return sum(spread >= MINIMUM_SPREAD for spread in group_spread(telling, batch.groups).values())


def next_groups(
    init_states: Mapping[int, int],
    count: int,
    algo: AlgoConfig,
    seed: int,
    iteration: int,
    sampling_round: int,
    exclude: Collection[Start],
    success_rates: Mapping[Start, float],
    leads: Sequence[Lead],
) -> list[GroupRequest]:
    """The groups of a sampling round: from initial states, and a share of them from along demonstrations."""
    requests = choose_groups(
        init_states,
        count,
        algo.group_size,
        seed=seed,
        iteration=iteration,
        sampling_round=sampling_round,
        exclude=exclude,
        sampling=algo.sampling,
        success_rates=success_rates,
    )
    return with_demonstration_starts(
        requests,
        leads,
        algo.demonstration_starts,
        success_rates,
        seed=seed,
        iteration=iteration,
        sampling_round=sampling_round,
    )


def compared_with(batch: Batch, algo: AlgoConfig) -> NDArray[np.int64]:
    """[N] which rollouts the reward compares: those of one number."""
    if algo.reference_scope == "task":
        return batch.task_ids
    if algo.reference_scope == "group":
        return np.array(batch.groups, dtype=np.int64)
    return np.zeros(len(batch.rollouts), dtype=np.int64)


def roll_out(
    policy: TrainablePolicy,
    pool: EnvironmentPool,
    suite: Suite,
    reward: RewardModel,
    requests: Sequence[GroupRequest],
    batch: Batch,
    algo: AlgoConfig,
    seconds: dict[str, float],
    embed_beside: bool,
) -> None:
    """Roll out groups and append them to the batch; frames are dropped as soon as a rollout is embedded."""
    wanted = [
        RolloutRequest(EpisodeRequest(group.task_id, "train", group.init_state_id, group.lead), seed)
        for group in requests
        for seed in group.seeds
    ]
    rollouts: dict[int, Rollout] = {}
    started = time.perf_counter()
    with EmbeddingQueue(reward, beside=embed_beside) as queue:

        def finished(index: int, episode: Episode) -> None:
            rollouts[index] = Rollout.from_episode(episode, policy)
            queue.add(index, episode)

        play_episodes(policy, pool, suite, wanted, algo, finished)
        embeddings = queue.results()
    seconds["encode"] += queue.seconds
    seconds["rollout"] += time.perf_counter() - started - queue.seconds
    first_group = batch.groups[-1] + 1 if batch.groups else 0
    for index, item in enumerate(wanted):
        rollouts[index].lead_steps = len(item.request.lead)
    batch.rollouts.extend(rollouts[index] for index in range(len(wanted)))
    batch.embeddings.extend(embeddings[index] for index in range(len(wanted)))
    batch.groups.extend(first_group + number for number, group in enumerate(requests) for _ in group.seeds)


def batch_metrics(batch: Batch) -> dict[str, float]:
    """What the batch looked like, before any update. A group is kept when it teaches: some advantage is not 0."""
    successes, tasks, groups = batch.successes, batch.task_ids, np.array(batch.groups)
    seen = np.unique(groups).tolist()
    teaches = np.array([np.any(advantages) for advantages in batch.decision_advantages], dtype=bool)
    kept = [group for group in seen if teaches[groups == group].any()]
    share = {group: float(successes[groups == group].mean()) for group in seen}
    failures = ~successes
    steps = np.array([rollout.record["steps"] for rollout in batch.rollouts])
    return {
        "train/reward": float(batch.rewards.mean()),
        "train/success_rate": float(successes.mean()),
        "train/steps": float(steps.mean()),
        **{f"train/task_{task}": float(successes[tasks == task].mean()) for task in np.unique(tasks).tolist()},
        "train/episodes": float(len(batch.rollouts)),
        "groups/kept": float(len(kept)),
        "groups/dropped": float(len(seen) - len(kept)),
        "groups/all_succeeded": float(sum(value == 1 for value in share.values())),
        "groups/all_failed": float(sum(value == 0 for value in share.values())),
        "groups/kept_without_success": float(sum(share[group] == 0 for group in kept)),
        "advantage/positive_failures": float((batch.advantages[failures] > 0).mean()) if failures.any() else 0.0,
    }


def play_episodes(
    policy: TrainablePolicy,
    pool: EnvironmentPool,
    suite: Suite,
    wanted: Sequence[RolloutRequest],
    algo: AlgoConfig,
    finished: Callable[[int, Episode], None],
) -> None:
    """Play episodes in portions whose frames fit `FRAME_BUDGET`; usually that is one portion."""
    horizon = max(suite.horizon(task) for task in {item.request.task_id for item in wanted})
    frames = horizon // min(algo.frame_stride or horizon, policy.spec.execute_steps) + 2
    portion = max(pool.num_slots, FRAME_BUDGET // (frames * 2 * 3 * suite.image_size**2))
    for first in range(0, len(wanted), portion):
        collect_rollouts(
            policy,
            pool,
            suite,
            wanted[first : first + portion],
            mode="sample",
            temperature=algo.temperature,
            token_noise=algo.token_noise,
            chunk_correlation=algo.chunk_correlation,
            on_episode=partial(_finished_in_portion, finished, first),
            frame_stride=algo.frame_stride,
            keep_inputs=True,
        )


def _finished_in_portion(finished: Callable[[int, Episode], None], first: int, index: int, episode: Episode) -> None:
    finished(first + index, episode)


def _release(batch: Batch, rewards: NDArray[np.float32], compares_rollouts: bool) -> None:
    """Drop the inputs of rollouts that can never be learnt from, whatever the next sampling round brings.

    A group of successes only has equal rewards under every reward; a group of failures only may still gain a spread
    where rewards compare rollouts.
    """
    successes, groups = batch.successes, np.array(batch.groups)
    for group, spread in group_spread(rewards, groups).items():
        members = np.flatnonzero(groups == group)
        if spread < MINIMUM_SPREAD and (successes[members].all() or not compares_rollouts):
            for member in members:
                batch.rollouts[member].inputs = None
