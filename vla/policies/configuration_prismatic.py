"""Configurations of the Prismatic policy: the tiny one trained here and the shape of OpenVLA-OFT 7B."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from vla.errors import ReflexError
from vla.run.settings import Checks

Attention = Literal["bidirectional", "causal_prefix"]
ActionQueries = Literal["per_dimension", "per_step"]
PromptOrder = Literal["text_first", "vision_first"]


@dataclass(frozen=True)
class VisionTowerConfig:
    """One vision tower: a transformers vision model built from a configuration dictionary."""

    config: dict[str, Any]
    """Keyword arguments of the transformers configuration, with `model_type` (such as "convnext")."""
    feature_layer: int = -1
    """Which hidden state feeds the projector; -1 is the model's last hidden state, -2 (OpenVLA) the layer before."""
    prefix_tokens: int = 0
    """Class and register tokens at the front of the output, which are dropped."""
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Per-channel mean, for pixels in [0, 1]."""
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Per-channel standard deviation, for pixels in [0, 1]."""
    coordinate_channels: bool = False
    """Append two channels holding each pixel's x and y in [-1, 1] (the tower's num_channels is then 5)."""


@dataclass(frozen=True)
class PrismaticConfig:
    """Vision tower or towers -> projector -> causal language model, decoding an action chunk in parallel."""

    policy_id: str
    """Short name written into episodes."""
    vision_towers: tuple[VisionTowerConfig, ...]
    """Towers whose features are concatenated channel-wise."""
    language_model: dict[str, Any]
    """Keyword arguments of transformers' LlamaConfig; `vocab_size` is set from the tokenizer when absent."""
    image_size: int
    """Side in pixels of the square frames the towers consume."""
    vision_tokens: int
    """Tokens that each camera contributes."""
    keypoints: int = 0
    """Spatial-softmax keypoints per camera, for policies too small to localise from patch tokens; 0 for none."""
    keypoint_tokens: int = 8
    """Tokens per camera that carry the keypoints, an equal share each."""
    ground_words: bool = False
    """Add to each instruction token where the cameras see what it names (`keypoints.WordGrounding`)."""
    cameras: tuple[str, ...] = ("image", "wrist_image")
    """Observation keys it reads, in order."""
    state_size: int = 8
    """Length of the proprioceptive state given as one token; 0 leaves it out."""
    action_size: int = 7
    """A: dimensions of one action."""
    chunk_horizon: int = 8
    """H: actions in a chunk."""
    execute_steps: int = 8
    """Actions executed before the next decision."""
    num_bins: int = 256
    """Bins per action dimension."""
    bin_layout: Literal["uniform", "openvla"] = "uniform"
    """How bins cover [-1, 1]; see `ActionTokenizer`."""
    greedy_smoothing: float = 0.0
    """Greedy decoding takes the mode after smoothing by this many bins; 0 takes the likeliest bin (OpenVLA)."""
    unnormalised_dimensions: tuple[int, ...] = (6,)
    """Action dimensions left in [-1, 1] as they are: the gripper."""
    state_clip: float = 2.0
    """Normalised states are clipped to +- this."""
    action_queries: ActionQueries = "per_step"
    """`per_dimension`: H * A queries of one token each (OpenVLA-OFT); `per_step`: H queries, each giving A tokens."""
    attention: Attention = "bidirectional"
    """`bidirectional`: every position sees every other; `causal_prefix`: a causal prefix that the queries see whole."""
    prompt_order: PromptOrder = "text_first"
    """`text_first`: instruction, vision, state; `vision_first`: first text token, vision, state, rest (OpenVLA)."""
    projector: Literal["mlp", "fused_mlp"] = "mlp"
    """Two layers, or the three layers of OpenVLA's fused towers."""
    vision_norm: bool = True
    """LayerNorm on tower features before the projector (for towers whose features are not normalised)."""
    camera_embedding: bool = True
    """Add a learned embedding per camera and per token position within a camera."""
    tokenizer: Literal["words", "huggingface"] = "words"
    """Word-level tokenizer with hashed unknown words, or a Hugging Face tokenizer folder."""
    prompt_template: str = "{instruction}"
    """Text given to the language model."""
    max_text_tokens: int = 24
    """Longer prompts are cut here."""
    initial_scale: float = 0.3
    """Standard deviation of embeddings at initialisation."""

    def __post_init__(self) -> None:
        Checks(self).literals()
        if not self.vision_towers:
            raise ReflexError("vision_towers is empty; a Prismatic policy needs at least one")
        if not 1 <= self.execute_steps <= self.chunk_horizon:
            raise ReflexError(
                f"execute_steps is {self.execute_steps}; it must lie in 1 .. {self.chunk_horizon} (the chunk)"
            )
        if not self.cameras:
            raise ReflexError("cameras is empty; name at least one observation key")
        if self.keypoints % self.keypoint_tokens or self.keypoints < 0:
            raise ReflexError(
                f"keypoints is {self.keypoints}; it must be a multiple of keypoint_tokens = {self.keypoint_tokens}"
            )
        if self.ground_words and not self.keypoints:
            raise ReflexError("ground_words needs keypoints, whose patch features words look at; set keypoints")
        if "{instruction}" not in self.prompt_template:
            raise ReflexError("prompt_template must contain {instruction}")

    @property
    def tokens_per_camera(self) -> int:
        """Vision tokens of one camera, keypoint tokens included."""
        return self.vision_tokens + (self.keypoint_tokens if self.keypoints else 0)

    @property
    def tokens_per_chunk(self) -> int:
        """K: action tokens in a chunk."""
        return self.chunk_horizon * self.action_size

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """H and A: actions in a chunk and dimensions of an action."""
        return self.chunk_horizon, self.action_size

    @property
    def num_queries(self) -> int:
        """Query positions of the language model."""
        return self.chunk_horizon if self.action_queries == "per_step" else self.tokens_per_chunk

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrismaticConfig:
        """Inverse of `to_dict`. Raises `ReflexError` naming an unknown or missing field."""
        try:
            towers = tuple(_checked(VisionTowerConfig, tower) for tower in values["vision_towers"])
        except (KeyError, TypeError) as error:
            raise ReflexError(f"the policy configuration needs a list vision_towers ({error})") from error
        return _checked(cls, {**values, "vision_towers": towers})


Built = TypeVar("Built", PrismaticConfig, VisionTowerConfig)


def _checked(kind: type[Built], values: dict[str, Any]) -> Built:
    """Build a configuration from keyword values (lists become tuples), naming fields that are unknown or missing."""
    known = [entry.name for entry in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ReflexError(f"unknown policy configuration field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ReflexError(f"the policy configuration is incomplete or malformed: {error}") from error


def reflex_tiny_config(**overrides: Any) -> PrismaticConfig:
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
        "vision_towers": (tower,),
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
        "ground_words": True,
        "greedy_smoothing": 8.0,
    }
    return _checked(PrismaticConfig, defaults | overrides)


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
        "bin_layout": "openvla",
        "action_queries": "per_dimension",
        "prompt_order": "vision_first",
        "projector": "fused_mlp",
        "vision_norm": False,
        "camera_embedding": False,
        "tokenizer": "huggingface",
        "prompt_template": "In: What action should the robot take to {instruction}?\nOut:",
        "max_text_tokens": 64,
        "initial_scale": 0.02,
    }
    return _checked(PrismaticConfig, defaults | overrides)
