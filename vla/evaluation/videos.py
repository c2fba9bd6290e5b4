"""Rollout videos: all cameras side by side, at the speed of the robot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vla.data.episode import Episode
from vla.errors import writing
from vla.run.files import TEMPORARY_PREFIX

__all__ = ["Video", "find_videos", "side_by_side", "write_video", "write_videos"]

FRAME_SIDE = 192
"""Smaller frames are enlarged to at least this side (pixels), so that a 64-pixel rollout can be looked at."""

HOLD_SECONDS = 1.0
"""For which the last frame stays, to see how the episode ended."""

_NAME = re.compile(r"task(\d+)_init(\d+)_(success|failure)\.mp4")


@dataclass(frozen=True)
class Video:
    """One rollout video of a run folder."""

    path: Path
    phase: str
    task_id: int
    init_state_id: int
    success: bool


def side_by_side(cameras: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join the frames [N, H, W, 3] of each camera to [N, H', sum of W', 3], enlarged to one even, visible height."""
    tallest = max(frames.shape[1] for frames in cameras)
    height = _even(tallest * max(1, -(-FRAME_SIDE // tallest)))
    widths = [_even(round(frames.shape[2] * height / frames.shape[1])) for frames in cameras]
    joined = np.empty((len(cameras[0]), height, sum(widths), 3), dtype=np.uint8)
    left = 0
    for frames, width in zip(cameras, widths, strict=True):
        for index, frame in enumerate(frames):
            picture = Image.fromarray(np.asarray(frame)).resize((width, height), Image.Resampling.BICUBIC)
            joined[index, :, left : left + width] = np.asarray(picture)
        left += width
    return joined


def _even(pixels: int) -> int:
    """yuv420p stores colour at half resolution, so both sides must be even."""
    return pixels + pixels % 2


def write_video(path: Path, episode: Episode) -> None:
    """Write an episode's kept frames as H.264 mp4, each shown from its control step to the next, atomically.

    Raises:
        ReflexError: the file cannot be written.
    """
    frames = side_by_side(list(episode.images.values()))
    times = [int(step) for step in episode.observation_steps]
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _encode(temporary, frames, times, episode.embodiment.control_frequency)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _encode(path: Path, frames: NDArray[np.uint8], times: list[int], control_frequency: float) -> None:
    rate = Fraction(control_frequency).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "26", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # files identical on every machine
        stream.codec_context.time_base = 1 / rate
        shown = [*zip(frames, times, strict=True), (frames[-1], times[-1] + round(HOLD_SECONDS * rate))]
        for picture, time in shown:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = time - times[0]
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_videos(folder: Path, episodes: Iterable[Episode]) -> list[Path]:
    """Write ``folder/task<id>_init<id>_{success,failure}.mp4`` for every episode; in a run, folder is videos/<phase>.

    A robot without a camera leaves nothing to write. A video of the same task and initial state in the folder is
    replaced, whatever its outcome.
    """
    paths: list[Path] = []
    for episode in episodes:
        if not episode.images:
            continue
        stem = f"task{episode.task_id}_init{episode.init_state_id}"
        outcomes = ("success", "failure") if episode.success else ("failure", "success")
        path = folder / f"{stem}_{outcomes[0]}.mp4"
        write_video(path, episode)
        path.with_name(f"{stem}_{outcomes[1]}.mp4").unlink(missing_ok=True)
        paths.append(path)
    return paths


def find_videos(folder: Path) -> list[Video]:
    """Every rollout video under ``folder/<phase>/``, ordered by phase, task and initial state."""
    videos: list[Video] = []
    for path in folder.glob("*/*.mp4"):
        match = _NAME.fullmatch(path.name)
        if match:
            videos.append(Video(path, path.parent.name, int(match[1]), int(match[2]), match[3] == "success"))
    return sorted(videos, key=lambda video: (video.phase, video.task_id, video.init_state_id))
