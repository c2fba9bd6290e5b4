"""The flow policy on a very small backbone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim.contract import ObservationBatch
from sim.embodiments import Action
from tests.vla.policies.helpers import generators, make_observations, small_policy, small_prismatic
from tests.vla.rl.helpers import TrainableFakePolicy
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies import load_policy
from vla.policies.decisions import with_decision
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.head import Known, preconditioning
from vla.policies.flow.policy import FlowPolicy
from vla.policies.flow.prefix import Prefix
from vla.policies.protocol import TrainablePolicy
from vla.policies.sampling import GREEDY, Sampling, as_it_is

STEPS, HORIZON, ACTION = 3, 4, 7
NOISY = Sampling(temperature=1.0, token_noise=0.0, chunk_correlation=0.0, flow_noise=0.5)


def flow_policy(seed: int = 0, **config: Any) -> FlowPolicy:
    """A head whose outputs are not 0, so that everything has an influence."""
    backbone = small_policy(seed)
    torch.manual_seed(seed)
    settings = {"denoising_steps": STEPS, "width": 16, "layers": 1, "attention_heads": 2, "loss_draws": 4}
    policy = FlowPolicy.on(backbone, FlowConfig(**(settings | config)))
    with torch.no_grad():
        for output in (policy.head.velocity_out, policy.head.noise_out):
            if output is not None:
                torch.nn.init.normal_(output.weight, std=0.3)
    return policy


def known_of(policy: FlowPolicy, observations: ObservationBatch) -> Known:
    hidden = policy.backbone.decision_hidden(policy.prepare(observations))
    return policy.head.encode(hidden, policy.backbone.expected_values(hidden))


def test_it_is_a_trainable_policy_with_a_unit_for_each_step_of_each_action() -> None:
    policy = flow_policy()
    assert isinstance(policy, TrainablePolicy)
    assert policy.spec.unit_steps == (0, 1, 2, 3) * STEPS
    assert policy.policy_id == "small-flow"
    assert policy.spec.embodiment == policy.backbone.embodiment


def test_a_decision_is_its_denoising_chain() -> None:
    policy = flow_policy()
    output = policy.act(make_observations(2), NOISY, generators(2))
    assert output.decision.shape == (2, STEPS + 1, HORIZON, ACTION) and output.decision.dtype == np.float32
    assert output.log_probs.shape == (2, STEPS * HORIZON)
    assert np.array_equal(output.actions, policy.backbone.from_normalised(output.decision[:, -1]))
    assert output.features is not None and output.features.shape == (2, 16)


def test_actions_stay_within_the_embodiments_limits() -> None:
    policy = flow_policy()
    with torch.no_grad():
        policy.head.velocity_out.bias.fill_(50.0)
    actions = policy.act(make_observations(2)).actions
    assert (actions == 1.0).all()


def test_greedy_follows_the_ode_from_zero() -> None:
    policy = flow_policy()
    observations = make_observations(2)
    output = policy.act(observations)
    assert (output.decision[:, 0] == 0).all() and (output.log_probs == 0).all()
    known = known_of(policy, observations)
    x = torch.zeros(2, HORIZON, ACTION)
    with torch.no_grad():
        for step in range(STEPS):
            velocity, _ = policy.head(known, x, torch.full((2,), step / STEPS))
            x = x + velocity / STEPS
    assert np.allclose(output.decision[:, -1], x.numpy(), atol=1e-6)
    assert np.array_equal(policy.act(observations).actions, output.actions)


def test_sampled_as_it_is_follows_the_ode_from_random_noise() -> None:
    policy = flow_policy()
    output = policy.act(make_observations(2), as_it_is(1.0), generators(2))
    assert (output.log_probs == 0).all() and output.decision[:, 0].std() > 0.5
    again = policy.act(make_observations(2), NOISY, generators(2))
    assert np.array_equal(again.decision[:, 0], output.decision[:, 0])
    assert not np.allclose(again.actions, output.actions)


def test_temperature_scales_the_noise_that_a_chain_starts_from() -> None:
    policy = flow_policy()
    hot, mild = (
        policy.act(make_observations(2), replace(NOISY, temperature=value), generators(2)).decision
        for value in (1.0, 0.25)
    )
    assert np.allclose(mild[:, 0], 0.25 * hot[:, 0])


def test_a_sample_depends_on_its_own_generator_only() -> None:
    policy = flow_policy()
    observations = make_observations(3)
    sampling = Sampling(temperature=1.0, chunk_correlation=0.5, flow_noise=0.5)
    together = policy.act(observations, sampling, generators(3))
    alone = ObservationBatch(
        images={camera: frames[1:2] for camera, frames in observations["images"].items()},
        state=observations["state"][1:2],
        instruction=observations["instruction"][1:2],
    )
    single = policy.act(alone, sampling, generators(3)[1:2])
    assert np.allclose(single.decision[0], together.decision[1], atol=1e-5)
    with pytest.raises(ReflexError, match="one generator per environment: 3, not 2"):
        policy.act(observations, sampling, generators(2))


@pytest.mark.parametrize("noise", ["sde", "learned"])
@pytest.mark.parametrize("stochastic", [None, (0, 2)])
def test_log_probabilities_are_those_of_the_chain_written_out(noise: str, stochastic: tuple[int, ...] | None) -> None:
    policy = flow_policy(noise=noise, stochastic_steps=stochastic)
    output = policy.act(make_observations(2), NOISY, generators(2))
    chain = torch.from_numpy(output.decision).double()
    known = known_of(policy, make_observations(2))
    expected = []
    for step in range(STEPS):
        t, x, after = step / STEPS, chain[:, step], chain[:, step + 1]
        with torch.no_grad():
            velocity, log_factor = policy.head(known, x.float(), torch.full((2,), t))
        v = velocity.double()
        if stochastic is not None and step not in stochastic:
            assert torch.allclose(after, x + v / STEPS, atol=1e-5)
            continue
        if log_factor is None:
            bounded = max(t, 1 / STEPS)
            mean = x + (v - 0.25 / (2 * bounded) * (x - t * v)) / STEPS
            deviation = torch.full_like(mean, 0.5 * math.sqrt((1 - t) / bounded / STEPS))
        else:
            mean, deviation = x + v / STEPS, 0.5 * log_factor.double().exp()
        density = -0.5 * ((after - mean) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)
        expected.append(density.sum(-1))
    assert np.allclose(output.log_probs, torch.cat(expected, 1).numpy(), atol=1e-3)


@pytest.mark.parametrize("noise", ["sde", "learned"])
def test_scoring_a_decision_again_gives_ratio_one_and_a_gradient(noise: str) -> None:
    policy = flow_policy(noise=noise)
    output = policy.act(make_observations(3), NOISY, generators(3))
    log_probs, entropies = policy.log_prob(output.inputs, torch.from_numpy(output.decision), NOISY)
    assert np.allclose(np.exp(log_probs.detach().numpy() - output.log_probs), 1.0, atol=1e-3)
    assert entropies.shape == log_probs.shape
    torch.autograd.backward(log_probs.sum())
    for parameter in (policy.head.velocity_out.weight, policy.backbone.action_queries):
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0


def test_learned_deviations_stay_within_a_factor_of_two() -> None:
    policy = flow_policy(noise="learned")
    assert policy.head.noise_out is not None
    with torch.no_grad():
        policy.head.noise_out.bias[:] = torch.tensor([-100.0] * 3 + [100.0] * 4)
    inputs = policy.prepare(make_observations(1))
    chain = torch.zeros(1, STEPS + 1, HORIZON, ACTION)
    _, entropies = policy.log_prob(inputs, chain, NOISY)
    each = 0.5 * math.log(2 * math.pi * math.e)
    assert torch.allclose(entropies, torch.tensor(7 * each + 3 * math.log(0.25) + 4 * math.log(1.0)), atol=1e-4)


def test_what_has_no_density_is_refused() -> None:
    policy = flow_policy()
    output = policy.act(make_observations(1), NOISY, generators(1))
    decision = torch.from_numpy(output.decision)
    for sampling in (GREEDY, as_it_is(1.0)):
        with pytest.raises(ReflexError, match=r"sampling\.flow_noise above 0"):
            policy.log_prob(output.inputs, decision, sampling)
    with pytest.raises(ReflexError, match=r"denoising chains: expected \[1, 4, 4, 7\]"):
        policy.log_prob(output.inputs, decision[:, 1:], NOISY)


def test_weights_that_diverged_are_reported() -> None:
    policy = flow_policy()
    with torch.no_grad():
        policy.head.velocity_out.bias[0] = float("nan")
    with pytest.raises(ReflexError, match="weights have diverged"):
        policy.act(make_observations(1))


def test_head_starts_from_the_best_linear_guess() -> None:
    """Fresh, the velocity is s(t) x; its error, averaged over Gaussian data, is o(t)^2."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, generator=generator, dtype=torch.float64)
    data = 0.5 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    for time in (0.0, 0.4, 0.9):
        t = torch.tensor(time, dtype=torch.float64)
        skip, scale_in, scale_out = preconditioning(t, 0.5)
        x = (1 - t) * noise + t * data
        remainder = data - noise - skip * x
        assert float((scale_in * x).std()) == pytest.approx(1.0, abs=0.01)
        assert float(remainder.std()) == pytest.approx(float(scale_out), abs=0.01)
        assert abs(float((remainder * x).mean())) < 0.01


def test_a_fresh_head_carries_noise_to_what_the_tokens_expect() -> None:
    tokens = small_policy()
    fresh = FlowPolicy.on(small_policy(), FlowConfig(width=16, attention_heads=2, action_deviation=0.3))
    observations = make_observations(2)
    with torch.no_grad():
        distributions = torch.softmax(tokens(tokens.prepare(observations)), -1).view(2, HORIZON, ACTION, -1)
    expected = (distributions.numpy() * tokens.action_tokenizer.centres).sum(-1)
    assert np.allclose(fresh.act(observations).decision[:, -1], expected, atol=1e-5)
    # as it is: N(expected, 0.3^2), whose path from noise n is straight enough for many steps
    many = FlowPolicy.on(
        small_policy(), FlowConfig(width=16, attention_heads=2, action_deviation=0.3, denoising_steps=64)
    )
    sampled = many.act(observations, as_it_is(1.0), generators(2)).decision
    assert np.allclose(sampled[:, -1], expected + 0.3 * sampled[:, 0], atol=0.03)


def test_fine_tuning_learns_chunks_that_differ_by_observation() -> None:
    """Two observations, two chunks: after a few dozen steps each gets its own, whatever the noise."""
    policy = flow_policy()
    observations = make_observations(2)
    actions = np.zeros((2, HORIZON, ACTION), np.float32)
    actions[0], actions[1, 2] = 0.5, -0.5
    inputs = policy.prepare(observations)
    optimiser = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    for _ in range(120):
        losses, metrics = policy.imitation_loss(inputs, actions)
        assert losses.shape == (2,)
        optimiser.zero_grad()
        torch.autograd.backward(losses.mean())
        optimiser.step()
    assert set(metrics) == {"action_error"}
    assert np.abs(policy.act(observations).actions - actions).max() < 0.15
    sampled = policy.act(observations, as_it_is(1.0), generators(2)).actions
    assert np.abs(sampled - actions).mean() < 0.15


def test_the_loss_draws_from_torchs_generator() -> None:
    policy = flow_policy()
    inputs, actions = policy.prepare(make_observations(2)), np.zeros((2, HORIZON, ACTION), np.float32)
    torch.manual_seed(3)
    one, _ = policy.imitation_loss(inputs, actions)
    other, _ = policy.imitation_loss(inputs, actions)
    torch.manual_seed(3)
    again, _ = policy.imitation_loss(inputs, actions)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_frozen_vision_is_encoded_once_and_scores_alike() -> None:
    policy = flow_policy()
    before = policy.act(make_observations(2), NOISY, generators(2))
    policy.freeze_vision()
    after = policy.act(make_observations(2), NOISY, generators(2))
    assert after.inputs.images.dim() == 3
    assert np.allclose(before.decision, after.decision, atol=1e-5)
    log_probs, _ = policy.log_prob(policy.encode_vision(before.inputs), torch.from_numpy(before.decision), NOISY)
    assert np.allclose(log_probs.detach().numpy(), before.log_probs, atol=1e-3)


def test_a_saved_policy_is_the_same(tmp_path: Path) -> None:
    policy = flow_policy(noise="learned", stochastic_steps=(1, 2))
    policy.policy_id = "mine"
    policy.backbone.set_normalisation([-0.5] * 7, [0.5] * 7, [-2.0] * 8, [2.0] * 8)
    policy.save_pretrained(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    assert isinstance(loaded, FlowPolicy) and loaded.config == policy.config and loaded.policy_id == "mine"
    assert loaded.has_normalisation and loaded.spec == policy.spec
    one, other = (p.act(make_observations(2), NOISY, generators(2)) for p in (policy, loaded))
    assert np.array_equal(one.decision, other.decision) and np.array_equal(one.log_probs, other.log_probs)
    changed = flow_policy(seed=5, noise="learned", stochastic_steps=(1, 2))
    changed.load_weights_from(tmp_path / "saved")
    assert np.array_equal(changed.act(make_observations(2)).actions, policy.act(make_observations(2)).actions)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    policy = flow_policy()
    policy.save_pretrained(tmp_path / "saved")
    wrong = flow_policy(width=32)
    with pytest.raises(ReflexError, match=r"model\.safetensors: does not match"):
        wrong.load_weights_from(tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    config.write_text(config.read_text().replace('"width"', '"breadth"'))
    with pytest.raises(ReflexError, match=r"config\.json: unknown policy configuration field breadth"):
        load_policy(tmp_path / "saved")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"denoising_steps": 0}, "flow.denoising_steps is 0"),
        ({"stochastic_steps": (4,)}, "name some of 0 .. 3 in order"),
        ({"stochastic_steps": (1, 0)}, "name some of 0 .. 3 in order"),
        ({"stochastic_steps": ()}, "name some of 0 .. 3 in order"),
        ({"width": 30}, "attention_heads = 4 must divide it"),
        ({"noise": "pink"}, "noise"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        FlowConfig(**values)


def test_a_policy_is_given_another_kind_of_decision() -> None:
    tokens = small_policy()
    flow = with_decision(tokens, "flow", FlowConfig(width=16, attention_heads=2))
    assert isinstance(flow, FlowPolicy) and flow.backbone is tokens
    assert with_decision(flow, None, FlowConfig()) is flow and with_decision(flow, "flow", FlowConfig()) is flow
    assert with_decision(flow, "tokens", FlowConfig()) is tokens
    with pytest.raises(ReflexError, match="decision=flow needs a backbone"):
        with_decision(TrainableFakePolicy(), "flow", FlowConfig())


def test_a_policy_for_another_robot_keeps_what_means_the_same() -> None:
    policy = flow_policy()
    own = policy.spec.embodiment
    same = policy.adapt(own)
    assert isinstance(same.policy, FlowPolicy) and not [part for part in same.fresh if part.startswith("head.")]
    assert np.array_equal(same.policy.act(make_observations(2)).actions, policy.act(make_observations(2)).actions)
    other = replace(own, action=Action(names=("left", "right"), kind="velocity", low=(-1.0,) * 2, high=(1.0,) * 2))
    adapted = policy.adapt(other, chunk_horizon=2)
    assert isinstance(adapted.policy, FlowPolicy)
    assert {"head.action_in", "head.velocity_out", "head.position"} <= set(adapted.fresh)
    assert "head.layers" in adapted.taken and "head.layers" not in adapted.fresh
    ours, theirs = adapted.policy.head.state_dict(), policy.head.state_dict()
    assert torch.equal(ours["layers.0.project_in.weight"], theirs["layers.0.project_in.weight"])
    output = adapted.policy.act(make_observations(1), NOISY, generators(1))
    assert output.actions.shape == (1, 2, 2) and output.log_probs.shape == (1, STEPS * 2)


@pytest.mark.parametrize("queries", ["per_step", "per_dimension"])
def test_the_prismatic_family_is_a_backbone_too(queries: str, tmp_path: Path) -> None:
    backbone = small_prismatic(action_queries=queries)
    policy = FlowPolicy.on(backbone, FlowConfig(denoising_steps=2, width=16, attention_heads=2))
    size = backbone.config.image_size
    output = policy.act(make_observations(2, size), NOISY, generators(2))
    log_probs, _ = policy.log_prob(output.inputs, torch.from_numpy(output.decision), NOISY)
    assert np.allclose(log_probs.detach().numpy(), output.log_probs, atol=1e-3)
    policy.save_pretrained(tmp_path / "saved")
    again = load_policy(tmp_path / "saved").act(make_observations(2, size), NOISY, generators(2))
    assert np.array_equal(again.decision, output.decision)


def test_one_observation_is_found_by_the_names_of_the_feature_map() -> None:
    policy, observations = flow_policy(), make_observations(1)
    wanted = policy.act(observations).actions[0]
    policy.feature_map = FeatureMap({"image": "observation.images.left"})
    flat = {
        "observation.images.left": observations["images"]["image"][0],
        "observation.images.wrist_image": observations["images"]["wrist_image"][0],
        "observation.state": observations["state"][0],
        "task": observations["instruction"][0],
    }
    np.testing.assert_array_equal(policy.select_action(flat), wanted)


def test_a_prefix_is_continued_and_none_changes_nothing() -> None:
    policy, observations = flow_policy(denoising_steps=10), make_observations(2)
    free = policy.act(observations).actions
    wanted = np.clip(free[0, :3] + 0.3, -0.9, 0.9)
    continued = policy.act(observations, prefix=Prefix(wanted, delay=2)).actions[0]
    before, after = np.abs(free[0, :3] - wanted), np.abs(continued[:3] - wanted)
    assert after[:2].mean() < 0.5 * before[:2].mean(), "what will have been executed is kept"
    assert after[2].mean() > 1.5 * after[:2].mean(), "a later action is pulled less"
    assert np.array_equal(policy.act(observations).actions, free)
    sampled = policy.act(observations, as_it_is(1.0), generators(2), prefix=Prefix(wanted, delay=2)).actions[0]
    assert np.abs(sampled[:2] - wanted[:2]).mean() < before[:2].mean()
    with pytest.raises(ReflexError, match="steps are certain"):
        policy.act(observations, NOISY, generators(2), prefix=Prefix(wanted, delay=2))
