"""Picture augmentation on uint8 frames: random shifts and colour jitter, vectorised over the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vla.run.settings import Checks


@dataclass
class AugmentationConfig:
    """Ranges of the random changes; every frame of every camera draws its own."""

    shift_pixels: int = 2
    """Largest shift in each direction, in pixels; the border is replicated. 0 turns shifts off."""
    brightness: float = 0.15
    """Largest change of brightness, as a share of the full range."""
    contrast: float = 0.15
    """Contrast is scaled by 1 +- this about mid-grey."""
    colour: float = 0.08
    """Each colour channel is scaled by 1 +- this."""

    def __post_init__(self) -> None:
        Checks(self, "augmentation.").at_least(0, "shift_pixels", "brightness", "contrast", "colour")


def small_picture_augmentation() -> AugmentationConfig:
    """For pictures of 64 pixels, in which a pixel is about a centimetre: no shifts, and mild changes of the looks."""
    return AugmentationConfig(shift_pixels=0, brightness=0.08, contrast=0.1, colour=0.05)


def shift_frames(frames: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Shift frames [N, H, W, 3] by whole pixels: output[y, x] = input[y + offsets[:, 0], x + offsets[:, 1]].

    Reads beyond the border take the border pixel.
    """
    count, height, width, _ = frames.shape
    device = frames.device
    rows = (torch.arange(height, device=device) + offsets[:, :1]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=device) + offsets[:, 1:]).clamp_(0, width - 1)
    samples = torch.arange(count, device=device)
    return frames[samples[:, None, None], rows[:, :, None], columns[:, None, :]]


def jitter_colours(frames: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Affine colour change of uint8 frames [N, H, W, 3]: frames * scale + offset ([N, 3] each), rounded and clamped."""
    changed = torch.addcmul(offset[:, None, None, :], frames.float(), scale[:, None, None, :])
    return changed.round_().clamp_(0, 255).to(torch.uint8)


def augment_frames(images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator) -> torch.Tensor:
    """Augment uint8 frames [B, cameras, S, S, 3]; same shape and dtype. Randomness comes from the CPU `generator`."""
    frames = images.flatten(0, 1)
    count = len(frames)
    if config.shift_pixels:
        low, high = -config.shift_pixels, config.shift_pixels + 1
        offsets = torch.randint(low, high, (count, 2), generator=generator)
        frames = shift_frames(frames, offsets.to(frames.device))
    if config.brightness or config.contrast or config.colour:
        draws = 2.0 * torch.rand(count, 5, generator=generator) - 1.0
        contrast = 1.0 + config.contrast * draws[:, :1]
        scale = contrast * (1.0 + config.colour * draws[:, 2:])
        # contrast pivots about mid-grey, brightness shifts
        offset = 127.5 * (1.0 - contrast) + 255.0 * config.brightness * draws[:, 1:2]
        frames = jitter_colours(frames, scale.to(frames.device), offset.expand(-1, 3).to(frames.device))
    return frames.view_as(images)
