"""Episode videos: encode frames to h264, join episodes into one mp4 without re-encoding, decode one episode back."""

from __future__ import annotations

import io
import zlib
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
    # Without B-frames decode and display order agree, which joining episodes packet by packet relies on.
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


def encoder_header(video: Path) -> bytes:
    """The decoder configuration of an mp4; videos can be joined only when theirs are equal."""
    with av.open(str(video)) as container:
        return container.streams.video[0].codec_context.extradata or b""


class VideoJoiner:
    """Joins mp4 files of one encoder setting into one, copying packets and shifting their times."""

    def __init__(self, path: Path, fps: int) -> None:
        # A Python file, because its write errors name their reason (full disk) where ffmpeg's own file layer drops it.
        self._file = path.open("wb")
        self._container = av.open(self._file, "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._fps = fps
        self._num_frames = 0

    def append(self, video: Path, num_frames: int) -> int:
        """Copy the `num_frames` frames of `video` behind what is there, and return the CRC-32 of their packets.

        Raises `ReflexError` when the file does not hold that many frames.
        """
        copied, checksum = 0, 0
        with av.open(str(video)) as source:
            template = source.streams.video[0]
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(template)
            for packet in source.demux(template):
                if packet.pts is None or packet.dts is None:  # the flush packet at the end
                    continue
                checksum = zlib.crc32(bytes(packet), checksum)
                shift = int(Fraction(self._num_frames, self._fps) / packet.time_base)
                packet.pts += shift
                packet.dts += shift
                packet.stream = self._stream
                self._container.mux(packet)
                copied += 1
        if copied != num_frames:
            raise ReflexError(
                f"{video} holds {copied} frames where {num_frames} were recorded; record this episode again"
            )
        self._num_frames += copied
        return checksum

    def close(self) -> None:
        """Write the index and close the file. Closing twice does nothing."""
        if self._file.closed:
            return
        try:
            self._container.close()
        finally:
            self._file.close()


def decode_video(
    path: Path, from_timestamp: float, num_frames: int, fps: float, shape: tuple[int, int], checksum: int | None = None
) -> NDArray[np.uint8]:
    """Decode `num_frames` consecutive frames of size `shape` (H, W) starting at `from_timestamp` seconds: [T, H, W, 3].

    Seeks to the key frame before the start and decodes forward once. `checksum`, where known, is what
    `VideoJoiner.append` returned: decoders paint over most damage, so that only a checksum finds all of it.

    Raises:
        ReflexError: the file is missing, damaged or too short, or its frames have another size or rate.
    """
    frames = np.empty((num_frames, *shape, 3), dtype=np.uint8)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ReflexError(f"{path} has no video stream; restore this file")
            found, actual = _decode_into(container, frames, from_timestamp, fps, path)
    except (av.error.FFmpegError, OSError) as error:
        raise ReflexError(f"cannot decode {path}: {error.strerror or error}; restore this file") from error
    if found != num_frames:
        raise ReflexError(
            f"{path} ends after {found} of the {num_frames} frames from second {from_timestamp:.3f} on; "
            "the file is truncated or belongs to another dataset: restore it"
        )
    if checksum is not None and actual != checksum:
        raise ReflexError(f"{path} is damaged in the episode at second {from_timestamp:.3f}; restore this file")
    return frames


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
