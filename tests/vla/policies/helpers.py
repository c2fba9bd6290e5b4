"""Very small policies of the real classes, and observations for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.policies import PrismaticConfig, PrismaticPolicy, TinyConfig, TinyPolicy, reflex_tiny_config
from vla.policies.blocks.vision_tower import VisionTowerConfig
from vla.policies.sampling import Sampling

INSTRUCTIONS = ["pick up the red cube", "open the drawer", "push the zorblat to the left", "stop"]


TOWER = VisionTowerConfig(
    config={
        "model_type": "convnext",
        "num_stages": 2,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "patch_size": 4,
        "layer_scale_init_value": 0.3,
        "initializer_range": 0.06,
    }
)
SMALL: dict[str, Any] = {
    "policy_id": "small",
    "language_model": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
    },
    "image_size": 16,
    "vision_tokens": 4,
    "chunk_horizon": 4,
    "execute_steps": 4,
}
"""16 px, 4 vision tokens a camera, language model of width 16."""


def small_config(**overrides: Any) -> TinyConfig:
    """Of the tiny family."""
    return reflex_tiny_config(**({"vision_tower": TOWER} | SMALL | overrides))


def small_policy(seed: int = 0, **overrides: Any) -> TinyPolicy:
    """Random weights, with a head scaled up so that distributions are far from uniform."""
    torch.manual_seed(seed)
    policy = TinyPolicy.from_config(small_config(**overrides))
    with torch.no_grad():
        policy.action_head.weight.mul_(20.0)
    return policy.eval()


def small_prismatic_config(**overrides: Any) -> PrismaticConfig:
    """Of the Prismatic family, with a tower that needs a norm and the tokenizer that needs no download."""
    values: dict[str, Any] = {
        "vision_towers": (TOWER,),
        "projector": "mlp",
        "vision_norm": True,
        "camera_embedding": True,
        "tokenizer": "words",
        "prompt_template": "{instruction}",
    }
    return PrismaticConfig(**(SMALL | values | overrides))


def small_prismatic(seed: int = 0, **overrides: Any) -> PrismaticPolicy:
    """The same of the Prismatic family."""
    torch.manual_seed(seed)
    policy = PrismaticPolicy.from_config(small_prismatic_config(**overrides))
    with torch.no_grad():
        policy.action_head.weight.mul_(20.0)
    return policy.eval()


def make_observations(count: int, size: int = 16, seed: int = 0) -> ObservationBatch:
    """Random frames and states, instructions of different lengths."""
    generator = np.random.default_rng(seed)
    return ObservationBatch(
        images={
            camera: generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
            for camera in ("image", "wrist_image")
        },
        state=generator.uniform(-1, 1, (count, 8)).astype(np.float32),
        instruction=[INSTRUCTIONS[index % len(INSTRUCTIONS)] for index in range(count)],
    )


def take(observations: ObservationBatch, rows: list[int]) -> ObservationBatch:
    """Some of the observations."""
    return ObservationBatch(
        images={camera: frames[rows] for camera, frames in observations["images"].items()},
        state=observations["state"][rows],
        instruction=[observations["instruction"][row] for row in rows],
    )


def with_picture(observations: ObservationBatch, camera: str, frames: NDArray[Any]) -> ObservationBatch:
    """The observations with other pictures of one camera."""
    return {**observations, "images": {**observations["images"], camera: frames}}


def sampled(temperature: float = 1.0, token_noise: float = 0.0, chunk_correlation: float = 0.0) -> Sampling:
    """Plain sampling, unless asked otherwise."""
    return Sampling(temperature, token_noise, chunk_correlation)


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    """One generator per environment."""
    return [np.random.default_rng([seed, index]) for index in range(count)]
