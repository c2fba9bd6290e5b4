"""What only the Prismatic family can be configured to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.vla.policies.helpers import (
    generators,
    make_observations,
    sampled,
    small_prismatic,
    small_prismatic_config,
    take,
    with_picture,
)
from vla.errors import ReflexError
from vla.policies import PrismaticConfig, PrismaticPolicy, openvla_oft_config
from vla.policies.blocks.language import attention_mask
from vla.policies.blocks.text import WordTokenizer
from vla.policies.blocks.vision_tower import VisionTowerConfig
from vla.policies.configuration import build


@pytest.mark.parametrize("order", ["text_first", "vision_first"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal_prefix"])
def test_a_decision_does_not_depend_on_its_batch(order: str, attention: str) -> None:
    policy = small_prismatic(prompt_order=order, attention=attention)
    observations = make_observations(6)  # instructions of different lengths, so padding differs between batches
    together = policy(policy.prepare(observations))
    for row in range(6):
        alone = policy(policy.prepare(take(observations, [row])))
        np.testing.assert_allclose(alone[0].detach().numpy(), together[row].detach().numpy(), atol=1e-5)
    seeds = generators(6)
    whole = policy.act(observations, sampled(), seeds)
    pair = policy.act(take(observations, [4, 1]), sampled(1.0), [generators(6)[4], generators(6)[1]])
    np.testing.assert_array_equal(pair.decision, whole.decision[[4, 1]])


@pytest.mark.parametrize("attention", ["bidirectional", "causal_prefix"])
def test_attention_implementations_agree(attention: str) -> None:
    policy = small_prismatic(attention=attention)
    inputs = policy.prepare(make_observations(4))  # with padding
    fused = policy(inputs).detach().numpy()
    policy.language_model.set_attn_implementation("eager")
    np.testing.assert_allclose(policy(inputs).detach().numpy(), fused, atol=1e-4)


def test_causal_prefix_mask_by_hand() -> None:
    valid = torch.tensor([[True, False, True, True, True]])  # prefix of 3 with one padding position, 2 queries
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 1],
        [1, 0, 1, 1, 1],
    ]
    assert attention_mask(valid, 2, "causal_prefix")[0, 0].int().tolist() == expected
    assert attention_mask(valid, 2, "bidirectional")[0, 0].int().tolist() == [[1, 0, 1, 1, 1]] * 5


def test_causal_prefix_hides_later_vision_from_earlier_vision() -> None:
    observations = make_observations(1)
    changed = with_picture(observations, "wrist_image", 255 - observations["images"]["wrist_image"])
    for attention, equal in (("causal_prefix", True), ("bidirectional", False)):
        policy = small_prismatic(attention=attention)
        before = policy.forward_features(policy.prepare(observations)).vision_hidden
        after = policy.forward_features(policy.prepare(changed)).vision_hidden
        assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6) is equal  # the first camera's tokens
        assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


def test_two_vit_towers_are_fused_channel_wise() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    dinov2 = VisionTowerConfig({"model_type": "dinov2", **shape}, feature_layer=-2, prefix_tokens=1)
    siglip = VisionTowerConfig({"model_type": "siglip_vision_model", "intermediate_size": 32, **shape})
    policy = small_prismatic(
        vision_towers=(dinov2, siglip),
        projector="fused_mlp",
        vision_norm=False,
    )
    features = policy.forward_features(policy.prepare(make_observations(2)))
    assert features.vision.shape == (2, 8, 16)
    assert features.action_hidden.shape == (2, 28, 16)
    assert policy.projector[0].in_features == 32


def test_openvla_oft_is_of_this_family() -> None:
    with torch.device("meta"):
        policy = PrismaticPolicy.from_config(openvla_oft_config())
    assert 7.2e9 < sum(parameter.numel() for parameter in policy.parameters()) < 7.7e9
    assert len(policy.spec.unit_steps) == 56 and policy.action_queries.shape == (56, 4096)
    assert policy.projector[0].in_features == 1024 + 1152


def test_the_prompt_is_the_template_cut_to_its_length() -> None:
    policy = small_prismatic(prompt_template="robot {instruction} now", max_text_tokens=4)
    inputs = policy.prepare({**make_observations(1), "instruction": ["open the drawer"]})
    words = WordTokenizer()
    expected = words.encode("robot open the drawer now")[:4]
    assert inputs.text.tolist() == [expected] and inputs.text_length.tolist() == [4]
    short = policy.prepare({**make_observations(1), "instruction": ["stop"]})
    assert short.text.tolist() == [words.encode("robot stop now")]


def test_bad_configurations_are_refused() -> None:
    config = small_prismatic_config()
    with pytest.raises(ReflexError, match="execute_steps is 9"):
        dataclasses.replace(config, execute_steps=9)
    with pytest.raises(ReflexError, match="attention"):
        small_prismatic_config(attention="sideways")
    with pytest.raises(ReflexError, match="unknown policy configuration field colour"):
        build(PrismaticConfig, small_prismatic_config().to_dict() | {"colour": "red"})
    with pytest.raises(ReflexError, match="vision tower"):
        tower = VisionTowerConfig({"model_type": "no-such-model"})
        PrismaticPolicy.from_config(small_prismatic_config(vision_towers=(tower,)))
    with pytest.raises(ReflexError, match=r"give 4 tokens a frame"):
        policy = PrismaticPolicy.from_config(small_prismatic_config(vision_tokens=9, camera_embedding=False))
        policy.act(make_observations(1))
