"""Networks small enough for a test."""

from __future__ import annotations

from typing import Any

from transformers import VJEPA2Config


def tiny_vjepa2(**changes: Any) -> VJEPA2Config:
    """Two layers of width 48 on frames of 32 px: 2 x 2 patches of 16, so 8 frames are 16 tokens."""
    settings: dict[str, Any] = {
        "crop_size": 32,
        "hidden_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    }
    return VJEPA2Config(**{**settings, **changes})
