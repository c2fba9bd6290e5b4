"""A very small policy of the real class, and observations for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sim.contract import ObservationBatch
from vla.policies import PrismaticConfig, PrismaticPolicy, reflex_tiny_config
from vla.policies.configuration_prismatic import VisionTowerConfig
from vla.policies.sampling import Sampling

INSTRUCTIONS = ["pick up the red cube", "open the drawer", "push the zorblat to the left", "stop"]


def small_config(**overrides: Any) -> PrismaticConfig:
    """16 px, 4 vision tokens a camera, language model of width 16."""
    tower = VisionTowerConfig(
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
    language_model = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
    }
    values: dict[str, Any] = {
        "policy_id": "small",
        "vision_towers": (tower,),
        "language_model": language_model,
        "image_size": 16,
        "vision_tokens": 4,
        "chunk_horizon": 4,
        "execute_steps": 4,
    }
    return reflex_tiny_config(**(values | overrides))


def small_policy(seed: int = 0, **overrides: Any) -> PrismaticPolicy:
    """Random weights, with a head scaled up so that distributions are far from uniform."""
    torch.manual_seed(seed)
    policy = PrismaticPolicy.from_config(small_config(**overrides))
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


def sampled(temperature: float = 1.0, token_noise: float = 0.0, chunk_correlation: float = 0.0) -> Sampling:
    """Plain sampling, unless asked otherwise."""
    return Sampling(temperature, token_noise, chunk_correlation)


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    """One generator per environment."""
    return [np.random.default_rng([seed, index]) for index in range(count)]
