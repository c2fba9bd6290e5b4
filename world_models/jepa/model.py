"""The networks: frames to latents, and latents to the next latent."""

from __future__ import annotations

import torch
from torch import nn

from world_models.jepa.config import JepaConfig


class FrameEncoder(nn.Module):
    """Non-overlapping 4 x 4 patches, two strided convolutions and a linear layer: one frame to one latent.

    The patches make it cheap enough for a single CPU thread; convolutions read small pictures better than a small
    transformer does there.
    """

    def __init__(self, image_size: int, width: int, latent_size: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=4, stride=4),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1),
            nn.SiLU(),
        )
        features = 2 * width * (image_size // 16) ** 2
        self.normalise = nn.LayerNorm(features)
        self.project = nn.Linear(features, latent_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents [N, D] of uint8 frames [N, H, W, 3]."""
        # Channels-last memory is how frames are stored and what CPU convolutions like: this permute copies nothing.
        planes = frames.permute(0, 3, 1, 2).float().mul_(2 / 255).sub_(1)
        features = self.convolutions(planes).flatten(start_dim=1)
        latents: torch.Tensor = self.project(self.normalise(features))
        return latents


class LatentPredictor(nn.Module):
    """A recurrent network that reads latents up to a moment and predicts the change to the next one."""

    def __init__(self, latent_size: int, hidden_size: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(latent_size, hidden_size, batch_first=True)
        self.project = nn.Linear(hidden_size, latent_size)
        # Starts as the copy baseline: predicting no change.
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Predictions [B, T, D] of the latent after each of latents [B, T, D], from it and those before it."""
        hidden, _ = self.recurrent(latents)
        predictions: torch.Tensor = latents + self.project(hidden)
        return predictions


class Jepa(nn.Module):
    """Frame encoder and latent predictor, trained together."""

    def __init__(self, config: JepaConfig) -> None:
        super().__init__()
        self.encoder = FrameEncoder(config.image_size, config.width, config.latent_size)
        self.predictor = LatentPredictor(config.latent_size, config.predictor_size)
        # mypy knows the overloads of Module.to without the memory format
        self.encoder.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode_windows(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents [B, T, D] of uint8 windows [B, T, H, W, 3]."""
        latents: torch.Tensor = self.encoder(frames.flatten(0, 1))
        return latents.reshape(frames.shape[0], frames.shape[1], -1)
