"""How fast an encoder is, beside the loop one would write with transformers alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from world_models.encoders.base import Clip, VideoEncoder
from world_models.errors import WorldModelError

Loop = Callable[[Sequence[Clip]], object]
"""Anything that encodes clips; its result is thrown away."""


@dataclass(frozen=True)
class EncoderThroughput:
    """Frames are those of the clips given, whether or not the encoder samples fewer."""

    encoder: str
    device: str
    clips: int
    frames_per_clip: int
    image_size: int
    frames_per_second: float
    """Best of the repeats."""
    peer_frames_per_second: float | None
    """Of the plain transformers loop on the same clips and device; None where there is no such peer."""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the peer."""
        return None if self.peer_frames_per_second is None else self.frames_per_second / self.peer_frames_per_second


def encoder_throughput(
    encoder: VideoEncoder,
    num_clips: int = 8,
    frames_per_clip: int = 16,
    image_size: int = 64,
    repeats: int = 3,
    peer: Loop | None = None,
) -> EncoderThroughput:
    """Time `encoder.encode` on random clips, and `peer` on the same ones.

    Without a `peer`, an encoder from transformers is compared with `plain_transformers_loop`; others have none. Each
    side runs once untimed. Raises `WorldModelError` when a count is below 1.
    """
    if min(num_clips, frames_per_clip, image_size, repeats) < 1:
        raise WorldModelError("clips, frames per clip, image size and repeats of a benchmark must be at least 1")
    shape = (num_clips, frames_per_clip, image_size, image_size, 3)
    clips = list(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    device = torch.device(getattr(encoder, "device", "cpu"))
    if peer is None and getattr(encoder, "source", None):
        peer = plain_transformers_loop(encoder)
    frames = num_clips * frames_per_clip
    return EncoderThroughput(
        encoder=encoder.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        clips=num_clips,
        frames_per_clip=frames_per_clip,
        image_size=image_size,
        frames_per_second=frames / _best_time(encoder.encode, clips, repeats, device),
        peer_frames_per_second=None if peer is None else frames / _best_time(peer, clips, repeats, device),
    )


def plain_transformers_loop(encoder: VideoEncoder) -> Loop:
    """The loop of the model card: one clip at a time, float32, preprocessed on the CPU, V-JEPA 2's predictor and all.

    Reads the encoder's checkpoint a second time and shows it the same frames at the same size. Raises `WorldModelError`
    when `encoder` is none of transformers'.
    """
    from world_models.encoders.images import ImageEncoder, load_image_model
    from world_models.encoders.vjepa2 import VJepa2Encoder, load_model

    on_cpu: VJepa2Encoder | ImageEncoder
    if isinstance(encoder, VJepa2Encoder):
        model: Any = load_model(encoder.source)
        on_cpu = VJepa2Encoder(model, encoder.source, encoder.config, "cpu")
    elif isinstance(encoder, ImageEncoder):
        model = load_image_model(encoder.source, encoder.model_type)
        on_cpu = ImageEncoder(model, encoder.source, encoder.model_type, encoder.config, "cpu")
    else:
        raise WorldModelError(f"encoder {encoder.name} has no counterpart in transformers to be compared with")
    model.to(encoder.device)
    model.train(False)
    video = isinstance(encoder, VJepa2Encoder)

    def loop(clips: Sequence[Clip]) -> object:
        rows = []
        for clip in clips:
            pixels = on_cpu.preprocess(clip).to(encoder.device)
            with torch.no_grad():
                shown = {"pixel_values_videos": pixels[None]} if video else {"pixel_values": pixels}
                rows.append(model(**shown).last_hidden_state.mean(dim=1).cpu())
        return rows

    return loop


def _best_time(loop: Loop, clips: Sequence[Clip], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        loop(clips)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
