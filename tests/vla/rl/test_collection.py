"""Dynamic sampling and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.pool import EnvironmentPool
from tests.fakes import HORIZON, FakeSuite
from tests.vla.rl.helpers import TrainableFakePolicy, load_fake_policy
from vla.data.episode import Episode
from vla.rl import collection
from vla.rl.collection import Batch, collect_batch
from vla.rl.config import AlgoConfig
from vla.rl.critic import Critic
from vla.rl.embeddings import FrameEmbedding, rollout_clip
from vla.rl.rewards import BinaryReward, RewardModel, SrpoReward


class FinalFrame:
    """Embeds a clip as its last frame's brightness, by quarter."""

    name = "final-frame"
    embedding_size = 4

    def encode(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.array([clip[-1].reshape(4, -1).mean(axis=1) for clip in clips], dtype=np.float32)


def collect(policy: TrainableFakePolicy, model: RewardModel, tasks: dict[int, int], **algo: Any) -> Batch:
    settings = {"group_size": 4, "groups_per_iteration": 6, "reward": "binary", "temperature": 1.0} | algo
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        return collect_batch(policy, pool, FakeSuite(), model, tasks, AlgoConfig(**settings), seed=0, iteration=0)


def test_groups_share_a_start_and_every_rollout_differs():
    batch = collect(load_fake_policy("weak", "cpu"), BinaryReward(), {0: 20, 1: 20})
    groups = np.array(batch.groups)
    for group in set(batch.groups):
        members = [batch.rollouts[index].record for index in np.flatnonzero(groups == group)]
        assert len({(record["task_id"], record["init_state_id"]) for record in members}) == 1
        assert len({record["seed"] for record in members}) == len(members) == 4


def test_binary_rewards_keep_only_mixed_groups_and_drop_the_inputs_of_others():
    batch = collect(load_fake_policy("weak", "cpu"), BinaryReward(), {0: 20, 2: 20}, max_sampling_rounds=3)
    groups = np.array(batch.groups)
    kept = 0
    for group in set(batch.groups):
        members = np.flatnonzero(groups == group)
        mixed = 0 < batch.successes[members].mean() < 1
        kept += mixed
        assert (batch.advantages[members] != 0).all() == mixed
        assert all((batch.rollouts[index].inputs is not None) == mixed for index in members)
    assert batch.metrics["groups/kept"] == kept > 0
    assert batch.metrics["groups/dropped"] == len(set(batch.groups)) - kept


def test_sampling_stops_at_the_round_limit_when_nothing_can_be_learnt():
    hopeless = TrainableFakePolicy(gain=0.0)
    batch = collect(hopeless, BinaryReward(), {0: 20}, max_sampling_rounds=3, groups_per_iteration=2)
    assert batch.metrics["groups/rounds"] == 3 and batch.metrics["groups/stalled"] == 1
    assert len(batch.rollouts) == 3 * 2 * 4 and not batch.advantages.any()


def test_sampling_stops_when_no_initial_state_is_left():
    batch = collect(
        TrainableFakePolicy(gain=0.0), BinaryReward(), {0: 3}, max_sampling_rounds=50, groups_per_iteration=2
    )
    assert len(set(batch.groups)) == 3 and batch.metrics["groups/stalled"] == 1


def test_srpo_keeps_groups_without_success_when_the_task_had_one_elsewhere():
    policy = load_fake_policy("weak", "cpu")
    settings: dict[str, Any] = {"groups_per_iteration": 8, "max_sampling_rounds": 1}
    binary = collect(policy, BinaryReward(), {0: 20}, **settings)
    srpo = collect(policy, SrpoReward(FrameEmbedding(FinalFrame())), {0: 20}, reward="srpo", **settings)
    assert [rollout.record for rollout in binary.rollouts] == [rollout.record for rollout in srpo.rollouts]
    assert binary.metrics["groups/all_failed"] > 0
    assert srpo.metrics["groups/kept_without_success"] == binary.metrics["groups/all_failed"]
    assert srpo.metrics["groups/kept"] > binary.metrics["groups/kept"]
    assert (srpo.rewards[srpo.successes] == 1).all() and (srpo.rewards[~srpo.successes] < 1).all()


def test_srpo_without_any_success_teaches_nothing():
    batch = collect(TrainableFakePolicy(gain=0.0), SrpoReward(FrameEmbedding(FinalFrame())), {0: 20}, reward="srpo")
    assert not batch.rewards.any() and not batch.advantages.any()
    assert batch.metrics["reward/tasks_without_success"] == 1


def test_rollouts_of_one_prompt_have_their_own_embeddings():
    batch = collect(load_fake_policy("weak", "cpu"), SrpoReward(FrameEmbedding(FinalFrame())), {0: 20}, reward="srpo")
    groups = np.array(batch.groups)
    for group in set(batch.groups):
        rows = [tuple(batch.embeddings[index]) for index in np.flatnonzero(groups == group)]
        assert len(set(rows)) == len(rows)


def test_alpha_zero_is_the_binary_reward():
    policy = load_fake_policy("weak", "cpu")
    binary = collect(policy, BinaryReward(), {0: 20, 1: 20})
    srpo = collect(policy, SrpoReward(FrameEmbedding(FinalFrame()), alpha=0.0), {0: 20, 1: 20}, reward="srpo")
    assert srpo.rewards.tolist() == binary.rewards.tolist()
    assert srpo.advantages.tolist() == binary.advantages.tolist()


def test_playing_in_portions_changes_nothing(monkeypatch):
    policy = load_fake_policy("weak", "cpu")
    whole = collect(policy, SrpoReward(FrameEmbedding(FinalFrame())), {0: 20}, reward="srpo")
    monkeypatch.setattr(collection, "FRAME_BUDGET", 1)
    monkeypatch.setattr(collection, "EMBEDDING_BATCH", 3)
    parts = collect(policy, SrpoReward(FrameEmbedding(FinalFrame())), {0: 20}, reward="srpo")
    assert [rollout.record for rollout in parts.rollouts] == [rollout.record for rollout in whole.rollouts]
    assert parts.rewards == pytest.approx(whole.rewards, abs=1e-6)


def episode_of(frames: NDArray[np.uint8]) -> Episode:
    count = len(frames)
    return Episode(
        suite="fake", task_id=0, instruction="", split="train", init_state_id=0, seed=0, policy_id="", success=False,
        actions=np.zeros((count, 7), np.float32), observation_steps=np.arange(count), images=frames,
        wrist_images=frames, states=np.zeros((count, 8), np.float32), rewards=np.zeros(count, np.float32),
        costs=np.zeros(count, np.float32), progress=np.zeros(count, np.float32),
    )  # fmt: skip


def test_clips_keep_first_and_last_frame_and_short_ones_hold_theirs():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    clip = rollout_clip(episode_of(frames), 8)
    assert len(clip) == 8 and clip[0, 0, 0, 0] == 0 and clip[-1, 0, 0, 0] == 39
    assert rollout_clip(episode_of(frames[:5]), 8)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert rollout_clip(episode_of(frames[3:4]), 8)[:, 0, 0, 0].tolist() == [3, 3]
    assert not np.shares_memory(rollout_clip(episode_of(frames[:5]), 8), frames)


def test_with_a_critic_every_group_teaches_and_none_is_replaced():
    """The first batch has only groups' means to go by; the second has the critic."""
    policy = load_fake_policy("weak", "cpu")
    critic = Critic({0: HORIZON, 1: HORIZON}, window=2)
    algo = AlgoConfig(group_size=4, groups_per_iteration=6, reward="binary", advantage="critic", max_sampling_rounds=3)
    batches = []
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        for iteration in range(2):
            batches.append(
                collect_batch(
                    policy, pool, FakeSuite(), BinaryReward(), {0: 20, 1: 20}, algo, seed=0, iteration=iteration,
                    critic=critic,
                )
            )  # fmt: skip
            critic.learn(batches[-1].rollouts, batches[-1].rewards)
    first, second = batches
    assert len(first.rollouts) == len(second.rollouts) == 6 * 4
    assert "critic/explained_variance" not in first.metrics
    assert np.isfinite(second.metrics["critic/explained_variance"])
    for batch in batches:
        assert all(rollout.inputs is not None for rollout in batch.rollouts)
    assert all(np.any(advantages) for advantages in second.decision_advantages)
    assert (second.metrics["groups/kept"], second.metrics["groups/dropped"]) == (6, 0)
    assert not second.metrics["groups/stalled"]
    for rollout, advantages, mean in zip(second.rollouts, second.decision_advantages, second.advantages, strict=True):
        assert np.shape(advantages) == (len(rollout.tokens),)
        assert mean == pytest.approx(np.mean(advantages))
