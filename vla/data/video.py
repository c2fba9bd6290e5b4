"""Episode videos: encode frames to h264, decode one episode of an mp4 back, and checksums that find damage."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import av
import av.codec.context
import av.container
import av.error
import numpy as np
from numpy.typing import NDArray

from vla.data.images import resize_into
from vla.data.lerobot_keys import exact_rate
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


def encode_video(frames: NDArray[np.uint8], fps: float, pixel_format: PixelFormat = PIXEL_FORMAT) -> bytes:
    """Encode `frames` [T, H, W, 3] (even H and W) as one h264 mp4 whose frame t is shown at exactly t / fps seconds."""
    buffer, rate = io.BytesIO(), exact_rate(fps)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=ENCODER_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
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
    path: Path,
    from_timestamp: float,
    num_frames: int,
    fps: float,
    shape: tuple[int, int],
    checksum: int | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode `num_frames` consecutive frames of size `shape` (H, W) starting at `from_timestamp` seconds: [T, H, W, 3].

    The file may hold other episodes too. Seeks to the key frame before the start and decodes forward once. `checksum`,
    where known, is the CRC-32 of the episode's packets (`video_checksum`): decoders paint over most damage, so that
    only a checksum finds all of it. `out` [T, h, w, 3], if given, is filled and returned, with frames resized where it
    has another size.

    Raises:
        ReflexError: the file is missing, damaged or too short, its frames have another size or rate, or nothing here
            decodes its codec.
    """
    frames = np.empty((num_frames, *shape, 3), dtype=np.uint8) if out is None else out
    # Where pictures refer to later ones, the frame sought may be shown before the first one that can be decoded from
    # the key frame that a seek finds. Then decoding begins further ahead.
    for back in (0.0, 2.0, from_timestamp):
        with _opened(path) as container:
            window = _Window(path, from_timestamp, fps, shape, frames)
            window.decode(container, max(0.0, from_timestamp - back))
        if not window.began_late or back >= from_timestamp:
            break
    if window.found != num_frames:
        raise ReflexError(
            f"{path} ends after {window.found} of the {num_frames} frames from second {from_timestamp:.3f} on; "
            "the file is truncated or belongs to another dataset: restore it"
        )
    if checksum is not None and window.checksum != checksum:
        raise ReflexError(f"{path} is damaged in the episode at second {from_timestamp:.3f}; restore this file")
    return frames


AV1_DECODERS = ("libdav1d", "libaom-av1", "libgav1")
"""Decoders in software. FFmpeg's own, "av1", is there always and works with some graphics cards only."""


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An mp4 file; what goes wrong while it is read becomes a `ReflexError`."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ReflexError(f"{path} has no video stream; restore this file")
            _check_decoder(path, container.streams.video[0].codec_context)
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise ReflexError(f"cannot decode {path}: {error.strerror or error}; restore this file") from error


def _check_decoder(path: Path, codec: av.codec.context.CodecContext | None) -> None:
    name = "unknown" if codec is None else codec.codec.canonical_name
    if codec is None or (name == "av1" and not av.codecs_available.intersection(AV1_DECODERS)):
        raise ReflexError(
            f"{path} is a video of codec {name}, for which PyAV {av.__version__} has no decoder here; "
            "install a PyAV that brings one (pip install --force-reinstall --only-binary av av), or convert the "
            "dataset's videos to h264"
        )


class _Window:
    """The frames of one episode, as they come out of the decoder."""

    def __init__(self, path: Path, start: float, fps: float, shape: tuple[int, int], frames: NDArray[np.uint8]) -> None:
        self.found, self.checksum, self.began_late = 0, 0, False
        self._path, self._start, self._fps, self._shape, self._frames = path, start, fps, shape, frames

    def decode(self, container: av.container.InputContainer, seek_to: float) -> None:
        """Fill the frames from what follows the key frame before second `seek_to`."""
        stream = container.streams.video[0]
        if seek_to > 0 and stream.time_base is not None:
            container.seek(int(seek_to / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            second = None if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)
            if second is not None and 0 <= self._offset(second) < len(self._frames):
                self.checksum = zlib.crc32(bytes(packet), self.checksum)
            for frame in packet.decode():
                self._take(frame)
                if self.began_late or self.found == len(self._frames):
                    return

    def _take(self, frame: av.VideoFrame) -> None:
        offset = -1 if frame.time is None else self._offset(frame.time)
        if offset < 0:
            return
        if self.found == 0 and offset > 0:
            self.began_late = True
            return
        if offset != self.found or frame.is_corrupt:
            second = self._start + self.found / self._fps
            raise ReflexError(f"{self._path} has no intact frame at second {second:.3f}; restore this file")
        if (frame.height, frame.width) != self._shape:
            raise ReflexError(
                f"{self._path} has frames of {frame.height}x{frame.width} pixels where meta/info.json says "
                f"{self._shape[0]}x{self._shape[1]}"
            )
        picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        resize_into(picture, self._frames[self.found])
        self.found += 1

    def _offset(self, second: float) -> int:
        """Which frame of the episode is shown at that second; below 0 before it."""
        return round((second - self._start) * self._fps)
