from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vla.data.samples import SIZE, make_episode
from vla.data.video import VideoJoiner, decode_video, encode_video
from vla.errors import ReflexError

SHAPE = (SIZE, SIZE)


def joined(folder: Path, lengths: list[int]) -> tuple[Path, list[np.ndarray]]:
    """Videos of those lengths in one file, and each decoded by itself."""
    target, singles = folder / "joined.mp4", []
    joiner = VideoJoiner(target, fps=20)
    for number, length in enumerate(lengths):
        single = folder / f"{number}.mp4"
        single.write_bytes(encode_video(make_episode(10 * number, length).images, fps=20))
        joiner.append(single, length)
        singles.append(decode_video(single, 0.0, length, 20, SHAPE))
    joiner.close()
    return target, singles


def test_frames_survive_encoding(tmp_path: Path) -> None:
    frames = make_episode(0, 9).images
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


def test_joining_changes_no_pixel_and_every_part_is_found_by_its_time(tmp_path: Path) -> None:
    lengths = [5, 1, 8, 3]
    target, singles = joined(tmp_path, lengths)
    starts = np.cumsum([0, *lengths])
    for start, length, single in zip(starts[:-1], lengths, singles, strict=True):
        assert np.array_equal(decode_video(target, start / 20, length, 20, SHAPE), single)


def test_joining_checks_the_number_of_frames(tmp_path: Path) -> None:
    single = tmp_path / "single.mp4"
    single.write_bytes(encode_video(make_episode(0, 4).images, fps=20))
    joiner = VideoJoiner(tmp_path / "joined.mp4", fps=20)
    with pytest.raises(ReflexError, match=r"single\.mp4 holds 4 frames where 5 were recorded"):
        joiner.append(single, 5)
    joiner.close()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    target, _ = joined(tmp_path, [30, 30])
    content = target.read_bytes()
    if damage == "missing":
        target.unlink()
    else:
        replacement = {"empty": b"", "truncated": content[: len(content) // 2], "garbage": b"not a video" * 100}
        target.write_bytes(replacement[damage])
    with pytest.raises(ReflexError, match=r"joined\.mp4"):
        decode_video(target, 0.0, 30, 20, SHAPE)


def test_the_checksum_finds_every_changed_byte_of_its_episode_only(tmp_path: Path) -> None:
    target, checksums = tmp_path / "joined.mp4", []
    joiner = VideoJoiner(target, fps=20)
    for number in range(3):
        single = tmp_path / f"{number}.mp4"
        single.write_bytes(encode_video(make_episode(number, 5).images, fps=20))
        checksums.append(joiner.append(single, 5))
    joiner.close()
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
    target, _ = joined(tmp_path, [5])
    with pytest.raises(ReflexError, match=r"joined\.mp4 ends after 3 of the 6 frames"):
        decode_video(target, 2 / 20, 6, 20, SHAPE)
    with pytest.raises(ReflexError, match=r"joined\.mp4 has frames of 32x32 pixels .* 64x64"):
        decode_video(target, 0.0, 5, 20, (64, 64))
