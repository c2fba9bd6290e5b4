"""Dynamic sampling and what it keeps."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sim.embodiments import PANDA_EEF
from sim.pool import EnvironmentPool
from tests.fakes import FakeSuite
from tests.vla.rl.helpers import TrainableFakePolicy, estimator, load_fake_policy, reward, training_parts
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.sampling import Sampling
from vla.rewards import embedding_queue
from vla.rewards.embeddings import FrameEmbedding, rollout_clip
from vla.rewards.reward import Reward
from vla.rl.batch import Batch
from vla.rl.collection import Collector
from vla.rl.config import AlgoConfig
from vla.rl.parts import make_estimator, make_variants
from world_models.errors import WorldModelError


class FinalFrame:
    """Embeds a clip as its last frame's brightness, by quarter."""

    name = "final-frame"
    embedding_size = 4

    def encode(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.array([clip[-1].reshape(4, -1).mean(axis=1) for clip in clips], dtype=np.float32)


def collect(
    policy: TrainableFakePolicy, model: Reward, tasks: dict[int, int], embed_beside: bool = False, **algo: Any
) -> Batch:
    parts = {name: algo.pop(name) for name in ("reference", "averaged") if name in algo}
    settings = {"group_size": 4, "groups_per_iteration": 6, "reward": "binary"} | algo
    settings.setdefault("sampling", Sampling(temperature=1.0))
    made = training_parts(AlgoConfig(**settings), policy, **parts)
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        collector = Collector(
            policy, pool, FakeSuite(), model, make_estimator(made), made.algo, tasks, make_variants(made),
            embed_beside=embed_beside,
        )  # fmt: skip
        return collector.collect(0)


def srpo(**settings: Any) -> Reward:
    return reward("srpo", FrameEmbedding(FinalFrame()), **settings)


def wrapped(name: str, **settings: Any) -> Reward:
    return reward(name, FrameEmbedding(FinalFrame()), **settings)


BINARY = reward("binary")


def test_groups_share_a_start_and_every_rollout_differs():
    batch = collect(load_fake_policy("weak", "cpu"), BINARY, {0: 20, 1: 20})
    groups = np.array(batch.groups)
    for group in set(batch.groups):
        members = [batch.rollouts[index].record for index in np.flatnonzero(groups == group)]
        assert len({(record["task_id"], record["init_state_id"]) for record in members}) == 1
        assert len({record["seed"] for record in members}) == len(members) == 4


def test_binary_rewards_keep_only_mixed_groups_and_drop_the_inputs_of_others():
    batch = collect(load_fake_policy("weak", "cpu"), BINARY, {0: 20, 2: 20}, max_sampling_rounds=3)
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
    batch = collect(hopeless, BINARY, {0: 20}, max_sampling_rounds=3, groups_per_iteration=2)
    assert batch.metrics["groups/rounds"] == 3 and batch.metrics["groups/stalled"] == 1
    assert len(batch.rollouts) == 3 * 2 * 4 and not batch.advantages.any()


def test_sampling_stops_when_no_initial_state_is_left():
    batch = collect(TrainableFakePolicy(gain=0.0), BINARY, {0: 3}, max_sampling_rounds=50, groups_per_iteration=2)
    assert len(set(batch.groups)) == 3 and batch.metrics["groups/stalled"] == 1


def test_srpo_keeps_groups_without_success_when_the_task_had_one_elsewhere():
    policy = load_fake_policy("weak", "cpu")
    settings: dict[str, Any] = {"groups_per_iteration": 8, "max_sampling_rounds": 1}
    binary = collect(policy, BINARY, {0: 20}, **settings)
    found = collect(policy, srpo(), {0: 20}, **settings)
    assert [rollout.record for rollout in binary.rollouts] == [rollout.record for rollout in found.rollouts]
    assert binary.metrics["groups/all_failed"] > 0
    assert found.metrics["groups/kept_without_success"] == binary.metrics["groups/all_failed"]
    assert found.metrics["groups/kept"] > binary.metrics["groups/kept"]
    assert (found.rewards[found.successes] == 1).all() and (found.rewards[~found.successes] < 1).all()


def test_failures_beside_a_success_can_be_left_unpaid():
    settings: dict[str, Any] = {"groups_per_iteration": 8, "max_sampling_rounds": 1}
    policy = load_fake_policy("weak", "cpu")
    always = collect(policy, srpo(), {0: 20}, **settings)
    chosen = collect(policy, wrapped("without_success"), {0: 20}, **settings)
    groups = np.array(chosen.groups)
    alone = np.array([not chosen.successes[groups == group].any() for group in groups])
    assert alone.any() and (~alone & ~chosen.successes).any()
    assert (chosen.rewards[alone] == always.rewards[alone]).all() and (chosen.rewards[alone] > 0).all()
    assert (chosen.rewards[~alone] == chosen.successes[~alone]).all()


def test_where_only_groups_without_success_are_paid_they_come_on_top_of_what_grpo_learns_from():
    settings: dict[str, Any] = {"groups_per_iteration": 6, "max_sampling_rounds": 3}
    policy, model = load_fake_policy("weak", "cpu"), wrapped("without_success")
    binary = collect(policy, BINARY, {0: 20, 1: 20}, **settings)
    more = collect(policy, model, {0: 20, 1: 20}, **settings)
    assert [rollout.record for rollout in binary.rollouts] == [rollout.record for rollout in more.rollouts]
    mixed = np.array([0 < more.successes[np.array(more.groups) == group].mean() < 1 for group in more.groups])
    assert more.advantages[mixed] == pytest.approx(binary.advantages[mixed])
    assert more.metrics["groups/kept"] == binary.metrics["groups/kept"] + more.metrics["groups/kept_without_success"]
    assert more.metrics["groups/kept_without_success"] > 0


def test_a_failure_is_compared_with_its_task_its_group_or_everything():
    policy, tasks = load_fake_policy("weak", "cpu"), {0: 20, 1: 20}
    settings: dict[str, Any] = {"groups_per_iteration": 8, "max_sampling_rounds": 1}

    task, group, batch = (
        collect(policy, model, tasks, **settings)
        for model in (srpo(), wrapped("reference_scope"), wrapped("reference_scope", scope="batch"))
    )
    assert [rollout.record for rollout in task.rollouts] == [rollout.record for rollout in group.rollouts]
    groups = np.array(group.groups)
    for number in set(group.groups):
        members = np.flatnonzero(groups == number)
        if not group.successes[members].any():
            assert not group.rewards[members].any(), "no success of its own to be compared with"
            assert task.rewards[members].all() == task.successes[task.task_ids == task.task_ids[members[0]]].any()
    failures = ~task.successes
    assert not np.allclose(task.rewards[failures], batch.rewards[failures])
    assert (batch.rewards[failures] > 0).all()


def test_srpo_without_any_success_teaches_nothing():
    batch = collect(TrainableFakePolicy(gain=0.0), srpo(), {0: 20})
    assert not batch.rewards.any() and not batch.advantages.any()
    assert batch.metrics["reward/tasks_without_success"] == 1


def test_rollouts_of_one_prompt_have_their_own_embeddings():
    batch = collect(load_fake_policy("weak", "cpu"), srpo(), {0: 20})
    groups = np.array(batch.groups)
    for group in set(batch.groups):
        rows = [tuple(batch.embeddings[index]) for index in np.flatnonzero(groups == group)]
        assert len(set(rows)) == len(rows)


def test_alpha_zero_is_the_binary_reward():
    policy = load_fake_policy("weak", "cpu")
    binary = collect(policy, BINARY, {0: 20, 1: 20})
    found = collect(policy, srpo(alpha=0.0), {0: 20, 1: 20})
    assert found.rewards.tolist() == binary.rewards.tolist()
    assert found.advantages.tolist() == binary.advantages.tolist()


def test_embedding_in_smaller_batches_changes_nothing(monkeypatch):
    policy = load_fake_policy("weak", "cpu")
    whole = collect(policy, srpo(), {0: 20})
    monkeypatch.setattr(embedding_queue, "EMBEDDING_BATCH", 3)
    parts = collect(policy, srpo(), {0: 20})
    assert [rollout.record for rollout in parts.rollouts] == [rollout.record for rollout in whole.rollouts]
    assert parts.rewards == pytest.approx(whole.rewards, abs=1e-6)


def episode_of(frames: NDArray[np.uint8]) -> Episode:
    count = len(frames)
    return Episode(
        suite="fake", task_id=0, instruction="", split="train", init_state_id=0, seed=0, policy_id="", success=False,
        actions=np.zeros((count, 7), np.float32), observation_steps=np.arange(count),
        images={"image": frames, "wrist_image": frames}, embodiment=PANDA_EEF,
        states=np.zeros((count, 8), np.float32), rewards=np.zeros(count, np.float32),
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
    algo = AlgoConfig(group_size=4, groups_per_iteration=6, reward="binary", advantage="critic", max_sampling_rounds=3)
    batches = []
    critic = estimator(training_parts(algo))
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        collector = Collector(policy, pool, FakeSuite(), BINARY, critic, algo, {0: 20, 1: 20})
        for iteration in range(2):
            batches.append(collector.collect(iteration))
            critic.learn(batches[-1], iteration)
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
        assert np.shape(advantages) == (len(rollout.decisions),)
        assert mean == pytest.approx(np.mean(advantages))


def test_pacs_starts_as_rloo_and_departs_from_it_with_the_policy():
    policy = load_fake_policy("weak", "cpu")
    tasks: dict[int, int] = {0: 20, 1: 20}

    def advantages(name: str, **parts: Any) -> NDArray[np.float32]:
        return collect(policy, BINARY, tasks, advantage=name, negative_weight=0.5, **parts).advantages

    rloo = advantages("rloo")
    np.testing.assert_allclose(advantages("pacs", reference=lambda: load_fake_policy("weak", "cpu")), rloo, atol=1e-5)
    moved = advantages("pacs", reference=lambda: TrainableFakePolicy(gain=0.25))
    assert not np.allclose(moved, rloo, atol=1e-3)
    assert np.array_equal(moved == 0, rloo == 0), "groups without spread still teach nothing"
    with pytest.raises(ReflexError, match="needs the policy that training started from"):
        collect(policy, BINARY, tasks, advantage="pacs")


def test_likely_successes_are_preferred_and_rewards_stay_what_they_were():
    policy = load_fake_policy("weak", "cpu")
    plain = collect(policy, BINARY, {0: 20, 1: 20}, advantage="rloo")
    liked = collect(policy, BINARY, {0: 20, 1: 20}, advantage="rloo", variants=["grpo_care"])
    assert liked.rewards.tolist() == plain.rewards.tolist()
    assert liked.metrics["advantage/likely_successes"] > 0
    groups, gained = np.array(plain.groups), liked.advantages > plain.advantages + 1e-6
    assert gained.any() and plain.successes[gained].all()
    for group in set(plain.groups):
        wins = np.flatnonzero((groups == group) & plain.successes)
        if len(wins) > 1 and plain.advantages[wins].any():
            assert gained[wins].any()


def test_steps_that_rollouts_share_are_credited_with_their_mean():
    policy = load_fake_policy("weak", "cpu")
    plain = collect(policy, BINARY, {0: 20, 1: 20})
    none = collect(policy, BINARY, {0: 20, 1: 20}, variants=["salt"], settings={"salt": {"tolerance": 0.0}})
    merged = collect(policy, BINARY, {0: 20, 1: 20}, variants=["salt"], settings={"salt": {"tolerance": 1.0}})
    assert none.metrics["advantage/shared_steps"] == 0.0, "no two rollouts are in exactly the same state after a step"
    for own, steps in zip(plain.advantages, none.decision_advantages, strict=True):
        assert steps.tolist() == [own] * len(steps)
    assert 0.0 < merged.metrics["advantage/shared_steps"] < 1.0
    assert merged.advantages.tolist() == plain.advantages.tolist()


def test_decisions_that_come_nearer_to_successes_are_credited():
    policy = load_fake_policy("weak", "cpu")
    batch = collect(policy, BINARY, {0: 20, 1: 20}, variants=["step_progress"])
    plain = collect(policy, BINARY, {0: 20, 1: 20})
    assert 0.0 < batch.metrics["advantage/failures_progress"] < 1.0
    for own, steps in zip(plain.advantages, batch.decision_advantages, strict=True):
        assert np.ptp(steps) > 0 if own else not steps.any()


def test_the_policy_decides_for_all_slots_at_once_and_only_for_rollouts_that_still_run():
    """No call is spent on a rollout that has ended, and no slot waits while there are rollouts to play."""
    policy, rows = load_fake_policy("weak", "cpu"), []
    act = policy.act

    def counted(observations: Any, *rest: Any, **options: Any) -> Any:
        rows.append(len(observations["state"]))
        return act(observations, *rest, **options)

    policy.act = counted  # type: ignore[method-assign]
    batch = collect(policy, BINARY, {0: 20}, max_sampling_rounds=1)
    lengths = {len(rollout.decisions) for rollout in batch.rollouts}
    assert len(lengths) > 1, "rollouts must end at different times for this to say anything"
    assert sum(rows) == sum(len(rollout.decisions) for rollout in batch.rollouts)
    assert max(rows) <= 8 and rows.count(max(rows)) > 1


def test_an_encoder_that_fails_ends_the_iteration_instead_of_paying_nothing():
    class Broken(FinalFrame):
        def encode(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
            raise WorldModelError("weights are damaged")

    for beside in (False, True):
        with pytest.raises(WorldModelError, match="weights are damaged"):
            collect(load_fake_policy("weak", "cpu"), reward("srpo", FrameEmbedding(Broken())), {0: 20}, beside)


def test_embedding_beside_the_rollouts_changes_nothing():
    seen: list[str] = []

    class Noting(FinalFrame):
        def encode(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
            seen.append(threading.current_thread().name)
            return super().encode(clips)

    policy, model = load_fake_policy("weak", "cpu"), reward("srpo", FrameEmbedding(Noting()))
    at_once = collect(policy, model, {0: 20}, groups_per_iteration=10)
    assert set(seen) == {threading.current_thread().name}
    del seen[:]
    beside = collect(policy, model, {0: 20}, embed_beside=True, groups_per_iteration=10)
    assert len(seen) > 1 and all(name.startswith("embedding") for name in seen)
    np.testing.assert_array_equal(np.stack(beside.embeddings), np.stack(at_once.embeddings))
    np.testing.assert_array_equal(beside.rewards, at_once.rewards)
    assert [rollout.record for rollout in beside.rollouts] == [rollout.record for rollout in at_once.rollouts]


def test_a_batch_holds_rollouts_of_its_own_policy_only():
    """What they were sampled with is what that policy gives them; nothing is left over from an iteration before."""
    for gain in (0.25, 0.4):
        policy = TrainableFakePolicy(gain=gain)
        batch = collect(policy, BINARY, {0: 20}, max_sampling_rounds=1)
        taught = [rollout for rollout in batch.rollouts if rollout.inputs is not None]
        assert taught
        for rollout in taught:
            now, _ = policy.log_prob(rollout.inputs, torch.from_numpy(rollout.decisions), Sampling(1.0, 8.0))
            np.testing.assert_allclose(now.detach().numpy(), rollout.log_probs, atol=1e-5)


class Improving(Collector):
    """Its policy never succeeds in the first sampling round, and nearly always in those after."""

    def _roll_out(self, requests: Any, batch: Batch) -> None:
        super()._roll_out(requests, batch)
        with torch.no_grad():
            self.policy.gain.fill_(0.5)  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(("model", "teaches"), [(srpo(), True), (BINARY, False)])
def test_failures_that_a_later_round_s_success_can_teach_by_keep_what_they_saw(model, teaches):
    policy = TrainableFakePolicy(gain=0.0)
    algo = AlgoConfig(
        group_size=4, groups_per_iteration=2, max_sampling_rounds=2, reward="binary", sampling=Sampling(1.0, 0.0, 0.0)
    )
    parts = training_parts(algo, policy)
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        batch = Improving(policy, pool, FakeSuite(), model, make_estimator(parts), algo, {0: 20}).collect(0)
    first = np.array(batch.groups) < 2
    assert batch.metrics["groups/rounds"] == 2
    assert not batch.successes[first].any() and batch.successes[~first].any()
    for index in np.flatnonzero(first).tolist():
        assert (batch.rollouts[index].inputs is not None) == teaches
        assert bool(batch.advantages[index]) == teaches
    # Whoever teaches has what it saw.
    assert all(rollout.inputs is not None for rollout, own in zip(batch.rollouts, batch.advantages, strict=True) if own)


def test_a_batch_is_described_by_hand():
    policy = load_fake_policy("weak", "cpu")
    batch = collect(policy, srpo(), {0: 20, 1: 20}, max_sampling_rounds=1, groups_per_iteration=8)
    groups, metrics = np.array(batch.groups), batch.metrics
    shares = [batch.successes[groups == group].mean() for group in np.unique(groups)]
    taught = [bool(batch.advantages[groups == group].any()) for group in np.unique(groups)]
    assert metrics["groups/all_succeeded"] == shares.count(1.0) and metrics["groups/all_failed"] == shares.count(0.0)
    assert metrics["groups/kept"] == sum(taught) and metrics["groups/dropped"] == 8 - sum(taught)
    assert metrics["groups/kept_without_success"] == sum(
        one and share == 0 for one, share in zip(taught, shares, strict=True)
    )
    assert metrics["train/episodes"] == 32 and metrics["train/success_rate"] == pytest.approx(batch.successes.mean())
    assert metrics["train/reward"] == pytest.approx(batch.rewards.mean()) != metrics["train/success_rate"]
    assert metrics["train/steps"] == np.mean([rollout.record["steps"] for rollout in batch.rollouts])
    for task in (0, 1):
        assert metrics[f"train/task_{task}"] == pytest.approx(batch.successes[batch.task_ids == task].mean())
    failures = batch.advantages[~batch.successes]
    assert metrics["advantage/positive_failures"] == pytest.approx((failures > 0).mean())
    assert 0 < (failures > 0).mean() < 1
