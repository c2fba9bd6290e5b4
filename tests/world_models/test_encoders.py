"""Encoders and their helpers: one embedding per clip, from that clip alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.world_models.clips import moving_squares
from world_models.encoders import CachedEncoder, PixelConfig, PixelEncoder, VideoEncoder, load_encoder, sample_frames
from world_models.encoders.base import clip_hash, resize_frames, resize_planes
from world_models.errors import WorldModelError
from world_models.jepa import JepaConfig, JepaEncoder
from world_models.jepa.model import Jepa


def untrained_jepa() -> JepaEncoder:
    torch.manual_seed(0)
    config = JepaConfig(width=8, latent_size=8, predictor_size=8)
    return JepaEncoder(Jepa(config), config)


ENCODERS = pytest.mark.parametrize("encoder", [PixelEncoder(), untrained_jepa()], ids=["pixels", "jepa"])


@ENCODERS
def test_eight_rollouts_of_one_prompt_give_eight_embeddings(encoder: VideoEncoder) -> None:
    """Rollouts from one initial state share their first frame and their instruction, and still have their own rows."""
    clips, _ = moving_squares(8, seed=1)
    for clip in clips:
        clip[0] = clips[0][0]
    embeddings = encoder.encode(clips)
    assert embeddings.shape == (8, encoder.embedding_size)
    assert embeddings.dtype == np.float32
    assert len(np.unique(embeddings, axis=0)) == 8


@ENCODERS
def test_an_embedding_depends_on_its_own_clip_only(encoder: VideoEncoder) -> None:
    clips, _ = moving_squares(6, seed=2)
    together = encoder.encode(clips)
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    backwards = encoder.encode(clips[::-1])[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)


@ENCODERS
def test_embeddings_are_no_views_of_the_clips(encoder: VideoEncoder) -> None:
    clips, _ = moving_squares(1, seed=3)
    before = encoder.encode(clips)
    kept = before.copy()
    clips[0][:] = 0
    assert np.array_equal(before, kept)


@ENCODERS
def test_no_clips_give_no_embeddings(encoder: VideoEncoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.embedding_size)


@ENCODERS
@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "clip 1 has dtype float32"),
        (np.zeros((0, 8, 8, 3), np.uint8), "clip 1 is empty"),
        (np.zeros((4, 0, 8, 3), np.uint8), "clip 1 is empty"),
        (np.zeros((8, 8, 3), np.uint8), r"clip 1 has shape \[8, 8, 3\]"),
        (np.zeros((4, 3, 8, 8), np.uint8), r"clip 1 has shape \[4, 3, 8, 8\]"),
        ([[1]], "clip 1 is a list"),
    ],
)
def test_bad_clips_are_named(encoder: VideoEncoder, clip: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(WorldModelError, match=message):
        encoder.encode([np.zeros((2, 8, 8, 3), np.uint8), clip])


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [
        (9, 3, [0, 4, 8]),
        (10, 4, [0, 3, 6, 9]),
        (4, 3, [0, 2, 3]),  # 1.5 rounds up
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 6, [0, 1, 2, 2, 2, 2]),  # holds the last frame, never starts again
        (1, 2, [0, 0]),
        (7, 1, [6]),
    ],
)
def test_sampled_frames(length: int, count: int, expected: list[int]) -> None:
    assert sample_frames(length, count).tolist() == expected


@given(st.integers(1, 1000), st.integers(2, 100))
def test_sampled_frames_are_even_and_reach_both_ends(length: int, count: int) -> None:
    indices = sample_frames(length, count)
    assert len(indices) == count
    assert indices[0] == 0
    assert indices[-1] == length - 1
    steps = np.diff(indices)
    assert steps.min() >= 0
    if length >= count:
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(("length", "count"), [(0, 4), (4, 0)])
def test_nothing_cannot_be_sampled(length: int, count: int) -> None:
    with pytest.raises(WorldModelError, match="at least 1"):
        sample_frames(length, count)


def test_pixels_are_averaged_in_order() -> None:
    """2 x 2 frames averaged to one pixel; of three frames, first and last are kept."""
    clip = np.zeros((3, 2, 2, 3), np.uint8)
    clip[0, 0, 0] = (255, 0, 51)
    clip[1] = 9
    clip[2] = (102, 255, 0)
    colour = PixelEncoder(PixelConfig(size=1, frames=2)).encode([clip])
    np.testing.assert_allclose(colour, [[0.25, 0, 0.05, 0.4, 1, 0]], atol=1e-6)
    grey = PixelEncoder(PixelConfig(size=1, frames=2, colour=False)).encode([clip])
    np.testing.assert_allclose(grey, [[0.25 * 0.299 + 0.05 * 0.114, 0.4 * 0.299 + 0.587]], atol=1e-6)


def test_resizing_keeps_the_borders_of_the_frame() -> None:
    frames = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    frames[:, :, -4:] = 200
    small = resize_frames(frames, 16)
    assert small.shape == (1, 16, 16, 3)
    assert small[0, 8, -1].min() > 100
    assert small[0, 8, 7].max() == 0


def test_resizing_averages_what_it_leaves_out() -> None:
    """A one-pixel checkerboard shrinks to grey; picking single pixels would leave it black and white."""
    board = (np.indices((48, 48)).sum(axis=0) % 2 * 255).astype(np.uint8)
    frames = torch.from_numpy(np.repeat(board[None, :, :, None], 3, axis=3))
    small = resize_frames(frames, 16).float()
    assert 90 < small.min() <= small.max() < 165
    assert float(small.mean()) == pytest.approx(127.5, abs=1.0)


def test_planes_are_resized_to_their_height_and_width() -> None:
    planes = torch.zeros(1, 3, 32, 64)
    planes[:, :, :16] = 200.0
    small = resize_planes(planes, 8, 4)
    assert small.shape == (1, 3, 8, 4)
    assert small[0, :, :3].min() > 199 and small[0, :, 5:].max() < 1
    assert resize_planes(planes, 32, 64) is planes


def test_a_hash_is_of_content_and_shape() -> None:
    """Equal bytes in another shape are another clip; equal content in another array is the same."""
    content = np.arange(2 * 4 * 2 * 3, dtype=np.uint8)
    shapes = [(2, 4, 2, 3), (4, 2, 2, 3), (2, 2, 4, 3), (1, 8, 2, 3)]
    assert len({clip_hash(content.reshape(shape)) for shape in shapes}) == len(shapes)
    clip = content.reshape(shapes[0])
    strided = np.repeat(clip, 2, axis=2)[:, :, ::2]
    assert not strided.flags.c_contiguous and clip_hash(strided) == clip_hash(clip)
    changed = clip.copy()
    changed[1, 3, 1, 2] += 1
    assert clip_hash(changed) != clip_hash(clip)


class CountingEncoder:
    """Pixels, counting the clips that reach it."""

    name = "counting"

    def __init__(self) -> None:
        self.inner = PixelEncoder(PixelConfig(size=2, frames=1))
        self.embedding_size = self.inner.embedding_size
        self.seen = 0

    def encode(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        self.seen += len(clips)
        return self.inner.encode(clips)


def test_the_cache_encodes_equal_content_once_and_stays_bounded() -> None:
    counting = CountingEncoder()
    cached = CachedEncoder(counting, capacity=2)
    clips, _ = moving_squares(3, seed=4)
    first = cached.encode([clips[0], clips[1], clips[0].copy()])
    assert counting.seen == 2
    assert np.array_equal(first[0], first[2])
    first[0] = -1.0  # the caller's array is not the cache's
    assert np.array_equal(cached.encode([clips[0]]), counting.inner.encode([clips[0]]))
    assert counting.seen == 2
    cached.encode([clips[2]])  # pushes out clip 1, the least recently used
    assert len(cached) == 2
    cached.encode([clips[0]])
    assert counting.seen == 3
    cached.encode([clips[1]])
    assert counting.seen == 4


def test_a_call_larger_than_the_cache_is_answered_in_full() -> None:
    clips, _ = moving_squares(4, seed=5)
    cached = CachedEncoder(PixelEncoder(), capacity=1)
    assert np.array_equal(cached.encode(clips), PixelEncoder().encode(clips))
    assert len(cached) == 1
    with pytest.raises(WorldModelError, match="capacity"):
        CachedEncoder(PixelEncoder(), capacity=0)


def test_encoders_are_found_by_name_and_folder(tmp_path: Path) -> None:
    assert load_encoder("pixels").name == "pixels"
    assert isinstance(load_encoder("pixels", cache_clips=3), CachedEncoder)
    untrained_jepa().save(tmp_path / "small")
    assert isinstance(load_encoder(str(tmp_path / "small")), JepaEncoder)


def test_an_unknown_encoder_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match=r"unknown encoder 'pixel'.*'pixels'.*train_jepa.*vjepa2-vitl"):
        load_encoder("pixel")
    with pytest.raises(WorldModelError, match=r"no config\.json"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WorldModelError, match="model_type 'bert'"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(WorldModelError, match=r"cannot read .*config\.json"):
        load_encoder(str(tmp_path))
