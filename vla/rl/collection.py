"""Collecting an iteration's batch: rollouts, rewards, dynamic sampling, advantages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.contract import Suite
from sim.pool import EnvironmentPool, EpisodeRequest
from vla.data.episode import Episode
from vla.policies.protocol import TrainablePolicy
from vla.rewards.embedding_queue import EmbeddingQueue
from vla.rewards.reward import Reward, Scores
from vla.rl.advantages import MINIMUM_SPREAD, group_spread
from vla.rl.batch import Batch, Rollout
from vla.rl.config import AlgoConfig
from vla.rl.method import AdvantageEstimator, Variant
from vla.rl.sampling import GroupRequest, Start, choose_groups
from vla.rollout.pool_rollouts import play_rollouts
from vla.rollout.requests import RolloutRequest


@dataclass
class Collector:
    """Makes the batches of a run."""

    policy: TrainablePolicy
    pool: EnvironmentPool
    suite: Suite
    reward: Reward
    estimator: AdvantageEstimator
    algo: AlgoConfig
    init_states: Mapping[int, int]
    """How many training initial states each task has."""
    variants: Sequence[Variant] = ()
    seed: int = 0
    embed_beside: bool = False
    """Embed rollouts while others are played; see `EmbeddingQueue`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What the batch in the making took."""

    def collect(self, iteration: int, success_rates: Mapping[Start, float] | None = None) -> Batch:
        """Roll out groups until `groups_per_iteration` of them have different rewards, or a limit is reached.

        Dynamic sampling: groups whose rewards are all equal carry no gradient and are replaced by groups from other
        initial states. It ends after `max_sampling_rounds`, or when no initial state is left, so it never loops for
        ever. Rewards are scored over everything rolled out in the iteration: under SRPO the successes of a dropped
        group still are references, and a group without any success is kept when another group of its task succeeded.

        With an estimator that does not replace groups every group is trained on.

        `success_rates` are the shares of successes of each start's newest group.
        """
        algo, batch = self.algo, Batch()
        starts: set[Start] = set()
        self.seconds = {"rollout": 0.0, "encode": 0.0, "score": 0.0}
        kept, rounds = 0, 0
        scores = Scores(batch.rewards)
        most_rounds = algo.max_sampling_rounds if self.estimator.replaces_groups else 1
        while rounds < most_rounds and kept < algo.groups_per_iteration:
            missing = algo.groups_per_iteration - kept
            requests = self._next_groups(missing, iteration, rounds, starts, success_rates or {})
            if not requests:
                break
            self._roll_out(requests, batch)
            starts.update(request.start for request in requests)
            started = time.perf_counter()
            scores = self._score(batch)
            self.seconds["score"] += time.perf_counter() - started
            telling = scores.rewards if scores.telling is None else scores.telling
            kept = sum(spread >= MINIMUM_SPREAD for spread in group_spread(telling, batch.groups).values())
            if self.estimator.replaces_groups:
                _release(batch, scores.rewards, self.reward.compares_rollouts)
            rounds += 1
        batch.rewards = scores.rewards
        judged = set_advantages(batch, self.estimator, self.variants)
        described = batch_metrics(batch)
        batch.metrics = {
            **described,
            **judged,
            **scores.metrics,
            "groups/rounds": float(rounds),
            "groups/stalled": float(described["groups/kept"] < algo.groups_per_iteration),
            **{f"time/{part}_seconds": spent for part, spent in self.seconds.items()},
        }
        return batch

    def _next_groups(
        self,
        count: int,
        iteration: int,
        sampling_round: int,
        exclude: Collection[Start],
        success_rates: Mapping[Start, float],
    ) -> list[GroupRequest]:
        """The groups of a sampling round."""

        def eligible(tasks: Sequence[int], rates: Mapping[Start, float]) -> list[int]:
            for variant in self.variants:
                tasks = variant.eligible_tasks(tasks, rates)
            return list(tasks)

        requests = choose_groups(
            self.init_states,
            count,
            self.algo.group_size,
            seed=self.seed,
            iteration=iteration,
            sampling_round=sampling_round,
            exclude=exclude,
            initial_states=self.algo.initial_states,
            success_rates=success_rates,
            eligible=eligible,
        )
        for variant in self.variants:
            requests = variant.choose(requests, success_rates, iteration, sampling_round)
        return requests

    def _roll_out(self, requests: Sequence[GroupRequest], batch: Batch) -> None:
        """Roll out groups and append them to the batch; frames are dropped as soon as a rollout is embedded."""
        wanted = [
            RolloutRequest(EpisodeRequest(group.task_id, "train", group.init_state_id, group.lead), seed)
            for group in requests
            for seed in group.seeds
        ]
        rollouts: dict[int, Rollout] = {}
        started = time.perf_counter()
        with EmbeddingQueue(self.reward, beside=self.embed_beside) as queue:

            def finished(index: int, episode: Episode) -> None:
                rollouts[index] = Rollout.from_episode(episode, self.policy)
                queue.add(index, episode)

            play_training_rollouts(self.policy, self.pool, self.suite, wanted, self.algo, finished)
            embeddings = queue.results()
        self.seconds["encode"] += queue.seconds
        self.seconds["rollout"] += time.perf_counter() - started - queue.seconds
        first_group = batch.groups[-1] + 1 if batch.groups else 0
        for index, item in enumerate(wanted):
            rollouts[index].lead_steps = len(item.request.lead)
        batch.rollouts.extend(rollouts[index] for index in range(len(wanted)))
        batch.embeddings.extend(embeddings[index] for index in range(len(wanted)))
        batch.groups.extend(first_group + number for number, group in enumerate(requests) for _ in group.seeds)

    def _score(self, batch: Batch) -> Scores:
        groups = np.array(batch.groups, dtype=np.int64)
        return self.reward.score(np.stack(batch.embeddings), batch.successes, batch.task_ids, groups)


def set_advantages(batch: Batch, estimator: AdvantageEstimator, variants: Sequence[Variant] = ()) -> dict[str, float]:
    """Set the batch's advantages from its rewards; returns what there is to say of them."""
    metrics: dict[str, float] = {}
    rewards, weights = batch.rewards, np.ones(len(batch.rollouts), dtype=np.float32)
    for variant in variants:
        rewards, said = variant.rewards(batch, rewards)
        metrics |= said
        own = variant.weights(batch)
        weights = weights if own is None else weights * own
    batch.decision_advantages, said = estimator.estimate(batch, rewards, weights)
    batch.advantages = np.array([np.mean(advantages) for advantages in batch.decision_advantages], dtype=np.float32)
    metrics |= said
    for variant in variants if batch.rollouts else ():
        metrics |= variant.credit(batch)
    return metrics


def batch_metrics(batch: Batch) -> dict[str, float]:
    """What the batch looked like, before any update. A group is kept when some advantage is not 0."""
    successes, tasks, groups = batch.successes, batch.task_ids, np.array(batch.groups)
    seen = np.unique(groups).tolist()
    has_advantage = np.array([np.any(advantages) for advantages in batch.decision_advantages], dtype=bool)
    kept = [group for group in seen if has_advantage[groups == group].any()]
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


def play_training_rollouts(
    policy: TrainablePolicy,
    pool: EnvironmentPool,
    suite: Suite,
    wanted: Sequence[RolloutRequest],
    algo: AlgoConfig,
    finished: Callable[[int, Episode], None],
) -> None:
    """Play rollouts as training samples them; `finished(index, episode)` gets each as it ends, and none is kept."""
    play_rollouts(
        policy,
        pool,
        suite,
        wanted,
        finished,
        sampling=algo.sampling,
        frame_stride=algo.frame_stride,
        keep_inputs=True,
    )


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
