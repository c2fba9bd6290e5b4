"""Decoding, log-probabilities and shapes of policies over action tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sim.contract import Observation, ObservationBatch
from sim.embodiments import PANDA_EEF, State
from tests.vla.policies.helpers import (
    generators,
    make_observations,
    sampled,
    small_config,
    small_policy,
    small_prismatic,
    with_picture,
)
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies import GREEDY, ModelInputs, Policy, Sampling, TinyPolicy, reflex_tiny_config
from vla.policies.blocks.text import WordTokenizer
from vla.policies.tokens.decoding import log_probs_and_entropies, sample_tokens
from vla.policies.tokens.policy import TokenPolicy

FAMILIES = (small_policy, small_prismatic)


def test_satisfies_the_protocol_and_emits_actions_in_range() -> None:
    policy = small_policy()
    assert isinstance(policy, Policy)
    output = policy.act(make_observations(3), sampled(1.0), generators(3))
    assert output.actions.shape == (3, 4, 7) and output.actions.dtype == np.float32
    assert output.decision.shape == output.log_probs.shape == (3, 28) and output.decision.dtype == np.int64
    assert np.abs(output.actions).max() <= 1.0
    np.testing.assert_array_equal(output.actions, policy.detokenize(output.decision))


def test_greedy_takes_the_most_likely_token_and_reports_temperature_one() -> None:
    policy = small_policy(greedy_smoothing=0.0)
    observations = make_observations(2)
    output = policy.act(observations, GREEDY)
    logits = policy(policy.prepare(observations))
    np.testing.assert_array_equal(output.decision, logits.argmax(-1).numpy())
    log_probs, _ = log_probs_and_entropies(logits, torch.from_numpy(output.decision), 1.0)
    np.testing.assert_allclose(output.log_probs, log_probs.detach().numpy(), atol=1e-5)


def test_every_input_reaches_the_logits() -> None:
    policy = small_policy()
    observations = make_observations(1)
    before = policy(policy.prepare(observations))
    changes: list[ObservationBatch] = [
        with_picture(observations, "image", 255 - observations["images"]["image"]),
        with_picture(observations, "wrist_image", 255 - observations["images"]["wrist_image"]),
        {**observations, "state": observations["state"] + 0.3},
        {**observations, "instruction": ["close the drawer"]},
    ]
    for changed in changes:
        assert (policy(policy.prepare(changed)) - before).abs().max() > 1e-3


def test_sampling_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.1, 0.0, 0.6, 0.3])).expand(1, 20000, 4)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, 20000)))
    counts = torch.bincount(sample_tokens(logits, 1.0, uniforms).flatten(), minlength=4) / 20000
    np.testing.assert_allclose(counts.numpy(), [0.1, 0.0, 0.6, 0.3], atol=0.012)
    hot = torch.bincount(sample_tokens(logits, 2.0, uniforms).flatten(), minlength=4) / 20000
    weights = np.sqrt([0.1, 0.0, 0.6, 0.3])
    np.testing.assert_allclose(hot.numpy(), weights / weights.sum(), atol=0.012)


def test_sampling_at_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[[-1e9, 0.0, 0.0, -1e9]]])
    assert sample_tokens(logits, 1.0, torch.tensor([[0.0]])).item() == 1
    assert sample_tokens(logits, 1.0, torch.tensor([[1.0 - 1e-12]], dtype=torch.float64)).item() == 2


def test_log_probability_by_hand() -> None:
    logits = torch.log(torch.tensor([[[0.25, 0.75]]]))
    log_probs, entropies = log_probs_and_entropies(logits, torch.tensor([[1]]), 1.0)
    assert log_probs.item() == pytest.approx(np.log(0.75))
    assert entropies.item() == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))


def test_frames_of_another_size_are_resized() -> None:
    policy = small_policy()
    flat = make_observations(2, size=32)
    flat["images"]["image"][:] = 77
    inputs = policy.prepare(flat)
    assert inputs.images.shape == (2, 2, 16, 16, 3) and inputs.images.dtype == torch.uint8
    assert (inputs.images[:, 0] == 77).all()
    block = np.kron(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), np.ones((1, 2, 2, 3), np.uint8))
    shrunk = policy.prepare(with_picture(flat, "image", np.repeat(block, 2, axis=0))).images[0, 0, :, :, 0]
    np.testing.assert_array_equal(shrunk.numpy(), np.arange(256).reshape(16, 16))


def test_inputs_are_indexed_and_joined() -> None:
    policy = small_policy()
    inputs = policy.prepare(make_observations(4))
    parts = ModelInputs.concatenate([inputs[torch.tensor([2, 3])], inputs[torch.tensor([0, 1])]])
    whole = policy(inputs).detach().numpy()
    np.testing.assert_allclose(policy(parts).detach().numpy(), whole[[2, 3, 0, 1]], atol=1e-5)


def test_word_tokenizer() -> None:
    tokenizer = WordTokenizer(["pick", "red"], num_buckets=8)
    assert tokenizer.encode("Pick, RED!") == [1, 10, 11]
    unknown = tokenizer.encode("zorblat")
    assert unknown == tokenizer.encode("zorblat") and 2 <= unknown[1] < 10
    assert WordTokenizer().encode("pick up the red cube and put it on the plate").count(1) == 1


def test_training_mode_changes_nothing() -> None:
    policy = small_policy()
    inputs = policy.prepare(make_observations(3))
    evaluated = policy.eval()(inputs)
    assert torch.equal(policy.train()(inputs), evaluated)


def test_bad_requests_are_refused() -> None:
    policy = small_policy()
    observations = make_observations(2)
    with pytest.raises(ReflexError, match="one generator per environment"):
        policy.act(observations, sampled())
    broken = observations["state"].copy()
    broken[1, 3] = np.nan
    with pytest.raises(ReflexError, match=r"rows \[1\]"):
        policy.act({**observations, "state": broken})
    with pytest.raises(ReflexError, match="uint8"):
        policy.act(with_picture(observations, "image", observations["images"]["image"].astype(np.float32)))
    with pytest.raises(ReflexError, match=r"expected \[2, 28\]"):
        policy.log_prob(policy.prepare(observations), torch.zeros(2, 27, dtype=torch.long), GREEDY)
    with torch.no_grad():
        policy.action_head.bias[3] = float("inf")
    with pytest.raises(ReflexError, match="NaN or infinite logits"):
        policy.act(observations)


def test_noisy_tokens_carry_the_probability_they_were_drawn_with() -> None:
    policy = small_policy()
    observations = make_observations(3)
    plain = policy.act(observations, sampled(1.3), generators(3))
    output = policy.act(observations, sampled(1.3, 6.0), generators(3))
    moved = output.decision - plain.decision  # the first draw is the same one
    assert 4.0 < moved.std() < 8.0
    log_probs, _ = policy.log_prob(policy.prepare(observations), torch.from_numpy(output.decision), sampled(1.3, 6.0))
    np.testing.assert_allclose(output.log_probs, log_probs.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("clip", [1.0, 2.0])
def test_a_state_beyond_the_clip_is_seen_as_at_the_clip(clip: float) -> None:
    """With quantiles -1 and 1 a state is its own normalised value."""
    policy = small_policy(state_clip=clip)
    observations = make_observations(3)

    def logits(state: float) -> torch.Tensor:
        return policy(policy.prepare({**observations, "state": np.full((3, 8), state, np.float32)})).detach()

    assert torch.equal(logits(50.0), logits(clip)) and torch.equal(logits(-50.0), logits(-clip))
    assert (logits(clip) - logits(0.9 * clip)).abs().max() > 1e-4
    assert (logits(clip) - logits(-clip)).abs().max() > 1e-3


def test_states_are_seen_relative_to_their_quantiles() -> None:
    """What is halfway between the quantiles looks like halfway, wherever they are."""
    policy, moved = small_policy(), small_policy()
    low, high = np.linspace(-3.0, 1.0, 8), np.linspace(2.0, 9.0, 8)
    moved.set_normalisation(np.full(7, -1.0), np.full(7, 1.0), low, high)
    observations = make_observations(3)
    shares = (observations["state"] + 1.0) / 2.0
    there: ObservationBatch = {**observations, "state": (low + shares * (high - low)).astype(np.float32)}
    expected = policy(policy.prepare(observations)).detach()
    torch.testing.assert_close(moved(moved.prepare(there)).detach(), expected, atol=1e-4, rtol=1e-4)
    assert (moved(moved.prepare(observations)).detach() - expected).abs().max() > 1e-3


def test_actions_are_coded_relative_to_their_quantiles_but_for_the_gripper() -> None:
    policy = small_policy()
    low, high = np.linspace(-0.9, -0.3, 7), np.linspace(0.2, 0.8, 7)
    policy.set_normalisation(low, high, np.full(8, -1.0), np.full(8, 1.0))
    ends = policy.detokenize(np.stack([np.zeros(28, np.int64), np.full(28, 255)]))
    half_bin = (high - low) / 512
    np.testing.assert_allclose(ends[0, 0, :6], (low + half_bin)[:6], atol=1e-6)
    np.testing.assert_allclose(ends[1, 3, :6], (high - half_bin)[:6], atol=1e-6)
    np.testing.assert_allclose(ends[:, :, 6], [[-1 + 1 / 256] * 4, [1 - 1 / 256] * 4], atol=1e-6)
    outside = np.zeros((1, 4, 7), np.float32)
    outside[0, 2] = [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.5]
    tokens = policy.tokenize_actions(outside).reshape(4, 7)[2]
    assert tokens.tolist() == [0, 255, 0, 255, 0, 255, 192]


def test_greedy_ignores_what_sampling_is_asked_for_and_sampling_does_not() -> None:
    policy = small_policy()
    observations = make_observations(2)
    greedy = policy.act(observations)
    other = policy.act(observations, Sampling(0.0, token_noise=6.0, chunk_correlation=0.5))
    np.testing.assert_array_equal(greedy.decision, other.decision)
    np.testing.assert_array_equal(greedy.log_probs, other.log_probs)
    plain = policy.act(observations, sampled(), generators(2)).decision
    for changed in (sampled(3.0), sampled(token_noise=6.0), sampled(chunk_correlation=0.9)):
        assert (policy.act(observations, changed, generators(2)).decision != plain).any()


def test_what_a_decision_carries_is_what_it_was_made_from() -> None:
    policy = small_policy()
    observations = make_observations(5)
    output = policy.act(observations)
    inputs = policy.prepare(observations)
    assert torch.equal(output.inputs.images, inputs.images) and torch.equal(output.inputs.text, inputs.text)
    assert output.features is not None
    np.testing.assert_allclose(policy.features_from_inputs(inputs, batch_size=2), output.features, atol=1e-5)
    hidden = policy.forward_features(inputs).action_hidden.detach().numpy()
    np.testing.assert_allclose(output.features, hidden.mean(1), atol=1e-5)


def test_a_decision_of_a_policy_with_frozen_vision_keeps_encoded_pictures() -> None:
    policy = small_policy()
    policy.freeze_vision()
    observations = make_observations(2)
    output = policy.act(observations)
    assert output.inputs.images.dim() == 3
    assert policy.encode_vision(output.inputs) is output.inputs
    log_probs, _ = policy.log_prob(output.inputs, torch.from_numpy(output.decision), GREEDY)
    np.testing.assert_allclose(log_probs.detach().numpy(), output.log_probs, atol=1e-5)


def test_unknown_words_fall_into_buckets_by_a_hash_that_never_changes() -> None:
    assert WordTokenizer(["pick"], num_buckets=64).encode("zorblat pick") == [1, 2 + 52, 66]


def test_actions_stay_within_what_an_environment_takes() -> None:
    policy = small_policy()
    policy.set_normalisation(np.full(7, -1.5), np.full(7, 1.5), np.full(8, -1.0), np.full(8, 1.0))
    ends = policy.detokenize(np.stack([np.zeros(28, np.int64), np.full(28, 255)]))
    assert ends[..., :6].min() == -1.0 and ends[..., :6].max() == 1.0


def test_actions_are_clipped_to_the_embodiment_s_own_limits() -> None:
    """A joint in radians goes beyond 1; one that turns less than its quantiles say stops at its limit."""
    limits = dataclasses.replace(PANDA_EEF.action, kind="joint_position", low=(-3.0,) * 7, high=(0.5,) * 7, stay=None)
    torch.manual_seed(0)
    policy = TinyPolicy.from_config(
        small_config(unnormalised_dimensions=()), embodiment=dataclasses.replace(PANDA_EEF, action=limits)
    )
    policy.set_normalisation(np.full(7, -2.0), np.full(7, 2.0), np.full(8, -1.0), np.full(8, 1.0))
    ends = policy.detokenize(np.stack([np.zeros(28, np.int64), np.full(28, 255)]))
    np.testing.assert_allclose(ends[0], -2.0 + 2 / 256, rtol=1e-6)
    assert (ends[1] == 0.5).all()


def test_an_embodiment_that_the_configuration_does_not_fit_is_refused_with_both_sides() -> None:
    two_fingers = dataclasses.replace(PANDA_EEF, state=State(("x", "y", "z")))
    with pytest.raises(ReflexError, match=r"a state of 8 and actions of 7; the embodiment is panda: .*state of 3"):
        TinyPolicy.from_config(small_config(), embodiment=two_fingers)
    blind_to_state = TinyPolicy.from_config(small_config(state_size=0), embodiment=two_fingers)
    assert not blind_to_state.spec.uses_state and blind_to_state.spec.embodiment.state.size == 3


def test_cameras_are_looked_for_under_the_names_of_the_feature_map() -> None:
    policy = small_policy()
    observations = make_observations(1)
    renamed: ObservationBatch = {
        **observations,
        "images": {"front": observations["images"]["image"], "hand": observations["images"]["wrist_image"]},
    }
    with pytest.raises(ReflexError, match=r"camera 'image' is to be 'image' here, and the observation has front, hand"):
        policy.act(renamed)
    policy.feature_map = FeatureMap({"image": "front", "wrist_image": "hand"})
    np.testing.assert_array_equal(policy.act(renamed).decision, small_policy().act(observations).decision)


def test_one_observation_may_be_ours_or_a_lerobot_dataset_s() -> None:
    policy = small_policy()
    batch = make_observations(1)
    expected = policy.act(batch).actions[0]
    images, instruction = {name: frames[0] for name, frames in batch["images"].items()}, batch["instruction"][0]
    ours = Observation(images=images, state=batch["state"][0], instruction=instruction)
    np.testing.assert_array_equal(policy.select_action(ours), expected)
    assert expected.shape == (4, 7)
    flat = {f"observation.images.{name}": frame for name, frame in images.items()}
    flat |= {"observation.state": batch["state"][0], "task": instruction}
    np.testing.assert_array_equal(policy.select_action(flat), expected)
    libero = {**flat, "observation.images.image2": flat["observation.images.wrist_image"]}
    del libero["observation.images.wrist_image"]
    np.testing.assert_array_equal(policy.select_action(libero), expected)
    tensors = {
        f"observation.images.{name}": torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        for name, frame in images.items()
    }
    tensors |= {"observation.state": torch.from_numpy(batch["state"]), "task": [instruction]}
    np.testing.assert_array_equal(policy.select_action(tensors), expected)
    with pytest.raises(ReflexError, match=r"observation\.images\.image: floating-point pictures are in \[0, 1\]"):
        policy.select_action(flat | {"observation.images.image": np.full((16, 16, 3), 200.0)})
    with pytest.raises(ReflexError, match=r"this one has pixels"):
        policy.select_action({"pixels": images["image"]})


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("make", FAMILIES)
def test_log_prob_equals_what_act_reported(temperature: float, make: Callable[[], TokenPolicy]) -> None:
    policy = make()
    observations = make_observations(5)
    output = policy.act(observations, sampled(temperature), generators(5))
    inputs = policy.prepare(observations)
    log_probs, entropies = policy.log_prob(inputs, torch.from_numpy(output.decision), sampled(temperature))
    np.testing.assert_allclose(log_probs.detach().numpy(), output.log_probs, atol=1e-5)
    assert log_probs.requires_grad
    distribution = torch.softmax(policy(inputs) / temperature, dim=-1)
    expected = -(distribution * distribution.log()).sum(-1)
    np.testing.assert_allclose(entropies.detach().numpy(), expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("make", FAMILIES)
def test_encoded_vision_gives_the_same_logits_and_keeps_the_rest_learning(make: Callable[[], TokenPolicy]) -> None:
    policy = make()
    inputs = policy.prepare(make_observations(5))
    whole = policy(inputs).detach()
    policy.freeze_vision()
    encoded = policy.encode_vision(inputs, batch_size=2)
    seen = {"tiny": 2 * (4 + 4) + 24, "prismatic": 2 * 4}[policy.family]  # where words are seen is kept too
    assert encoded.images.shape == (5, seen, 16)
    logits = policy(encoded[torch.tensor([3, 1])])
    torch.testing.assert_close(logits.detach(), whole[[3, 1]])
    torch.autograd.backward(logits.square().mean())
    learning = {name for name, value in policy.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in learning} == {
        "language_model", "state_projector", "action_queries", "action_head"
    }  # fmt: skip
    assert all(
        parameter.grad is None for name, parameter in policy.named_parameters() if name.startswith("vision_towers")
    )


def test_tiny_policy_has_the_stated_shape() -> None:
    policy = TinyPolicy.from_config(reflex_tiny_config())
    assert 2e6 <= sum(parameter.numel() for parameter in policy.parameters()) <= 6e6
    assert policy.spec.embodiment.cameras[0].height == 64 and len(policy.spec.unit_steps) == 56
    assert policy.act(make_observations(1, size=64)).actions.shape == (1, 8, 7)
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in policy.modules())


def test_bfloat16_is_close_to_float32_and_can_be_left_again():
    policy = small_policy()
    inputs = policy.prepare(make_observations(6))
    exact = policy(inputs).detach()
    policy.set_precision("bfloat16")
    rough = policy(inputs).detach().float()
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()
    policy.set_precision("float32")
    torch.testing.assert_close(policy(inputs).detach(), exact)
    with pytest.raises(ReflexError, match="auto, float32 or bfloat16"):
        policy.set_precision("half")


def test_a_configuration_that_cannot_work_is_refused() -> None:
    with pytest.raises(ReflexError, match="execute_steps is 9"):
        dataclasses.replace(small_config(), execute_steps=9)
    with pytest.raises(ReflexError, match="unknown policy configuration field colour"):
        small_config(colour="red")
    with pytest.raises(ReflexError, match="cameras is empty"):
        small_config(cameras=())
