"""DINOv2, DINOv3 and SigLIP 2 from transformers as video encoders: frames one by one, frozen, patch tokens averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    PreTrainedModel,
    SiglipVisionModel,
)

from world_models.encoders.base import Clip, encode_in_batches, resize_planes, sample_frames
from world_models.encoders.pretrained import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Arithmetic,
    arithmetic,
    load_pretrained,
    normalised,
)
from world_models.errors import WorldModelError


@dataclass(frozen=True)
class Family:
    """What tells one kind of network from another."""

    model_class: type[PreTrainedModel]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    any_size: bool
    """Whether it takes pictures of any multiple of its patch size, or of its own size only."""


_DINO = (IMAGENET_MEAN, IMAGENET_DEVIATION, True)
_HALF = (0.5, 0.5, 0.5)
FAMILIES = {
    "dinov2": Family(Dinov2Model, *_DINO),
    "dinov2_with_registers": Family(Dinov2WithRegistersModel, *_DINO),
    "dinov3_vit": Family(DINOv3ViTModel, *_DINO),
    "siglip": Family(SiglipVisionModel, _HALF, _HALF, any_size=False),
    "siglip_vision_model": Family(SiglipVisionModel, _HALF, _HALF, any_size=False),
}
"""By `model_type`. SigLIP 2's checkpoints of one picture size are "siglip"; their vision tower is read."""

LAST_FRAMES = 2
"""Frames at a clip's end that are averaged apart from all."""


@dataclass(frozen=True)
class ImageEncoderConfig:
    """How clips are shown to a network that knows pictures only."""

    frames: int = 8
    """Frames of each clip, spread evenly."""
    size: int = 224
    """Side in pixels of the frames shown, where the network takes any; rounded down to whole patches."""
    frames_per_batch: int | None = None
    """Frames in one forward pass, whole clips; bounds the memory. Null for 64 on CUDA and one clip at a time on a CPU,
    whose caches larger batches do not fit."""
    dtype: Arithmetic = "auto"
    """Arithmetic; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    compiled: bool = False
    """Let torch.compile fuse the network's small operations; costs a minute at the first call."""

    def __post_init__(self) -> None:
        """Raises `WorldModelError` for a field out of range."""
        for name in ("frames", "size", "frames_per_batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise WorldModelError(f"{name} of an image encoder must be at least 1, not {getattr(self, name)}")
        if self.dtype not in get_args(Arithmetic):
            raise WorldModelError(f"dtype of an image encoder must be auto, float32 or bfloat16, not {self.dtype!r}")


class ImageEncoder:
    """Embeds clips frame by frame: [N, 2 x hidden size], the mean over all frames beside that over the last two.

    A frame is the mean of its patch tokens; class and register tokens are left out. The end says how far a rollout got,
    the mean what it did on the way.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        source: str,
        model_type: str,
        config: ImageEncoderConfig | None = None,
        device: str = "cpu",
    ) -> None:
        """`model_type` is one of `FAMILIES`. Raises `WorldModelError` for frames smaller than a patch."""
        self.config = config or ImageEncoderConfig()
        self.device = torch.device(device)
        self.source, self.model_type = source, model_type
        self.dtype = arithmetic(self.config.dtype, self.device)
        settings: Any = model.config
        self._patch, self._hidden = int(settings.patch_size), int(settings.hidden_size)
        family = FAMILIES[model_type]
        self.size = self.config.size // self._patch * self._patch if family.any_size else int(settings.image_size)
        if self.size < self._patch:
            raise WorldModelError(f"size={self.config.size} is smaller than a patch of {source!r} ({self._patch} px)")
        self.patches = (self.size // self._patch) ** 2
        network: Any = model  # transformers annotates the wrapped method
        network = network.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        self.network: Any = torch.compile(network, dynamic=False) if self.config.compiled else network
        """Of transformers."""
        self._mean = torch.tensor(family.mean, device=self.device).view(1, 3, 1, 1)
        self._deviation = torch.tensor(family.deviation, device=self.device).view(1, 3, 1, 1)

    @classmethod
    def from_pretrained(
        cls, source: str, model_type: str, config: ImageEncoderConfig | None = None, device: str = "cpu"
    ) -> ImageEncoder:
        """Load from a local folder or a hub id such as "facebook/dinov2-small".

        Raises:
            WorldModelError: the folder or hub entry is missing, damaged, of another network, or lacks weights.
        """
        return cls(load_image_model(source, model_type), source, model_type, config, device)

    @property
    def name(self) -> str:
        return f"{Path(self.source).name}-{self.config.frames}x{self.size}"

    @property
    def embedding_size(self) -> int:
        return 2 * self._hidden

    def encode(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """As `VideoEncoder.encode`. On CUDA (bfloat16) a row may differ in its last bits with the size of its batch."""
        frames = self.config.frames_per_batch or (1 if self.device.type == "cpu" else 64)
        size = frames // self.config.frames
        return encode_in_batches(self, clips, size, self._forward, filled=self.config.compiled)

    @torch.inference_mode()
    def _forward(self, clips: list[Clip]) -> NDArray[np.float32]:
        shown = torch.cat([self.preprocess(clip) for clip in clips]).to(self.dtype)
        frames = self.frame_vectors(self.network(pixel_values=shown).last_hidden_state)
        frames = frames.view(len(clips), self.config.frames, self._hidden)
        last = frames[:, -min(LAST_FRAMES, self.config.frames) :].mean(dim=1)
        pooled: NDArray[np.float32] = torch.cat([frames.mean(dim=1), last], dim=1).cpu().numpy()
        return pooled

    def frame_vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean [F, D] of the patch tokens, which are the last ones, of tokens [F, K, D]; float32."""
        return tokens[:, -self.patches :].float().mean(dim=1)

    def preprocess(self, clip: Clip, device: torch.device | None = None) -> torch.Tensor:
        """Frames of one clip as the model wants them: float32 [T, 3, S, S], whole and normalised.

        On the encoder's device unless another is given.
        """
        chosen = np.ascontiguousarray(clip[sample_frames(len(clip), self.config.frames)])
        planes = torch.from_numpy(chosen).to(device or self.device).permute(0, 3, 1, 2).float()
        return normalised(resize_planes(planes, self.size, self.size), self._mean, self._deviation)


def load_image_model(source: str, model_type: str) -> PreTrainedModel:
    """Read a network with float32 weights. Raises `WorldModelError` as `ImageEncoder.from_pretrained` does."""
    return load_pretrained(FAMILIES[model_type].model_class, source, model_type)
