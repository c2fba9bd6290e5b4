"""Configuration of the tiny policy, and the one that is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla.errors import ReflexError
from vla.policies.blocks.vision_tower import VisionTowerConfig
from vla.policies.configuration import build, without_constants
from vla.policies.tokens.configuration import TokenPolicyConfig

CONSTANTS = {
    "ground_words": True,
    "bin_layout": "uniform",
    "action_queries": "per_step",
    "attention": "bidirectional",
    "prompt_order": "text_first",
    "projector": "mlp",
    "vision_norm": True,
    "camera_embedding": True,
    "tokenizer": "words",
    "prompt_template": "{instruction}",
}
"""What folders from before there were families say of what only the Prismatic family may choose."""


@dataclass(frozen=True, kw_only=True)
class TinyConfig(TokenPolicyConfig):
    """Vision tower and keypoints -> small language model with grounded words, one query for each action of a chunk."""

    vision_tower: VisionTowerConfig
    """Says roughly what is where."""
    keypoints: int
    """Spatial-softmax keypoints for each camera, which say exactly where (`keypoints.KeypointTower`)."""
    keypoint_tokens: int
    """Tokens for each camera that carry the keypoints, an equal share each."""
    greedy_smoothing: float = 0.0
    """Greedy decoding takes the mode after smoothing by this many bins; 0 takes the likeliest bin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keypoints < 1 or self.keypoint_tokens < 1 or self.keypoints % self.keypoint_tokens:
            raise ReflexError(
                f"keypoints is {self.keypoints}; it must be a multiple of keypoint_tokens = {self.keypoint_tokens}"
            )

    @property
    def tokens_per_camera(self) -> int:
        """Vision tokens of one camera, keypoint tokens included."""
        return self.vision_tokens + self.keypoint_tokens

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TinyConfig:
        """Inverse of `to_dict`, also of folders from before there were families.

        Raises `ReflexError` naming an unknown or missing field.
        """
        kept = without_constants(values, CONSTANTS, "tiny")
        try:
            tower = kept.pop("vision_tower") if "vision_tower" in kept else kept.pop("vision_towers")[0]
        except (KeyError, IndexError) as error:
            raise ReflexError("the policy configuration needs a vision_tower") from error
        return build(cls, {**kept, "vision_tower": build(VisionTowerConfig, tower)})


def reflex_tiny_config(**overrides: Any) -> TinyConfig:
    """The policy that trains and runs on two CPU cores: 64 px, two cameras, chunks of 8 executed whole."""
    # Patches of 8: the tower says what is where roughly; keypoints (2 px patches) say exactly where.
    tower = VisionTowerConfig(
        config={
            "model_type": "convnext",
            "num_channels": 3,
            "patch_size": 8,
            "num_stages": 3,
            "hidden_sizes": [64, 128, 256],
            "depths": [1, 1, 1],
            "drop_path_rate": 0.0,
            "layer_scale_init_value": 0.3,
            "initializer_range": 0.06,
            "hidden_act": "relu",
        },
        image_std=(0.25, 0.25, 0.25),
    )
    defaults: dict[str, Any] = {
        "policy_id": "reflex-tiny",
        "vision_tower": tower,
        "language_model": {
            "hidden_size": 160,
            "intermediate_size": 448,
            "num_hidden_layers": 4,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "initializer_range": 0.06,
            "max_position_embeddings": 256,
        },
        "image_size": 64,
        "vision_tokens": 4,
        "keypoints": 32,
        "keypoint_tokens": 4,
        "greedy_smoothing": 8.0,
    }
    return build(TinyConfig, defaults | overrides)
