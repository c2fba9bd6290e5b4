"""How fast an encoder is and what memory it takes, beside the loop one would write with transformers alone."""

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
class Cost:
    """Of encoding clips one way."""

    clips_per_second: float
    """Best of the repeats, preprocessing included."""
    peak_mebibytes: float | None
    """Most memory of the CUDA device in use, weights included; None on the CPU."""


@dataclass(frozen=True)
class EncoderThroughput:
    """An encoder, and the loop it is compared with, on the same clips."""

    encoder: str
    device: str
    clips: int
    frames_per_clip: int
    """Frames of the clips given, whether or not the encoder samples fewer."""
    image_size: int
    cost: Cost
    peer: Cost | None
    """Of the plain transformers loop; None where there is no such peer."""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the peer."""
        return None if self.peer is None else self.cost.clips_per_second / self.peer.clips_per_second


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
    clips = random_clips(num_clips, frames_per_clip, image_size)
    device = torch.device(getattr(encoder, "device", "cpu"))
    cost = cost_of(encoder.encode, clips, repeats, device)
    if peer is None and getattr(encoder, "source", None):
        peer = plain_transformers_loop(encoder)
    return EncoderThroughput(
        encoder=encoder.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        clips=num_clips,
        frames_per_clip=frames_per_clip,
        image_size=image_size,
        cost=cost,
        peer=None if peer is None else cost_of(peer, clips, repeats, device),
    )


def random_clips(count: int, frames: int, size: int) -> list[Clip]:
    """Random patches of colour as clips, uint8 [frames, size, size, 3] each, with a texture of their own each.

    Raises `WorldModelError` for a number below 1.
    """
    if min(count, frames, size) < 1:
        raise WorldModelError("clips, frames per clip and image size of a benchmark must be at least 1")
    generator, cells = np.random.default_rng(0), -(-size // 16)
    patches = generator.integers(0, 256, (count, frames, cells, cells, 3), dtype=np.uint8)
    clips = patches.repeat(16, axis=2).repeat(16, axis=3)[:, :, :size, :size]
    return [np.ascontiguousarray(np.roll(clip // (1 + index % 3), index, axis=1)) for index, clip in enumerate(clips)]


def cost_of(loop: Loop, clips: Sequence[Clip], repeats: int, device: torch.device) -> Cost:
    """What a loop over clips costs: once untimed, then the best of `repeats`, of which there must be at least one."""
    if repeats < 1:
        raise WorldModelError("a benchmark needs at least 1 repeat")
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats + 1):
        if on_cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        loop(clips)
        if on_cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_cuda else None
    return Cost(len(clips) / min(times[1:]), peak)


def plain_transformers_loop(encoder: VideoEncoder, network: Any = None, dtype: torch.dtype = torch.float32) -> Loop:
    """The loop of the model card: one clip at a time, preprocessed on the CPU, V-JEPA 2's predictor and all.

    Args:
        encoder: what it is compared with; clips are shown to the network in the same way.
        network: of transformers; None to read the encoder's checkpoint a second time.
        dtype: arithmetic; the model cards say nothing, which is float32.

    Raises:
        WorldModelError: `encoder` is none of transformers'.
    """
    from world_models.encoders.images import ImageEncoder, load_image_model
    from world_models.encoders.vjepa2 import VJepa2Encoder, load_model

    if isinstance(encoder, VJepa2Encoder):
        network = network or load_model(encoder.source)
    elif isinstance(encoder, ImageEncoder):
        network = network or load_image_model(encoder.source, encoder.model_type)
    else:
        raise WorldModelError(f"encoder {encoder.name} has no counterpart in transformers to be compared with")
    network = network.to(device=encoder.device, dtype=dtype).eval()
    video, cpu = isinstance(encoder, VJepa2Encoder), torch.device("cpu")

    def loop(clips: Sequence[Clip]) -> object:
        rows = []
        for clip in clips:
            pixels = encoder.preprocess(clip, cpu).to(encoder.device, dtype)
            with torch.no_grad():
                shown = {"pixel_values_videos": pixels[None]} if video else {"pixel_values": pixels}
                rows.append(network(**shown).last_hidden_state.mean(dim=1).float().cpu())
        return rows

    return loop
