"""Configuration of the Prismatic policy, and the shape of OpenVLA-OFT 7B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vla.errors import ReflexError
from vla.policies.blocks.language import Attention
from vla.policies.blocks.vision_tower import VisionTowerConfig
from vla.policies.configuration import build, without_constants
from vla.policies.tokens.configuration import TokenPolicyConfig
from vla.policies.tokens.tokenizer import BinLayout

CONSTANTS = {"keypoints": 0, "ground_words": False, "greedy_smoothing": 0.0}
"""What folders from before there were families say of what only the tiny family has."""


@dataclass(frozen=True, kw_only=True)
class PrismaticConfig(TokenPolicyConfig):
    """Vision tower or towers -> projector -> causal language model, decoding an action chunk in parallel."""

    vision_towers: tuple[VisionTowerConfig, ...]
    """Towers whose features are concatenated channel-wise."""
    bin_layout: BinLayout = "openvla"
    """How bins cover [-1, 1]; see `ActionTokenizer`."""
    action_queries: Literal["per_dimension", "per_step"] = "per_dimension"
    """`per_dimension`: H * A queries of one token each (OpenVLA-OFT); `per_step`: H queries, each giving A tokens."""
    attention: Attention = "bidirectional"
    """`bidirectional`: every position sees every other; `causal_prefix`: a causal prefix that the queries see whole."""
    prompt_order: Literal["text_first", "vision_first"] = "vision_first"
    """`text_first`: instruction, vision, state; `vision_first`: first text token, vision, state, rest (OpenVLA)."""
    projector: Literal["mlp", "fused_mlp"] = "fused_mlp"
    """Two layers, or the three layers of OpenVLA's fused towers."""
    vision_norm: bool = False
    """LayerNorm on tower features before the projector (for towers whose features are not normalised)."""
    camera_embedding: bool = False
    """Add a learned embedding per camera and per token position within a camera."""
    tokenizer: Literal["words", "huggingface"] = "huggingface"
    """Word-level tokenizer with hashed unknown words, or a Hugging Face tokenizer folder."""
    prompt_template: str = "In: What action should the robot take to {instruction}?\nOut:"
    """Text given to the language model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.vision_towers:
            raise ReflexError("vision_towers is empty; a Prismatic policy needs at least one")
        if "{instruction}" not in self.prompt_template:
            raise ReflexError("prompt_template must contain {instruction}")

    @property
    def num_queries(self) -> int:
        """Query positions of the language model."""
        return self.chunk_horizon if self.action_queries == "per_step" else self.tokens_per_chunk

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrismaticConfig:
        """Inverse of `to_dict`. Raises `ReflexError` naming an unknown or missing field."""
        kept = without_constants(values, CONSTANTS, "prismatic")
        kept.pop("keypoint_tokens", None)
        try:
            towers = tuple(build(VisionTowerConfig, tower) for tower in kept["vision_towers"])
        except (KeyError, TypeError) as error:
            raise ReflexError(f"the policy configuration needs a list vision_towers ({error})") from error
        return build(cls, {**kept, "vision_towers": towers})


# The towers of OpenVLA at 224 px, each read one layer before its last.
_DINOV2_LARGE = VisionTowerConfig(
    config={
        "model_type": "dinov2_with_registers",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "num_register_tokens": 4,
    },
    feature_layer=-2,
    prefix_tokens=5,
    image_mean=(0.484375, 0.455078125, 0.40625),
    image_std=(0.228515625, 0.2236328125, 0.224609375),
)
_SIGLIP_SO400M = VisionTowerConfig(
    config={
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "vision_use_head": False,
    },
    feature_layer=-2,
)


def openvla_oft_config(**overrides: Any) -> PrismaticConfig:
    """OpenVLA-OFT 7B with discrete parallel decoding: DINOv2-L and SigLIP-So400m at 224 px into Llama 2 7B.

    Shapes of openvla/openvla-7b (`config.json`, `modeling_prismatic.py`); the head is the 256 rows of the language
    model's output layer that stand for action bins.
    """
    defaults: dict[str, Any] = {
        "policy_id": "openvla-oft",
        "vision_towers": (_DINOV2_LARGE, _SIGLIP_SO400M),
        "language_model": {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
        },
        "image_size": 224,
        "vision_tokens": 256,
        "state_clip": 1.0,
        "max_text_tokens": 64,
        "initial_scale": 0.02,
    }
    return build(PrismaticConfig, defaults | overrides)
