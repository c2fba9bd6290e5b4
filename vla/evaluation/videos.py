"""Rollout videos: both cameras side by side, at the speed of the robot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sim.contract import CONTROL_FREQUENCY
from vla.data.episode import Episode
from vla.errors import writing
from vla.run.files import TEMPORARY_PREFIX

__all__ = ["Video", "find_videos", "side_by_side", "write_video", "write_videos"]

FRAME_SIDE = 192
"""Smaller frames are enlarged to at least this side (pixels), so that a 64-pixel rollout can be looked at."""

HOLD_STEPS = 20
"""Control steps for which the last frame stays: one second to see how the episode ended."""

_NAME = re.compile(r"task(\d+)_init(\d+)_(success|failure)\.mp4")


@dataclass(frozen=True)
class Video:
    """One rollout video of a run folder."""

    path: Path
    phase: str
    task_id: int
    init_state_id: int
    success: bool


def side_by_side(images: NDArray[np.uint8], wrist_images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Join third-person and wrist frames [N, H, W, 3] to [N, H', 2 W', 3], enlarged to an even, visible size."""
    count, height, width = images.shape[:3]
    factor = max(1, -(-FRAME_SIDE // height))
    # yuv420p stores colour at half resolution, so both sides must be even.
    size = (width * factor + (width * factor) % 2, height * factor + (height * factor) % 2)
    frames = np.empty((count, size[1], 2 * size[0], 3), dtype=np.uint8)
    for index in range(count):
        for camera, frame in enumerate((images[index], wrist_images[index])):
            picture = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
            frames[index, :, camera * size[0] : (camera + 1) * size[0]] = picture
    return frames


def write_video(path: Path, episode: Episode) -> None:
    """Write an episode's kept frames as H.264 mp4, each shown from its control step to the next, atomically.

    Raises:
        ReflexError: the file cannot be written.
    """
    frames = side_by_side(episode.images, episode.wrist_images)
    times = [int(step) for step in episode.observation_steps]
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _encode(temporary, frames, times)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _encode(path: Path, frames: NDArray[np.uint8], times: list[int]) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=CONTROL_FREQUENCY, options={"crf": "26", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # files identical on every machine
        stream.codec_context.time_base = Fraction(1, CONTROL_FREQUENCY)
        shown = [*zip(frames, times, strict=True), (frames[-1], times[-1] + HOLD_STEPS)]
        for picture, time in shown:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = time - times[0]
            frame.time_base = Fraction(1, CONTROL_FREQUENCY)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_videos(folder: Path, episodes: Iterable[Episode]) -> list[Path]:
    """Write ``folder/task<id>_init<id>_{success,failure}.mp4`` for every episode; in a run, folder is videos/<phase>.

    A video of the same task and initial state in the folder is replaced, whatever its outcome.
    """
    paths: list[Path] = []
    for episode in episodes:
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
