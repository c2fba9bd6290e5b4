"""From episodes to the decisions an update learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sim.pool import EnvironmentPool, EpisodeRequest
from tests.fakes import FakeSuite
from tests.vla.rl.helpers import TrainableFakePolicy, random_generator
from vla.policies.protocol import PolicySpec
from vla.rl.batch import Rollout, build_samples, executed_tokens
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts


def roll_out(policy: TrainableFakePolicy, count: int, frame_stride: int | None = None):
    requests = [RolloutRequest(EpisodeRequest(0, "train", index), 100 + index) for index in range(count)]
    with EnvironmentPool("fake", 4, 0, factory="tests.fakes:get_suite") as pool:
        return collect_rollouts(
            policy, pool, FakeSuite(), requests, mode="sample", temperature=0.7, frame_stride=frame_stride
        )


def test_only_tokens_whose_action_was_executed_count():
    spec = PolicySpec(("image",), 16, True, chunk_horizon=3, execute_steps=2, tokens_per_chunk=21)
    executed = executed_tokens(5, 3, spec)
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
        assert len(rollout.inputs) == len(rollout.tokens) == -(-episode.length // 8)
        log_probs, _ = policy.log_prob_from_inputs(rollout.inputs, torch.from_numpy(rollout.tokens), 0.7)
        assert log_probs.detach().numpy() == pytest.approx(rollout.log_probs, abs=1e-5)
        assert rollout.executed.sum() == 7 * episode.length


def test_samples_skip_rollouts_without_advantage():
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 3)]
    rollouts[1].inputs = None
    samples = build_samples(rollouts, np.array([1.0, 0.0, -0.5], np.float32), "token", None, random_generator())
    first, last = len(rollouts[0].tokens), len(rollouts[2].tokens)
    assert samples is not None and len(samples) == len(samples.inputs) == first + last
    assert samples.advantages.tolist() == [1.0] * first + [-0.5] * last
    assert torch.equal(samples.tokens[first:], torch.from_numpy(rollouts[2].tokens))
    assert build_samples(rollouts, np.zeros(3, np.float32), "token", None, random_generator()) is None


def test_episode_aggregation_gives_every_episode_the_same_total():
    policy = TrainableFakePolicy(gain=0.4)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 4)]
    advantages = np.array([1, -1, 1, -1], np.float32)
    samples = build_samples(rollouts, advantages, "episode", None, random_generator())
    assert samples is not None
    per_decision = samples.weights * samples.executed.sum(dim=1)
    totals = [float(part.sum()) for part in per_decision.split([len(rollout.tokens) for rollout in rollouts])]
    assert len({len(rollout.tokens) for rollout in rollouts}) > 1, "episodes of one length would prove nothing"
    assert totals == pytest.approx([totals[0]] * 4, rel=1e-5)
    assert float(per_decision.sum()) == pytest.approx(float(samples.executed.sum()), rel=1e-5)


def test_a_limit_draws_samples_reproducibly():
    policy = TrainableFakePolicy(gain=0.2)
    rollouts = [Rollout.from_episode(episode, policy) for episode in roll_out(policy, 3)]
    drawn = [build_samples(rollouts, np.ones(3, np.float32), "token", 5, random_generator()) for _ in range(2)]
    assert drawn[0] is not None and drawn[1] is not None
    assert len(drawn[0]) == 5 and torch.equal(drawn[0].tokens, drawn[1].tokens)
