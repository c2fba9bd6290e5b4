"""What every video encoder offers, and the helpers they share.

An encoder turns clips into embeddings: one clip, one embedding, computed from that clip's own frames and nothing else.
Rewards compare rollouts, so an embedding must belong to a rollout, not to the prompt or batch it came from.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from world_models.errors import WorldModelError

Clip = NDArray[np.uint8]
"""Frames of one rollout, [T, H, W, 3], upright RGB; T differs between rollouts."""


@runtime_checkable
class VideoEncoder(Protocol):
    """Clips of any length in, one embedding per clip out."""

    @property
    def name(self) -> str:
        """Short identifier, written into results."""

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding."""

    def encode(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """Embed N clips, each uint8 [T_i, H_i, W_i, 3], as float32 [N, D], in order; no clips give [0, D].

        Row i depends on clip i only, whatever else is in the call and in whatever order.

        Raises:
            WorldModelError: a clip is empty, not uint8 or not [T, H, W, 3]; an embedding is not finite.
        """


def check_clips(clips: Iterable[Clip]) -> list[Clip]:
    """Return the clips as a list, or raise `WorldModelError` naming the first one that is not uint8 [T, H, W, 3]."""
    checked = list(clips)
    for index, clip in enumerate(checked):
        if not isinstance(clip, np.ndarray):
            raise WorldModelError(f"clip {index} is a {type(clip).__name__}; pass a NumPy array uint8 [T, H, W, 3]")
        if clip.ndim != 4 or clip.shape[-1] != 3:
            raise WorldModelError(
                f"clip {index} has shape {list(clip.shape)}; a clip is [T, H, W, 3] (pass a list of clips)"
            )
        if clip.dtype != np.uint8:
            raise WorldModelError(f"clip {index} has dtype {clip.dtype}; frames are uint8 in 0..255")
        if 0 in clip.shape:
            raise WorldModelError(f"clip {index} is empty (shape {list(clip.shape)}); a clip needs at least one frame")
    return checked


def sample_frames(length: int, count: int) -> NDArray[np.int64]:
    """Indices [count] of frames spread evenly over a clip of `length` frames, first and last included.

    A clip shorter than `count` keeps every frame once and then holds its last one: going back to the first frame would
    show a robot that finishes and starts again. One sample is the last frame, which says most about the outcome.

    Raises:
        WorldModelError: `length` or `count` is below 1.
    """
    if length < 1 or count < 1:
        raise WorldModelError(f"cannot sample {count} frames from a clip of {length}; both must be at least 1")
    if length <= count:
        return np.minimum(np.arange(count), length - 1)
    if count == 1:
        return np.array([length - 1])
    # Integer rounding (half up), so that indices do not depend on how a platform rounds floats.
    return (np.arange(count) * (length - 1) * 2 + (count - 1)) // (2 * (count - 1))


def resize_frames(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Resize uint8 frames [T, H, W, 3] to [T, size, size, 3], keeping the whole picture.

    Bilinear with antialiasing; a frame that is not square is squeezed, never cropped. Same size: returned as it is.
    """
    if frames.shape[1] == size and frames.shape[2] == size:
        return frames
    resized = resize_planes(frames.permute(0, 3, 1, 2).float(), size, size)
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def resize_planes(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Frames [T, 3, H, W] as [T, 3, height, width], bilinear with antialiasing; same size: as they are."""
    if planes.shape[-2:] == (height, width):
        return planes
    return functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def check_embeddings(embeddings: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return `embeddings` [N, D], or raise `WorldModelError` naming the first row that is not finite."""
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if broken.size:
        raise WorldModelError(
            f"encoder {name} gave a non-finite embedding for clip {int(broken[0])}; check its weights"
        )
    return embeddings


def encode_in_batches(
    encoder: VideoEncoder,
    clips: Sequence[Clip],
    size: int,
    forward: Callable[[list[Clip]], NDArray[np.float32]],
    filled: bool = False,
) -> NDArray[np.float32]:
    """Embeddings [N, D] by `forward` on up to `size` clips at a time, at least one; see `VideoEncoder.encode`.

    With `filled` every batch has `size` clips, the last one filled up with copies whose rows are dropped: a compiled
    network is compiled once for each size it meets.
    """
    checked, size = check_clips(clips), max(1, size)
    rows = []
    for first in range(0, len(checked), size):
        batch = checked[first : first + size]
        copies = [batch[-1]] * (size - len(batch)) if filled else []
        rows.append(forward(batch + copies)[: len(batch)])
    embeddings = np.concatenate(rows) if rows else np.zeros((0, encoder.embedding_size), np.float32)
    return check_embeddings(embeddings, encoder.name)


def clip_hash(clip: Clip) -> bytes:
    """Content hash of a clip: equal for equal frames, whatever array holds them."""
    digest = hashlib.blake2b(repr(clip.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(clip).data)
    return digest.digest()


class CachedEncoder:
    """An encoder that remembers the embeddings of the clips it saw last, by content.

    Successes stay in a reward's reference bank over many iterations; with this they are encoded once. Equal clips get
    equal embeddings to the bit, also where the encoder's arithmetic depends on its batch (bfloat16 on a GPU).
    """

    def __init__(self, encoder: VideoEncoder, capacity: int) -> None:
        """Remember up to `capacity` clips (least recently used leave first). Raises `WorldModelError` below 1."""
        if capacity < 1:
            raise WorldModelError(f"an embedding cache of {capacity} clips holds nothing; use a capacity of at least 1")
        self._encoder = encoder
        self._capacity = capacity
        self._entries: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def embedding_size(self) -> int:
        return self._encoder.embedding_size

    def __len__(self) -> int:
        return len(self._entries)

    def encode(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """As `VideoEncoder.encode`; only clips not seen before reach the encoder, each once."""
        keys = [clip_hash(clip) for clip in check_clips(clips)]
        new = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in self._entries}
        found = {key: self._entries[key] for key in keys if key in self._entries}
        if new:
            found.update(zip(new, self._encoder.encode(list(new.values())), strict=True))
        for key in keys:
            self._entries[key] = found[key].copy()
            self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, self.embedding_size), np.float32)
