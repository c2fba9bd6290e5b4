"""V-JEPA 2 (arXiv 2506.09985) from transformers as a video encoder: frozen, zero-shot, mean over all patch tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VJEPA2Model

from world_models.encoders.base import Clip, encode_in_batches, resize_planes, sample_frames
from world_models.encoders.pretrained import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Arithmetic,
    arithmetic,
    load_pretrained,
    normalised,
)
from world_models.encoders.rotary import tabulate_rotations
from world_models.errors import WorldModelError

Crop = Literal["whole", "paper"]


@dataclass(frozen=True)
class VJepa2Config:
    """How clips are shown to V-JEPA 2."""

    frames: int = 16
    """Frames of each clip, spread evenly; SRPO's recipe uses 64, at about seven times the arithmetic."""
    crop: Crop = "whole"
    """"whole": the frame resized to the model's square; "paper": short side to 256/224 of it, then centre crop."""
    tokens_per_batch: int = 32768
    """Patch tokens in one forward pass; bounds the memory. A clip larger than this goes alone."""
    dtype: Arithmetic = "auto"
    """Arithmetic; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    compiled: bool = False
    """Let torch.compile fuse the network's small operations; costs a minute at the first call."""

    def __post_init__(self) -> None:
        """Raises `WorldModelError` for a field out of range."""
        if self.frames < 1 or self.tokens_per_batch < 1:
            raise WorldModelError(f"V-JEPA 2 needs frames and tokens_per_batch of at least 1, got {self}")
        if self.crop not in get_args(Crop):
            raise WorldModelError(f"crop of V-JEPA 2 must be one of {', '.join(get_args(Crop))}, got {self.crop!r}")
        if self.dtype not in get_args(Arithmetic):
            raise WorldModelError(f"dtype of V-JEPA 2 must be auto, float32 or bfloat16, got {self.dtype!r}")


class VJepa2Encoder:
    """Embeds clips with a pretrained V-JEPA 2, [N, hidden size].

    Frames travel to the device as bytes and are resized and normalised there. The predictor is dropped: only the
    encoder's tokens are pooled.
    """

    def __init__(
        self, model: VJEPA2Model, source: str, config: VJepa2Config | None = None, device: str = "cpu"
    ) -> None:
        self.config = config or VJepa2Config()
        self.device = torch.device(device)
        self.source = source
        self.dtype = arithmetic(self.config.dtype, self.device)
        self._settings = model.config
        # The same tokens as model(..., skip_predictor=True), without the masked copy of all of them that call makes.
        encoder: Any = model.encoder.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        tabulate_rotations(encoder, self.tokens_per_clip, self.device, self.dtype)
        self.network: Any = torch.compile(encoder, dynamic=False) if self.config.compiled else encoder
        """The encoder of transformers."""
        self._mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1)
        self._deviation = torch.tensor(IMAGENET_DEVIATION, device=self.device).view(1, 3, 1, 1)

    @classmethod
    def from_pretrained(cls, source: str, config: VJepa2Config | None = None, device: str = "cpu") -> VJepa2Encoder:
        """Load from a local folder or a hub id such as "facebook/vjepa2-vitl-fpc64-256".

        Raises:
            WorldModelError: the folder or hub entry is missing, damaged or no V-JEPA 2, or lacks weights.
        """
        return cls(load_model(source), source, config, device)

    @property
    def name(self) -> str:
        label = Path(self.source).name
        family = "" if label.startswith("vjepa2") else "vjepa2-"
        return f"{family}{label}-{self.config.frames}x{self.crop_size}-{self.config.crop}"

    @property
    def embedding_size(self) -> int:
        return int(self._settings.hidden_size)

    @property
    def crop_size(self) -> int:
        """Side in pixels of the frames the model sees."""
        return int(self._settings.crop_size)

    @property
    def tokens_per_clip(self) -> int:
        """Patch tokens of one clip; a clip of fewer frames than a tubelet is repeated to fill one."""
        depth = max(1, self.config.frames // int(self._settings.tubelet_size))
        return depth * (self.crop_size // int(cast(int, self._settings.patch_size))) ** 2

    def encode(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """As `VideoEncoder.encode`. On CUDA (bfloat16) a row may differ in its last bits with the size of its batch."""
        size = self.config.tokens_per_batch // self.tokens_per_clip
        return encode_in_batches(self, clips, size, self._forward, filled=self.config.compiled)

    @torch.inference_mode()
    def _forward(self, clips: list[Clip]) -> NDArray[np.float32]:
        pixels = torch.stack([self.preprocess(clip) for clip in clips]).to(self.dtype)
        tokens = self.network(pixel_values_videos=pixels).last_hidden_state
        # Summed in float32: bfloat16 would lose the small differences between clips over thousands of tokens.
        pooled: NDArray[np.float32] = tokens.float().mean(dim=1).cpu().numpy()
        return pooled

    def preprocess(self, clip: Clip, device: torch.device | None = None) -> torch.Tensor:
        """Frames of one clip as the model wants them: float32 [T, 3, S, S], ImageNet-normalised.

        On the encoder's device unless another is given.
        """
        chosen = np.ascontiguousarray(clip[sample_frames(len(clip), self.config.frames)])
        planes = torch.from_numpy(chosen).to(device or self.device).permute(0, 3, 1, 2).float()
        planes = _fit(planes, self.crop_size, self.config.crop)
        return normalised(planes, self._mean, self._deviation)


def load_model(source: str) -> VJEPA2Model:
    """Read a V-JEPA 2 with float32 weights. Raises `WorldModelError` as `VJepa2Encoder.from_pretrained` does."""
    return cast(VJEPA2Model, load_pretrained(VJEPA2Model, source, "V-JEPA 2", needed="encoder."))


def _fit(planes: torch.Tensor, size: int, crop: Crop) -> torch.Tensor:
    """Frames [T, 3, H, W] as [T, 3, size, size], bilinear with antialiasing; see `VJepa2Config.crop`."""
    if crop == "whole":
        return resize_planes(planes, size, size)
    short = size * 256 // 224
    height, width = planes.shape[-2:]
    scale = short / min(height, width)
    planes = resize_planes(planes, max(short, round(height * scale)), max(short, round(width * scale)))
    top, left = (planes.shape[-2] - size) // 2, (planes.shape[-1] - size) // 2
    return planes[..., top : top + size, left : left + size]
