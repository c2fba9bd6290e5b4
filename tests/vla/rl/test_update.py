"""The update: gradients, minibatches, early stopping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sim.pool import EnvironmentPool, EpisodeRequest
from tests.fakes import FakeSuite
from tests.vla.rl.helpers import PLAIN, FakeInputs, TrainableFakePolicy, random_generator
from vla.errors import ReflexError
from vla.policies import TinyPolicy, reflex_tiny_config
from vla.policies.sampling import Sampling
from vla.rl.batch import Rollout, Samples, build_samples
from vla.rl.config import AlgoConfig
from vla.rl.losses import LossTerms
from vla.rl.update import Totals, accumulate_gradient, learning_rate, make_optimiser, minibatches, update_policy
from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts


def samples_of(policy: TrainableFakePolicy, count: int = 24, temperature: float = 1.0) -> Samples:
    """Decisions sampled from the policy, with alternating advantages."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(count, 8, generator=generator) * 0.1
    inputs = FakeInputs(state, tuple("move to the red target" for _ in range(count)))
    tokens = torch.randint(0, 9, (count, 56), generator=generator)
    with torch.no_grad():
        log_probs, _ = policy.log_prob(inputs, tokens, Sampling(temperature, 0.0))
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
    log_probs, _ = policy.log_prob(samples.inputs, samples.decisions, PLAIN)
    (-(log_probs * samples.advantages[:, None])[samples.executed].mean()).backward()
    assert got == pytest.approx(policy.bias.grad, abs=1e-6)


def test_the_update_raises_good_tokens_and_lowers_bad_ones():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    metrics = run(policy, samples, learning_rate=0.02, update_epochs=4)
    with torch.no_grad():
        log_probs, _ = policy.log_prob(samples.inputs, samples.decisions, PLAIN)
    change = (log_probs - samples.old_log_probs).mean(dim=1)
    assert change[samples.advantages > 0].mean() > change[samples.advantages < 0].mean()
    assert metrics["update/first_ratio_error"] < 1e-5
    assert metrics["update/steps"] == 12 and metrics["update/kl"] > 0


def test_a_temperature_that_does_not_match_the_recorded_log_probs_shows():
    policy = TrainableFakePolicy(gain=0.4)
    assert run(policy, samples_of(policy, temperature=1.3))["update/first_ratio_error"] > 0.05


def test_the_kl_target_stops_the_update_before_the_offending_step():
    policy = TrainableFakePolicy(gain=0.4)
    metrics = run(policy, samples_of(policy), learning_rate=0.002, update_epochs=50, target_kl=0.01)
    assert metrics["update/stopped_early"] == 1 and 1 <= metrics["update/steps"] < 50
    assert metrics["update/refused_kl"] > 0.01


def test_a_step_that_goes_too_far_is_taken_back():
    policy = TrainableFakePolicy(gain=0.4)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    metrics = run(policy, samples_of(policy), learning_rate=50.0, update_epochs=2, target_kl=0.01)
    assert metrics["update/stopped_early"] == 1 and metrics["update/steps"] == 0
    assert all(torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))


def test_a_divergence_that_is_no_number_stops_the_update_too():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    broken = replace(samples, old_log_probs=torch.full_like(samples.old_log_probs, np.nan))
    metrics = run(policy, broken, target_kl=0.01)
    assert metrics["update/stopped_early"] == 1 and metrics["update/steps"] == 0


def test_a_lower_scale_is_a_lower_learning_rate():
    algo = AlgoConfig(reward="binary", learning_rate=1e-3, warmup_iterations=2, constant_iterations=4)
    assert learning_rate(algo, 0, 0.5) == pytest.approx(2.5e-4)
    assert learning_rate(algo, 15, 0.25) == pytest.approx(1e-3 * 0.5 * 0.25)


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
    policy = TinyPolicy.from_config(reflex_tiny_config())
    requests = [RolloutRequest(EpisodeRequest(task, "train", 0), task) for task in (0, 1)]
    with EnvironmentPool("fake", 2, 0, factory="tests.fakes:get_suite") as pool:
        episodes = collect_rollouts(policy, pool, FakeSuite(), requests, sampling=Sampling(1.3, 8.0, 0.0))
    rollouts = [Rollout.from_episode(episode, policy) for episode in episodes]
    samples = build_samples(rollouts, np.array([1, -1], np.float32), "token", None, random_generator())
    assert samples is not None
    metrics = run(policy, samples, temperature=1.3, token_noise=8.0, minibatch_size=4, learning_rate=1e-4)
    assert metrics["update/first_ratio_error"] < 1e-3
    assert metrics["update/steps"] >= 2 and metrics["update/gradient_norm"] > 0


def test_minibatches_are_shuffled_and_every_epoch_anew():
    parts = minibatches(40, 20, 2, random_generator())
    first, second = torch.cat(parts[:2]).tolist(), torch.cat(parts[2:]).tolist()
    assert first != sorted(first) and second != sorted(second) and first != second
    assert sorted(first) == sorted(second) == list(range(40))


def test_the_schedule_s_rate_is_that_of_the_step():
    """AdamW's first step is as long as its learning rate in every parameter; a quarter of it in a warm-up of four."""
    moved = []
    for warm_up in (0, 4):
        policy = TrainableFakePolicy(gain=0.4)
        before = policy.gain.detach().clone()
        run(
            policy,
            samples_of(policy),
            learning_rate=0.01,
            warmup_iterations=warm_up,
            update_epochs=1,
            minibatch_size=24,
        )
        moved.append(float((policy.gain - before).abs().detach()))
    assert moved == pytest.approx([0.01, 0.0025], rel=1e-3)


def test_what_is_wrong_about_tokens_that_were_not_executed_is_no_ratio_error():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    elsewhere = torch.where(samples.executed, samples.old_log_probs, samples.old_log_probs - 3.0)
    assert not samples.executed.all()
    found = run(policy, replace(samples, old_log_probs=elsewhere), minibatch_size=24)
    assert found["update/first_ratio_error"] < 1e-5


def test_the_ratio_error_is_the_largest_of_the_first_minibatch_s_micro_batches():
    """One token's ratio is 1.5 and another's 1/2: the errors are 0.5 and -0.5, and 1 where it is twice as likely."""
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    for ratio, error in ((1.5, 0.5), (0.25, 0.75)):
        old = samples.old_log_probs.clone()
        old[3, 5] -= float(np.log(ratio))
        order = torch.arange(6)
        _, found = accumulate_gradient(policy, replace(samples, old_log_probs=old), order, plain(micro_batch_size=2))
        assert found == pytest.approx(error, abs=1e-4)
    nothing = replace(samples, executed=torch.zeros_like(samples.executed))
    totals, found = accumulate_gradient(policy, nothing, torch.arange(4), plain())
    assert (totals.units, found) == (0, 0.0)


def plain(**algo: Any) -> AlgoConfig:
    """Log-probabilities as the fake policy has them."""
    return AlgoConfig(reward="binary", sampling=Sampling(1.0, 0.0, 0.0), **algo)


def test_a_token_that_became_eight_times_as_likely_and_is_bad_has_no_gradient_under_a_dual_clip():
    gradients = {}
    for bound in (None, 3.0):
        policy = TrainableFakePolicy(gain=0.4)
        samples = samples_of(policy)
        bad = replace(
            samples, old_log_probs=samples.old_log_probs - float(np.log(8.0)),
            advantages=torch.full_like(samples.advantages, -1.0),
        )  # fmt: skip
        accumulate_gradient(policy, bad, torch.arange(24), plain(dual_clip=bound))
        gradients[bound] = float(policy.bias.grad.abs().max())
    assert gradients[3.0] == 0.0 < gradients[None]


def test_metrics_are_means_over_executed_units_and_steps():
    """Two epochs of one minibatch: what each step found, over both steps' tokens."""
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    config = plain(minibatch_size=24, update_epochs=1, target_kl=None, warmup_iterations=0, learning_rate=0.05)
    steps = []
    again = TrainableFakePolicy(gain=0.4)
    optimiser = make_optimiser(again, config)
    for _ in range(2):
        steps.append(update_policy(again, optimiser, samples, config, iteration=0, generator=random_generator()))
    both = update_policy(
        policy, make_optimiser(policy, config), samples, replace(config, update_epochs=2), iteration=0,
        generator=random_generator(),
    )  # fmt: skip
    for name in ("loss", "clip_share", "kl", "entropy", "gradient_norm"):
        expected = np.mean([step[f"update/{name}"] for step in steps])
        assert both[f"update/{name}"] == pytest.approx(expected, abs=1e-5), name
    assert both["update/kl"] > 0 and both["update/clip_share"] > 0 and both["update/entropy"] > 0
    assert both["update/first_ratio_error"] == steps[0]["update/first_ratio_error"] < 1e-5
    assert steps[1]["update/first_ratio_error"] > 0.01
    assert (both["update/steps"], both["update/samples"], both["update/stopped_early"]) == (2, 24, 0)
    assert both["update/reference_kl"] == 0 and both["update/learning_rate"] == 0.05


def test_totals_add_up_and_are_divided_by_their_tokens():
    one = Totals(units=2, loss=1.0, clipped=1.0, approximate_kl=0.5, reference_kl=0.25, entropy=4.0)
    other = Totals(units=2, loss=2.0, clipped=0.0, approximate_kl=1.5, reference_kl=0.75, entropy=2.0)
    one.merge(other)
    assert one == Totals(4, 3.0, 1.0, 2.0, 1.0, 6.0)
    assert one.metrics() == {
        "update/loss": 0.75, "update/clip_share": 0.25, "update/kl": 0.5, "update/reference_kl": 0.25,
        "update/entropy": 1.5,
    }  # fmt: skip
    terms = LossTerms(torch.tensor(2.0), 3, 1.0, 0.5, 0.25, 6.0)
    two = Totals()
    two.add(terms)
    two.add(terms)
    assert two == Totals(6, 4.0, 2.0, 1.0, 0.5, 12.0)
    assert set(Totals().metrics().values()) == {0.0}, "no token, no division by zero"


def test_the_kl_target_is_a_mean_over_tokens_that_may_be_reached():
    """The second step of ratio 1.5 has a distance of 0.5 - log 1.5: at that target it goes on, and below it stops."""
    distance = 0.5 - float(np.log(1.5))
    for target, stopped in ((distance * 1.01, 0.0), (distance * 0.99, 1.0)):
        policy = TrainableFakePolicy(gain=0.4)
        samples = samples_of(policy)
        moved = replace(samples, old_log_probs=samples.old_log_probs - float(np.log(1.5)))
        metrics = run(policy, moved, target_kl=target, update_epochs=1, minibatch_size=24)
        assert metrics["update/stopped_early"] == stopped
        assert metrics["update/steps"] == 1 - stopped
        assert metrics["update/gradient_norm"] == 0.0 or not stopped


def test_gradients_of_an_earlier_step_do_not_linger():
    policy = TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy)
    for parameter in policy.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    lingering = run(policy, samples, update_epochs=1, minibatch_size=24)["update/gradient_norm"]
    assert lingering < 10
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_an_update_is_made_in_evaluation_mode():
    policy = TrainableFakePolicy(gain=0.4)
    policy.train()
    run(policy, samples_of(policy))
    assert not policy.training


def test_only_parameters_that_require_a_gradient_are_optimised():
    policy = TrainableFakePolicy()
    policy.bias.requires_grad_(False)
    (group,) = make_optimiser(policy, AlgoConfig(learning_rate=0.3)).param_groups
    assert group["params"] == [policy.gain] and group["lr"] == 0.3


def test_a_mean_over_one_token_is_that_token_s():
    assert Totals(units=1, loss=3.0).metrics()["update/loss"] == 3.0


def test_a_reference_pulls_only_with_a_weight():
    moved = []
    for reference in (None, TrainableFakePolicy(gain=0.9)):
        policy, config = TrainableFakePolicy(gain=0.4), plain(minibatch_size=24, update_epochs=1, warmup_iterations=0)
        update_policy(
            policy, make_optimiser(policy, config), samples_of(policy), config, iteration=0,
            generator=random_generator(), reference=reference,
        )  # fmt: skip
        moved.append(torch.cat([policy.gain.detach()[None], policy.bias.detach()]))
    assert torch.equal(*moved)


def test_a_reference_is_asked_as_the_policy_is():
    """At the same temperature an equal reference is at no distance."""
    policy, same = TrainableFakePolicy(gain=0.4), TrainableFakePolicy(gain=0.4)
    samples = samples_of(policy, temperature=1.6)
    config = replace(plain(), sampling=Sampling(1.6, 0.0, 0.0))
    totals, _ = accumulate_gradient(policy, samples, torch.arange(24), config, same)
    assert totals.reference_kl == pytest.approx(0, abs=1e-4)
    pull = policy.bias.grad.clone()
    policy.zero_grad()
    accumulate_gradient(policy, samples, torch.arange(24), config, None)
    assert torch.equal(policy.bias.grad, pull)
    other = TrainableFakePolicy(gain=0.9)
    policy.zero_grad()
    accumulate_gradient(policy, samples, torch.arange(24), config, other)
    assert torch.equal(policy.bias.grad, pull), "a distance without a weight is only measured"


def test_the_gradient_of_one_token_is_that_token_s():
    gradients = []
    for copies in (1, 2):
        policy = TrainableFakePolicy(gain=0.4)
        samples = samples_of(policy)
        executed = torch.zeros_like(samples.executed)
        executed[0, :copies] = True
        tokens = samples.decisions.clone()
        tokens[0, 7] = tokens[0, 0]
        accumulate_gradient(policy, replace(samples, executed=executed), torch.arange(24), plain())
        gradients.append(float(policy.bias.grad[0]))
    assert gradients[1] == pytest.approx(gradients[0] / 2), "the second token is of another action entry"
