"""Episode videos: encode frames to h264, decode one episode of an mp4 back, and checksums that find damage."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
import av.container
import av.error
import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError

PixelFormat = Literal["yuv420p", "yuv444p"]
PIXEL_FORMAT: PixelFormat = "yuv420p"
"""LeRobot's own, playable everywhere; it keeps colour at half the resolution, which yuv444p does not."""

ENCODER_OPTIONS = {
    # Near-lossless: at 64 px a frame takes one or two kilobytes, so nothing is gained by saving. A fixed quantiser, not
    # a target quality: with x264's look-ahead, which that uses, about 1 in 300 repeated encodings had other bytes.
    "qp": "4",
    # A key frame every second frame makes random access cheap for training.
    "g": "2",
    # Without B-frames decode and display order agree: a frame's packet can be told by its time, as checksums need.
    "bf": "0",
    # One thread gives the same bytes on every machine; workers encode in parallel anyway.
    "threads": "1",
}


def check_pixel_format(pixel_format: str) -> None:
    """Raise `ReflexError` naming the known formats when `pixel_format` is none of them."""
    if pixel_format not in get_args(PixelFormat):
        raise ReflexError(f"pixel_format={pixel_format!r} must be one of {', '.join(get_args(PixelFormat))}")


def encode_video(frames: NDArray[np.uint8], fps: int, pixel_format: PixelFormat = PIXEL_FORMAT) -> bytes:
    """Encode `frames` [T, H, W, 3] (even H and W) as one h264 mp4 whose frame t is shown at exactly t / fps seconds."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=ENCODER_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def video_checksum(path: Path) -> tuple[int, int]:
    """How many frames an mp4 holds, and the CRC-32 of their packets.

    Raises:
        ReflexError: the file is missing or damaged.
    """
    num_frames, checksum = 0, 0
    with _opened(path) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.pts is not None:  # the flush packet at the end has none
                checksum = zlib.crc32(bytes(packet), checksum)
                num_frames += 1
    return num_frames, checksum


def decode_video(
    path: Path, from_timestamp: float, num_frames: int, fps: float, shape: tuple[int, int], checksum: int | None = None
) -> NDArray[np.uint8]:
    """Decode `num_frames` consecutive frames of size `shape` (H, W) starting at `from_timestamp` seconds: [T, H, W, 3].

    The file may hold other episodes too. Seeks to the key frame before the start and decodes forward once. `checksum`,
    where known, is the CRC-32 of the episode's packets (`video_checksum`): decoders paint over most damage, so that
    only a checksum finds all of it.

    Raises:
        ReflexError: the file is missing, damaged or too short, or its frames have another size or rate.
    """
    frames = np.empty((num_frames, *shape, 3), dtype=np.uint8)
    with _opened(path) as container:
        found, actual = _decode_into(container, frames, from_timestamp, fps, path)
    if found != num_frames:
        raise ReflexError(
            f"{path} ends after {found} of the {num_frames} frames from second {from_timestamp:.3f} on; "
            "the file is truncated or belongs to another dataset: restore it"
        )
    if checksum is not None and actual != checksum:
        raise ReflexError(f"{path} is damaged in the episode at second {from_timestamp:.3f}; restore this file")
    return frames


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An mp4 file; what goes wrong while it is read becomes a `ReflexError`."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ReflexError(f"{path} has no video stream; restore this file")
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise ReflexError(f"cannot decode {path}: {error.strerror or error}; restore this file") from error


def _decode_into(
    container: av.container.InputContainer, frames: NDArray[np.uint8], from_timestamp: float, fps: float, path: Path
) -> tuple[int, int]:
    """Fill `frames`; returns how many were found in a row, and the checksum of their packets."""
    stream = container.streams.video[0]
    if from_timestamp > 0 and stream.time_base is not None:
        container.seek(int(from_timestamp / stream.time_base), stream=stream)
    found, checksum = 0, 0
    for packet in container.demux(stream):
        if packet.pts is not None and packet.time_base is not None:
            offset = round((float(packet.pts * packet.time_base) - from_timestamp) * fps)
            if 0 <= offset < len(frames):
                checksum = zlib.crc32(bytes(packet), checksum)
        for frame in packet.decode():
            second = from_timestamp + found / fps
            offset = -1 if frame.time is None else round((frame.time - from_timestamp) * fps)
            if offset < 0:
                continue
            if offset != found or frame.is_corrupt:
                raise ReflexError(f"{path} has no intact frame at second {second:.3f}; restore this file")
            if (frame.height, frame.width) != frames.shape[1:3]:
                raise ReflexError(
                    f"{path} has frames of {frame.height}x{frame.width} pixels where meta/info.json says "
                    f"{frames.shape[1]}x{frames.shape[2]}"
                )
            frames[found] = frame.to_ndarray(format="rgb24")
            found += 1
            if found == len(frames):
                return found, checksum
    return found, checksum
