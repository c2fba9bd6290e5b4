"""V-JEPA 2's rotary position embedding from a table.

transformers works out angles, sines and cosines again in every layer and every pass, in the arithmetic of the network.
In bfloat16, position times frequency is then off by up to an eighth of a radian, and the many small operations take
longer than the attention they prepare. Here they are worked out once, in float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch


def rotation_table(attention: Any, tokens: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine [tokens, head size], float32, such that `rotate` does as an attention layer of transformers.

    A rotation is linear in its pair of coordinates, so what the layer makes of (1, 0) and of (0, 1) is all of it.
    """
    head = int(attention.attention_head_size)
    unit = torch.zeros((2, 1, tokens, head), device=device)
    unit[0, ..., 0::2] = unit[1, ..., 1::2] = 1.0
    turned = attention.apply_rotary_embeddings(unit, attention.get_position_ids(unit[:, 0]))[:, 0]
    cosine, sine = torch.empty((2, tokens, head), device=device)
    cosine[:, 0::2], sine[:, 1::2] = turned[0, :, 0::2], turned[0, :, 1::2]
    sine[:, 0::2], cosine[:, 1::2] = -turned[1, :, 0::2], turned[1, :, 1::2]
    return cosine, sine


def rotate(vectors: torch.Tensor, positions: object, *, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Queries or keys [B, heads, tokens, head size], every pair (x, y) of neighbouring coordinates turned.

    (x, y) becomes (x cos - y sin, y cos + x sin), each coordinate with its own sine and cosine, which the released
    weights were trained with. `positions` is what transformers passes, and the table knows already.
    """
    x, y = vectors[..., 0::2], vectors[..., 1::2]
    return vectors * cosine + torch.stack((-y, x), dim=-1).flatten(-2) * sine


def tabulate_rotations(encoder: Any, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
    """Let every layer of a V-JEPA 2 encoder of transformers rotate by one table, for clips of `tokens` patch tokens."""
    cosine, sine = rotation_table(encoder.layer[0].attention, tokens, device)
    turn = functools.partial(rotate, cosine=cosine.to(dtype), sine=sine.to(dtype))
    for layer in encoder.layer:
        layer.attention.apply_rotary_embeddings = turn
        layer.attention.get_position_ids = _no_positions


def _no_positions(hidden_states: torch.Tensor, masks: object = None) -> None:
    return None
