"""From episodes to the decisions an update learns from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sim.embodiments import PANDA_EEF
from sim.pool import EnvironmentPool, EpisodeRequest
from tests.fakes import FakeSuite
from tests.vla.rl.helpers import TrainableFakePolicy, random_generator
from vla.errors import ReflexError
from vla.policies.protocol import PolicySpec
from vla.policies.sampling import Sampling
from vla.rl.batch import Batch, Rollout, Samples, build_samples, executed_units
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts


def roll_out(policy: TrainableFakePolicy, count: int, frame_stride: int | None = None):
    requests = [RolloutRequest(EpisodeRequest(0, "train", index), 100 + index) for index in range(count)]
    with EnvironmentPool("fake", 4, 0, factory="tests.fakes:get_suite") as pool:
        return collect_rollouts(
            policy, pool, FakeSuite(), requests, sampling=Sampling(0.7, 0.0, 0.0), frame_stride=frame_stride
        )


def token_spec(chunk_horizon: int, execute_steps: int) -> PolicySpec:
    """A policy with seven tokens for each action."""
    steps = tuple(step for step in range(chunk_horizon) for _ in range(7))
    return PolicySpec(PANDA_EEF, True, chunk_horizon, execute_steps, steps)


def test_a_gaussian_over_a_chunk_counts_where_any_of_it_was_executed_and_steps_each_on_their_own():
    whole = PolicySpec(PANDA_EEF, True, chunk_horizon=4, execute_steps=2, unit_steps=(0,))
    assert executed_units(3, 3, whole).tolist() == [[True], [True], [False]]
    uneven = PolicySpec(PANDA_EEF, True, chunk_horizon=3, execute_steps=2, unit_steps=(0, 0, 1, 2))
    assert executed_units(3, 2, uneven).tolist() == [[True, True, True, False], [True, True, False, False]]


def test_only_tokens_whose_action_was_executed_count():
    spec = token_spec(chunk_horizon=3, execute_steps=2)
    executed = executed_units(5, 3, spec)
    # Decisions at steps 0, 2, 4; two actions each of which are executed, one in the last; the third action never is.
    assert executed.reshape(3, 3, 7).all(axis=2).tolist() == [
        [True, True, False],
        [True, True, False],
        [True, False, False],
    ]
    assert executed.sum() == 5 * 7


@pytest.mark.parametrize("frame_stride", [None, 3])
def test_recorded_log_probs_are_those_of_the_decisions_inputs(frame_stride):
    policy = TrainableFakePolicy(gain=0.4)
    for episode in roll_out(policy, 3, frame_stride):
        rollout = Rollout.from_episode(episode, policy)
        assert len(rollout.inputs) == len(rollout.decisions) == -(-episode.length // 8)
        log_probs, _ = policy.log_prob(rollout.inputs, torch.from_numpy(rollout.decisions), Sampling(0.7, 0.0))
        assert log_probs.detach().numpy() == pytest.approx(rollout.log_probs, abs=1e-5)
        assert rollout.executed.sum() == 7 * episode.length


def test_samples_skip_rollouts_without_advantage():
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 3)]
    rollouts[1].inputs = None
    samples = build_samples(rollouts, np.array([1.0, 0.0, -0.5], np.float32), "token", None, random_generator())
    first, last = len(rollouts[0].decisions), len(rollouts[2].decisions)
    assert samples is not None and len(samples) == len(samples.inputs) == first + last
    assert samples.advantages.tolist() == [1.0] * first + [-0.5] * last
    assert torch.equal(samples.decisions[first:], torch.from_numpy(rollouts[2].decisions))
    assert build_samples(rollouts, np.zeros(3, np.float32), "token", None, random_generator()) is None


def test_episode_aggregation_gives_every_episode_the_same_total():
    policy = TrainableFakePolicy(gain=0.4)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 4)]
    advantages = np.array([1, -1, 1, -1], np.float32)
    samples = build_samples(rollouts, advantages, "episode", None, random_generator())
    assert samples is not None
    per_decision = samples.weights * samples.executed.sum(dim=1)
    totals = [float(part.sum()) for part in per_decision.split([len(rollout.decisions) for rollout in rollouts])]
    assert len({len(rollout.decisions) for rollout in rollouts}) > 1, "episodes of one length would prove nothing"
    assert totals == pytest.approx([totals[0]] * 4, rel=1e-5)
    assert float(per_decision.sum()) == pytest.approx(float(samples.executed.sum()), rel=1e-5)


def test_a_limit_draws_samples_reproducibly():
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 3)]
    drawn = [build_samples(rollouts, np.ones(3, np.float32), "token", 5, random_generator()) for _ in range(2)]
    assert drawn[0] is not None and drawn[1] is not None
    assert len(drawn[0]) == 5 and torch.equal(drawn[0].decisions, drawn[1].decisions)


@pytest.mark.parametrize("frame_stride", [None, 3])
def test_states_times_and_features_are_those_of_the_decisions(frame_stride):
    """Under a frame stride there are observations between the decisions."""
    policy = TrainableFakePolicy(gain=0.4)
    for episode in roll_out(policy, 2, frame_stride):
        rollout = Rollout.from_episode(episode, policy)
        moments = list(range(0, episode.length, policy.spec.execute_steps))
        assert rollout.elapsed.tolist() == moments
        rows = [episode.observation_steps.tolist().index(moment) for moment in moments]
        assert rollout.states.tolist() == episode.states[rows].tolist()
        assert np.ptp(rollout.states, axis=0).max() > 0, "an arm that stays would prove nothing"
        assert rollout.features is not None and rollout.features.tolist() == rollout.states.tolist()
        assert (rollout.task_id, rollout.success) == (episode.task_id, episode.success)
        assert rollout.record == episode.record()


def test_an_episode_without_tokens_or_their_likelihoods_cannot_be_trained_on():
    policy = TrainableFakePolicy(gain=0.4)
    (episode,) = roll_out(policy, 1)
    for missing in ({"decisions": None}, {"log_probs": None}):
        with pytest.raises(ValueError, match="without decisions and log-probabilities"):
            Rollout.from_episode(replace(episode, **missing), policy)


def test_a_method_that_needs_features_names_the_setting_that_asks():
    policy = TrainableFakePolicy(gain=0.4)
    rollout = Rollout.from_episode(roll_out(policy, 1)[0], policy)
    assert rollout.features_for("algo.advantage=critic") is rollout.features
    rollout.features = None
    with pytest.raises(ReflexError, match=r"algo\.advantage=critic needs a policy"):
        rollout.features_for("algo.advantage=critic")


def many_samples(seed: int, limit: int = 6) -> Samples:
    """Some of the decisions of four rollouts, whose advantages tell them apart."""
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 4)]
    advantages = np.array([1, 2, 3, 4], np.float32)
    samples = build_samples(rollouts, advantages, "token", limit, np.random.default_rng(seed))
    assert samples is not None and len(samples) == limit
    return samples


def test_a_limit_draws_from_every_rollout_and_no_decision_twice():
    drawn = [many_samples(seed) for seed in range(8)]
    assert {float(value) for samples in drawn for value in samples.advantages} == {1.0, 2.0, 3.0, 4.0}
    for samples in drawn:
        rows = {tuple(row) for row in samples.decisions.tolist()}
        assert len(rows) == len(samples)
        assert samples.advantages.tolist() == sorted(samples.advantages.tolist()), "rows stay with their rollout"
    assert len({tuple(samples.decisions[:, 0].tolist()) for samples in drawn}) > 1, "the generator decides"


def test_a_limit_that_is_not_reached_changes_nothing():
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 2)]
    count = sum(len(rollout.decisions) for rollout in rollouts)
    generator = random_generator()
    samples = build_samples(rollouts, np.ones(2, np.float32), "token", count, generator)
    assert samples is not None and len(samples) == count
    assert generator.random() == random_generator().random(), "nothing was drawn"


def test_a_decision_s_own_advantage_is_its_row_s():
    policy = TrainableFakePolicy(gain=0.2)
    (rollout,) = (Rollout.from_episode(episode, policy) for episode in roll_out(policy, 1))
    each = np.arange(len(rollout.decisions), dtype=np.float32)
    samples = build_samples([rollout], [each], "token", None, random_generator())
    assert samples is not None and samples.advantages.tolist() == each.tolist()


def test_rows_of_samples_belong_together_through_choosing_and_joining():
    samples = many_samples(0)
    chosen = samples[torch.tensor([4, 1])]
    joined = Samples.concatenate([chosen, samples[torch.tensor([0])]])
    for name in ("decisions", "old_log_probs", "executed", "advantages", "weights"):
        assert torch.equal(getattr(joined, name), getattr(samples, name)[[4, 1, 0]]), name
    assert torch.equal(joined.inputs.state, samples.inputs.state[[4, 1, 0]])
    moved = joined.to(torch.device("meta"))
    for name in ("decisions", "old_log_probs", "executed", "advantages", "weights"):
        assert getattr(moved, name).device.type == "meta", name
    assert moved.inputs is joined.inputs


def test_what_a_batch_says_of_its_rollouts_is_in_their_order():
    policy = TrainableFakePolicy(gain=0.4)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 3)]
    for number, (rollout, success) in enumerate(zip(rollouts, (True, False, True), strict=True)):
        rollout.success, rollout.task_id = success, 2 - number
    batch = Batch(rollouts=rollouts)
    assert batch.successes.tolist() == [True, False, True] and batch.successes.dtype == bool
    assert batch.task_ids.tolist() == [2, 1, 0]


def test_samples_are_of_single_precision_and_may_be_joined_alone():
    """A gradient in double precision would be another one."""
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 1)]
    for advantages in (np.ones(1, np.float64), [np.ones(len(rollouts[0].decisions), np.float64)], [1]):
        samples = build_samples(rollouts, advantages, "token", None, random_generator())
        assert samples is not None and samples.advantages.dtype == samples.weights.dtype == torch.float32
    joined = Samples.concatenate([samples])
    assert torch.equal(joined.decisions, samples.decisions) and len(joined.inputs) == len(samples)


def test_a_decision_after_the_end_executes_nothing():
    spec = token_spec(chunk_horizon=2, execute_steps=2)
    assert executed_units(3, 3, spec).sum(axis=1).tolist() == [14, 7, 0]


def test_what_the_policy_took_in_is_kept_and_not_prepared_again():
    policy = TrainableFakePolicy(gain=0.2)
    (episode,) = roll_out(policy, 1)
    inputs = object()
    assert Rollout.from_episode(replace(episode, inputs=inputs), policy).inputs is inputs
