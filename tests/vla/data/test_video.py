from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.vla.data.foreign import encode
from tests.vla.data.samples import SIZE, join_videos, make_episode
from vla.data.images import resize_frames
from vla.data.video import decode_video, encode_video, video_checksum
from vla.errors import ReflexError

SHAPE = (SIZE, SIZE)


def singles(folder: Path, lengths: list[int]) -> list[Path]:
    """One video of each of those lengths, all with different frames."""
    paths = [folder / f"{number}.mp4" for number in range(len(lengths))]
    for number, (path, length) in enumerate(zip(paths, lengths, strict=True)):
        path.write_bytes(encode_video(make_episode(10 * number, length).images["image"], fps=20))
    return paths


def joined(folder: Path, lengths: list[int]) -> Path:
    """Those videos in one file."""
    join_videos(folder / "joined.mp4", singles(folder, lengths))
    return folder / "joined.mp4"


def test_frames_survive_encoding(tmp_path: Path) -> None:
    frames = make_episode(0, 9).images["image"]
    path = tmp_path / "video.mp4"
    path.write_bytes(encode_video(frames, fps=20))
    decoded = decode_video(path, 0.0, 9, 20, SHAPE)
    assert np.abs(decoded.astype(int) - frames).mean() < 3.0
    # Neighbouring frames differ by 8 grey levels, so a frame in the wrong place would show.
    assert np.abs(decoded.astype(int) - np.roll(frames, 1, axis=0)).mean() > 5.0


def test_full_colour_format_is_closer(tmp_path: Path) -> None:
    frames = np.zeros((2, SIZE, SIZE, 3), dtype=np.uint8)
    frames[:, ::2, :, 0], frames[:, 1::2, :, 2] = 255, 255  # red and blue lines, one pixel wide
    errors = {}
    for pixel_format in ("yuv420p", "yuv444p"):
        path = tmp_path / f"{pixel_format}.mp4"
        path.write_bytes(encode_video(frames, 20, pixel_format))
        errors[pixel_format] = np.abs(decode_video(path, 0.0, 2, 20, SHAPE).astype(int) - frames).mean()
    assert errors["yuv444p"] < 3.0 < 30.0 < errors["yuv420p"]


def test_every_episode_of_a_file_with_several_is_found_by_its_time(tmp_path: Path) -> None:
    lengths = [5, 1, 8, 3]
    paths = singles(tmp_path, lengths)
    starts = join_videos(tmp_path / "joined.mp4", paths)
    assert starts == pytest.approx([0, 0.25, 0.3, 0.7])
    for path, start, length in zip(paths, starts, lengths, strict=True):
        alone = decode_video(path, 0.0, length, 20, SHAPE)
        assert np.array_equal(decode_video(tmp_path / "joined.mp4", start, length, 20, SHAPE), alone)


def test_an_episode_may_begin_between_two_key_frames(tmp_path: Path) -> None:
    frames = make_episode(0, 12).images["image"]
    path = tmp_path / "video.mp4"
    path.write_bytes(encode_video(frames, fps=20))  # a key frame every second frame
    whole = decode_video(path, 0.0, 12, 20, SHAPE)
    for start in range(12):
        assert np.array_equal(decode_video(path, start / 20, 12 - start, 20, SHAPE), whole[start:])


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {}),
        # Pictures that are shown before the key frame which a seek to them finds.
        ("libx264", {"g": "12", "bf": "8", "x264-params": "open-gop=1:b-pyramid=normal:b-adapt=0"}),
        ("libx265", {"x265-params": "log-level=none:keyint=10:min-keyint=10:open-gop=1:bframes=8:b-adapt=0"}),
    ],
)
def test_an_episode_may_begin_at_any_frame_of_any_video(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 5)
    frames = [np.roll(texture, 3 * step, axis=1) for step in range(40)]
    encode(tmp_path / "a.mp4", frames, 30, codec, options)
    whole = decode_video(tmp_path / "a.mp4", 0.0, 40, 30, (64, 96))
    for start in range(38):
        part = decode_video(tmp_path / "a.mp4", start / 30, 2, 30, (64, 96))
        assert np.array_equal(part, whole[start : start + 2]), start


def test_frames_are_reduced_as_they_are_decoded(tmp_path: Path) -> None:
    path = singles(tmp_path, [5])[0]
    whole = decode_video(path, 0.0, 5, 20, SHAPE)
    for size in (8, 20, 64):
        reduced = np.empty((5, size, size, 3), np.uint8)
        assert decode_video(path, 0.0, 5, 20, SHAPE, out=reduced) is reduced
        assert np.array_equal(reduced, resize_frames(whole, size, size))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    target = joined(tmp_path, [30, 30])
    content = target.read_bytes()
    if damage == "missing":
        target.unlink()
    else:
        replacement = {"empty": b"", "truncated": content[: len(content) // 2], "garbage": b"not a video" * 100}
        target.write_bytes(replacement[damage])
    with pytest.raises(ReflexError, match=r"joined\.mp4"):
        decode_video(target, 0.0, 30, 20, SHAPE)
    with pytest.raises(ReflexError, match=r"joined\.mp4"):
        video_checksum(target)


def test_the_checksum_counts_frames_and_depends_on_them_and_their_order(tmp_path: Path) -> None:
    frames = make_episode(0, 4).images["image"]
    path, seen = tmp_path / "video.mp4", set()
    for shown in (frames, frames[::-1], frames[:3], frames):
        path.write_bytes(encode_video(shown, fps=20))
        num_frames, checksum = video_checksum(path)
        assert num_frames == len(shown)
        seen.add(checksum)
    assert len(seen) == 3


def test_the_checksum_finds_every_changed_byte_of_its_episode_only(tmp_path: Path) -> None:
    paths = singles(tmp_path, [5, 5, 5])
    checksums = [video_checksum(path)[1] for path in paths]
    target = tmp_path / "joined.mp4"
    join_videos(target, paths)
    content = target.read_bytes()
    starts = [index for index in range(len(content)) if content.startswith(b"x264 - core", index)]
    assert len(starts) == 3  # the encoder writes its settings at the start of every episode
    found = []
    for position in range(starts[1] + 700, starts[2] - 40, 97):
        target.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        for number in (0, 2):
            decode_video(target, number * 0.25, 5, 20, SHAPE, checksums[number])
        with pytest.raises(ReflexError, match=r"joined\.mp4"):
            decode_video(target, 0.25, 5, 20, SHAPE, checksums[1])
        found.append(position)
    assert len(found) > 10


def test_a_file_that_is_too_short_or_of_another_size(tmp_path: Path) -> None:
    target = joined(tmp_path, [5])
    with pytest.raises(ReflexError, match=r"joined\.mp4 ends after 3 of the 6 frames"):
        decode_video(target, 2 / 20, 6, 20, SHAPE)
    with pytest.raises(ReflexError, match=r"joined\.mp4 has frames of 32x32 pixels .* 64x64"):
        decode_video(target, 0.0, 5, 20, (64, 64))
