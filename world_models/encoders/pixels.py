"""Downsampled pixels as an embedding: the control every learned encoder has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from world_models.encoders.base import Clip, check_clips, sample_frames
from world_models.errors import WorldModelError

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""


@dataclass(frozen=True)
class PixelConfig:
    """What the pixel encoder keeps of a clip."""

    size: int = 16
    """Side in pixels to which frames are averaged down."""
    frames: int = 4
    """Frames kept, spread evenly over the clip, the last one always among them."""
    colour: bool = True
    """Keep red, green and blue; otherwise brightness only."""


class PixelEncoder:
    """A few frames, averaged down to small pictures in [0, 1] and flattened in (frame, row, column, colour) order."""

    def __init__(self, config: PixelConfig | None = None) -> None:
        """Raises `WorldModelError` when a size is below 1."""
        self.config = config or PixelConfig()
        if self.config.size < 1 or self.config.frames < 1:
            raise WorldModelError(f"the pixel encoder needs size and frames of at least 1, got {self.config}")

    @property
    def name(self) -> str:
        return "pixels"

    @property
    def embedding_size(self) -> int:
        return self.config.frames * self.config.size**2 * (3 if self.config.colour else 1)

    def encode(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """As `VideoEncoder.encode`; values are in [0, 1]."""
        embeddings = [self._embed(clip) for clip in check_clips(clips)]
        return np.stack(embeddings) if embeddings else np.zeros((0, self.embedding_size), np.float32)

    def _embed(self, clip: Clip) -> NDArray[np.float32]:
        frames = torch.from_numpy(clip[sample_frames(len(clip), self.config.frames)]).permute(0, 3, 1, 2).float() / 255
        if not self.config.colour:
            frames = (frames * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        small = functional.interpolate(frames, size=(self.config.size, self.config.size), mode="area")
        return small.permute(0, 2, 3, 1).reshape(-1).numpy()
