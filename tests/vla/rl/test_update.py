"""The update: gradients, minibatches, early stopping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sim.pool import EnvironmentPool, EpisodeRequest
from tests.fakes import FakeSuite
from tests.vla.rl.helpers import FakeInputs, TrainableFakePolicy, random_generator
from vla.errors import ReflexError
from vla.policies import PrismaticPolicy, reflex_tiny_config
from vla.policies.sampling import Sampling
from vla.rl.batch import Rollout, Samples, build_samples
from vla.rl.config import AlgoConfig
from vla.rl.update import accumulate_gradient, learning_rate, make_optimiser, minibatches, update_policy
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts


def samples_of(policy: TrainableFakePolicy, count: int = 24, temperature: float = 1.0) -> Samples:
    """Decisions sampled from the policy, with alternating advantages."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(count, 8, generator=generator) * 0.1
    inputs = FakeInputs(state, tuple("move to the red target" for _ in range(count)))
    tokens = torch.randint(0, 9, (count, 56), generator=generator)
    with torch.no_grad():
        log_probs, _ = policy.log_prob_from_inputs(inputs, tokens, temperature)
    executed = torch.ones(count, 56, dtype=torch.bool)
    executed[1, 14:] = False
    advantages = torch.tensor([1.0, -0.7]).repeat(count // 2)
    return Samples(inputs, tokens, log_probs, executed, advantages, torch.ones(count))


def run(policy: TrainableFakePolicy, samples: Samples, **algo: Any) -> dict[str, float]:
    sampling = Sampling(temperature=algo.pop("temperature", 1.0), token_noise=algo.pop("token_noise", 0.0))
    config = AlgoConfig(reward="binary", sampling=sampling, **({"minibatch_size": 8, "warmup_iterations": 0} | algo))
    optimiser = make_optimiser(policy, config)
    return update_policy(policy, optimiser, samples, config, iteration=0, generator=random_generator())


def test_minibatches_cover_every_sample_once_an_epoch():
    parts = minibatches(25, 8, 2, random_generator())
    assert [len(part) for part in parts] == [7, 6, 6, 6] * 2
    assert sorted(torch.cat(parts[:4]).tolist()) == list(range(25)) == sorted(torch.cat(parts[4:]).tolist())


def test_warm_up():
    algo = AlgoConfig(learning_rate=1.0, warmup_iterations=4)
    assert [learning_rate(algo, iteration) for iteration in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate(AlgoConfig(learning_rate=1.0, warmup_iterations=0), 0) == 1


def test_the_learning_rate_falls_with_the_square_root_of_the_iterations():
    algo = AlgoConfig(learning_rate=1.0, warmup_iterations=0, constant_iterations=4)
    assert [learning_rate(algo, iteration) for iteration in (2, 3, 15, 63)] == [1, 1, 0.5, 0.25]
    assert learning_rate(AlgoConfig(learning_rate=1.0, constant_iterations=None), 10_000) == 1


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5])
def test_micro_batches_give_the_gradient_of_the_whole_minibatch(micro_batch_size):
    gradients = []
    for size in (None, micro_batch_size):
        policy = TrainableFakePolicy(gain=0.4)
        samples = samples_of(policy)
        accumulate_gradient(policy, samples, torch.arange(10), AlgoConfig(micro_batch_size=size), None)
        gradients.append(torch.cat([policy.gain.grad[None], policy.bias.grad]))
    assert gradients[1] == pytest.approx(gradients[0], abs=1e-6)
    assert gradients[0].abs().max() > 1e-3


def test_the_first_gradient_is_the_policy_gradient():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    accumulate_gradient(
        policy,
        samples,
        torch.arange(len(samples)),
        AlgoConfig(sampling=Sampling(temperature=1.0, token_noise=0.0)),
        None,
    )
    got = policy.bias.grad.clone()
    policy.zero_grad()
    log_probs, _ = policy.log_prob_from_inputs(samples.inputs, samples.tokens, 1.0)
    (-(log_probs * samples.advantages[:, None])[samples.executed].mean()).backward()
    assert got == pytest.approx(policy.bias.grad, abs=1e-6)


def test_the_update_raises_good_tokens_and_lowers_bad_ones():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    metrics = run(policy, samples, learning_rate=0.02, update_epochs=4)
    with torch.no_grad():
        log_probs, _ = policy.log_prob_from_inputs(samples.inputs, samples.tokens, 1.0)
    change = (log_probs - samples.old_log_probs).mean(dim=1)
    assert change[samples.advantages > 0].mean() > change[samples.advantages < 0].mean()
    assert metrics["update/first_ratio_error"] < 1e-5
    assert metrics["update/steps"] == 12 and metrics["update/kl"] > 0


def test_a_temperature_that_does_not_match_the_recorded_log_probs_shows():
    policy = TrainableFakePolicy(gain=0.4)
    assert run(policy, samples_of(policy, temperature=1.3))["update/first_ratio_error"] > 0.05


def test_the_kl_target_stops_the_update_before_the_offending_step():
    policy = TrainableFakePolicy(gain=0.4)
    metrics = run(policy, samples_of(policy), learning_rate=0.5, update_epochs=50, target_kl=0.01)
    assert metrics["update/stopped_early"] == 1 and 1 <= metrics["update/steps"] < 10


def test_a_gradient_that_is_not_finite_is_an_error_and_changes_nothing():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    broken = replace(samples, advantages=torch.full_like(samples.advantages, np.nan))
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    with pytest.raises(ReflexError, match="not finite"):
        run(policy, broken, target_kl=None)
    assert all(torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))


def test_a_frozen_policy_is_refused():
    policy = TrainableFakePolicy()
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ReflexError, match="no trainable parameter"):
        make_optimiser(policy, AlgoConfig())


def test_the_reference_penalty_holds_the_policy_back():
    moved = {}
    for coefficient in (0.0, 5.0):
        policy, reference = TrainableFakePolicy(gain=0.4), TrainableFakePolicy(gain=0.4)
        samples = samples_of(policy)
        algo = AlgoConfig(
            reward="binary", minibatch_size=8, warmup_iterations=0, learning_rate=0.02, update_epochs=10,
            kl_coefficient=coefficient, target_kl=None,
        )  # fmt: skip
        update_policy(
            policy, make_optimiser(policy, algo), samples, algo, iteration=0, generator=random_generator(),
            reference=reference,
            kl_weight=coefficient,
        )  # fmt: skip
        moved[coefficient] = float((policy.bias - reference.bias).abs().sum().detach())
    assert moved[5.0] < 0.7 * moved[0.0]


def test_the_shipped_architecture_trains_on_its_own_rollouts():
    """Rollouts, prepared inputs and update of the real policy agree on every token's probability."""
    torch.manual_seed(0)
    policy = PrismaticPolicy.from_config(reflex_tiny_config())
    requests = [RolloutRequest(EpisodeRequest(task, "train", 0), task) for task in (0, 1)]
    with EnvironmentPool("fake", 2, 0, factory="tests.fakes:get_suite") as pool:
        episodes = collect_rollouts(
            policy, pool, FakeSuite(), requests, mode="sample", temperature=1.3, token_noise=8.0
        )
    rollouts = [Rollout.from_episode(episode, policy) for episode in episodes]
    samples = build_samples(rollouts, np.array([1, -1], np.float32), "token", None, random_generator())
    assert samples is not None
    metrics = run(policy, samples, temperature=1.3, token_noise=8.0, minibatch_size=4, learning_rate=1e-4)
    assert metrics["update/first_ratio_error"] < 1e-3
    assert metrics["update/steps"] >= 2 and metrics["update/gradient_norm"] > 0
