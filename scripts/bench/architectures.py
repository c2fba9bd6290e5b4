"""The released encoders' networks with random weights: what they cost can be measured where they cannot be fetched."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
    VJEPA2Config,
    VJEPA2Model,
)

from world_models.encoders.base import VideoEncoder
from world_models.encoders.images import FAMILIES, ImageEncoder, ImageEncoderConfig
from world_models.encoders.pretrained import Arithmetic
from world_models.encoders.vjepa2 import VJepa2Config, VJepa2Encoder
from world_models.errors import WorldModelError


def _width(hidden: int, layers: int, heads: int, mlp: int | None = None) -> dict[str, Any]:
    named = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return named if mlp is None else {**named, "intermediate_size": mlp}


_SMALL, _BASE, _LARGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
_GIANT: dict[str, Any] = {**_width(1408, 40, 22), "mlp_ratio": 48 / 11}
_WINDOWS: dict[str, Any] = {"image_size": 518, "patch_size": 14}

SETTINGS: dict[str, PreTrainedConfig] = {
    "vjepa2-vitl": VJEPA2Config(),
    "vjepa2-vith": VJEPA2Config(**_width(1280, 32, 16)),
    "vjepa2-vitg": VJEPA2Config(**_GIANT),
    "vjepa2-vitg-384": VJEPA2Config(**_GIANT, crop_size=384),
    "dinov2-vits": Dinov2WithRegistersConfig(**_width(*_SMALL), **_WINDOWS),
    "dinov2-vitb": Dinov2WithRegistersConfig(**_width(*_BASE), **_WINDOWS),
    "dinov2-vitl": Dinov2WithRegistersConfig(**_width(*_LARGE), **_WINDOWS),
    "dinov3-vits": DINOv3ViTConfig(**_width(*_SMALL, 1536), num_register_tokens=4),
    "dinov3-vitb": DINOv3ViTConfig(**_width(*_BASE, 3072), num_register_tokens=4),
    "dinov3-vitl": DINOv3ViTConfig(**_width(*_LARGE, 4096), num_register_tokens=4),
    "siglip2-base": SiglipVisionConfig(**_width(*_BASE, 3072), image_size=224, patch_size=16),
    "siglip2-large": SiglipVisionConfig(**_width(*_LARGE, 4096), image_size=256, patch_size=16),
}
"""The networks behind the short names of `load_encoder`."""


def random_network(name: str, device: str = "cpu") -> Any:
    """The network of a released encoder in float32, weights random. Raises `WorldModelError` for an unknown name."""
    if name not in SETTINGS:
        raise WorldModelError(f"unknown network {name!r}; known are {', '.join(SETTINGS)}")
    settings = SETTINGS[name]
    settings._attn_implementation = "sdpa"
    model_class: Any = VJEPA2Model if isinstance(settings, VJEPA2Config) else FAMILIES[settings.model_type].model_class
    with torch.device(device):
        return model_class(settings).eval()


def random_encoder(
    name: str,
    network: Any,
    device: str = "cpu",
    *,
    frames: int | None = None,
    compiled: bool = False,
    dtype: Arithmetic = "auto",
) -> VideoEncoder:
    """The encoder `load_encoder(name)` gives, around a network of `random_network`, which it takes for itself.

    Args:
        name: of the network.
        network: its weights are moved to the device and to the encoder's arithmetic.
        device: where to compute.
        frames: of every clip; None for the encoder's own number.
        compiled: see `VJepa2Config.compiled`.
        dtype: arithmetic.
    """
    chosen: dict[str, Any] = {"compiled": compiled, "dtype": dtype, **({} if frames is None else {"frames": frames})}
    if network.config.model_type == "vjepa2":
        return VJepa2Encoder(network, name, VJepa2Config(**chosen), device)
    config = ImageEncoderConfig(**chosen)
    return ImageEncoder(network, name, network.config.model_type, config, device)
