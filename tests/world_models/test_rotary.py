"""Rotations from a table: what transformers computes, and closer to it in bfloat16."""

from __future__ import annotations

import copy
import math

import torch
from transformers import VJEPA2Config, VJEPA2Model
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2RopeAttention

from tests.world_models.networks import tiny_vjepa2
from world_models.encoders.rotary import rotate, rotation_table, tabulate_rotations

CPU = torch.device("cpu")


def attention(head: int = 20, grid: int = 3) -> VJEPA2RopeAttention:
    config = VJEPA2Config(crop_size=16 * grid, hidden_size=2 * head, num_attention_heads=2)
    return VJEPA2RopeAttention(config, hidden_size=2 * head, num_attention_heads=2)


def test_by_hand():
    """A head of 6: one pair for the frame, one for the row, one for the column, each with frequency 1."""
    layer = attention(head=6, grid=3)
    cosine, sine = rotation_table(layer, 18, CPU)
    frame, row, column = 1, 2, 0  # of token 15 = 9 + 3 * 2 + 0
    expected = [math.cos(angle) for angle in (frame, frame, row, row, column, column)]
    torch.testing.assert_close(cosine[15], torch.tensor(expected))
    turned = rotate(torch.tensor([1.0, 0, 0, 1, 5, 7]), None, cosine=cosine[15], sine=sine[15])
    by_hand = [math.cos(1), math.sin(1), -math.sin(2), math.cos(2), 5, 7]
    torch.testing.assert_close(turned, torch.tensor(by_hand))


def test_in_float32_it_is_what_transformers_computes():
    """A head of 20 leaves two coordinates that belong to no axis and are not turned."""
    layer = attention()
    vectors = torch.randn((2, 2, 36, 20), generator=torch.Generator().manual_seed(0))
    cosine, sine = rotation_table(layer, 36, CPU)
    expected = layer.apply_rotary_embeddings(vectors, layer.get_position_ids(vectors[:, 0]))
    torch.testing.assert_close(rotate(vectors, None, cosine=cosine, sine=sine), expected)
    assert torch.equal(rotate(vectors, None, cosine=cosine, sine=sine)[..., 18:], vectors[..., 18:])


def test_in_bfloat16_it_is_closer_to_float32_than_transformers():
    layer = attention(head=64, grid=16)
    tokens = 16 * 16 * 32
    half = torch.randn((1, 1, tokens, 64), generator=torch.Generator().manual_seed(0)).bfloat16()
    positions = layer.get_position_ids(half[:, 0])
    exact = layer.apply_rotary_embeddings(half.float(), positions)
    cosine, sine = (table.bfloat16() for table in rotation_table(layer, tokens, CPU))
    ours = rotate(half, None, cosine=cosine, sine=sine).float()
    theirs = layer.apply_rotary_embeddings(half, positions).float()
    assert (ours - exact).abs().max() < 0.04
    assert (theirs - exact).abs().max() > 3 * (ours - exact).abs().max()


def test_every_layer_of_a_network_uses_the_table():
    torch.manual_seed(0)
    encoder = VJEPA2Model(tiny_vjepa2(num_hidden_layers=3)).eval().encoder
    changed = copy.deepcopy(encoder)
    tabulate_rotations(changed, 16, CPU, torch.float32)
    video = torch.randn((2, 8, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = encoder(pixel_values_videos=video).last_hidden_state
        torch.testing.assert_close(changed(pixel_values_videos=video).last_hidden_state, expected)
    owners = [layer.attention.apply_rotary_embeddings for layer in changed.layer]
    assert all(owner is owners[0] for owner in owners)
