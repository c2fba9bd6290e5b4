"""Vision towers and the projector that turns their features into the language model's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from vla.errors import ReflexError

_GAIN = 1.2  # makes up for what GELU takes away


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


class VisionTower(nn.Module):
    """A transformers vision model with its own pixel normalisation; gives tokens [B, N, C]."""

    scale: torch.Tensor
    shift: torch.Tensor
    coordinates: torch.Tensor

    def __init__(self, config: VisionTowerConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        values = dict(config.config)
        try:
            tower_config = AutoConfig.for_model(values.pop("model_type"), **values)
            self.model: nn.Module = AutoModel.from_config(tower_config)  # type: ignore[no-untyped-call] # transformers
        except (KeyError, ValueError) as error:
            raise ReflexError(f"vision tower {config.config.get('model_type')!r} cannot be built: {error}") from error
        hidden_sizes = getattr(tower_config, "hidden_sizes", None)
        self.channels = int(hidden_sizes[-1] if hidden_sizes else tower_config.hidden_size)
        mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
        # pixels come as 0..255: (x / 255 - mean) / std = x * scale + shift
        self.register_buffer("scale", (1.0 / (255.0 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)
        axis = torch.linspace(-1.0, 1.0, image_size)
        coordinates = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
        self.register_buffer("coordinates", coordinates, persistent=False)
        if hidden_sizes:
            self.model.to(memory_format=torch.channels_last)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[B, S, S, 3] pixel values 0..255 in any dtype -> [B, N, C]."""
        dtype = self.scale.dtype
        pixels = frames.permute(0, 3, 1, 2).to(dtype) * self.scale + self.shift
        if self.config.coordinate_channels:
            pixels = torch.cat([pixels, self.coordinates.expand(len(pixels), -1, -1, -1)], dim=1)
        # frames arrive as [.., H, W, 3], so this layout is free, and convolutions are fastest in it
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        last = self.config.feature_layer == -1
        output = self.model(pixel_values=pixels, output_hidden_states=not last)
        features: torch.Tensor = output.last_hidden_state if last else output.hidden_states[self.config.feature_layer]
        if features.dim() == 4:
            return features.flatten(2).transpose(1, 2)
        return features[:, self.config.prefix_tokens :]


def build_projector(kind: str, vision_size: int, hidden_size: int) -> nn.Sequential:
    """OpenVLA's projectors: two layers for one tower, three (with a 4x wider first) for fused towers."""
    if kind == "mlp":
        sizes = [vision_size, hidden_size, hidden_size]
    else:
        sizes = [vision_size, 4 * vision_size, hidden_size, hidden_size]
    return multi_layer_perceptron(sizes)


def multi_layer_perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with GELU between them, initialised to keep the scale of their input.

    torch's default shrinks it several times over two layers, so that embeddings added later would drown the pixels.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.normal_(linear.weight, std=_GAIN * inputs**-0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1])
