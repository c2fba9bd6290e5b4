"""The pictures of a report: strips of frames of telling episodes, a map of visited states, and checks of what froze."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vla.data.episode import Episode
from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError
from vla.evaluation.videos import side_by_side
from vla.offline.data_report.broken import frozen_pictures
from vla.offline.data_report.card import Contents

FRAMES = 6
"""Frames in a strip, from the first to the last."""

CHECKED_SIZE = 64
"""Pixels a side at which pictures are compared, at most."""

MOST_STRIPS = 18

ACCENT = (31, 111, 235)
"""Colour of the page's style sheet."""


@dataclass(frozen=True)
class Strip:
    """Frames of one episode."""

    title: str
    success: bool
    jpeg: str
    """Base64."""


def check_pictures(dataset: LeRobotDataset, contents: Contents, count: int) -> int:
    """Look for frozen and unreadable pictures in `count` episodes spread over the data set; returns how many it were.

    What is found is noted in `contents`.
    """
    if not dataset.embodiment.cameras:
        return 0
    numbers = np.concatenate([contents.episodes[index].states for index in contents.usable])
    spread = numbers.std(axis=0)
    places = np.unique(np.linspace(0, len(contents.usable) - 1, min(count, len(contents.usable))).round().astype(int))
    for index in (contents.usable[place] for place in places):
        try:
            episode = dataset.episode(index, image_size=CHECKED_SIZE)
        except ReflexError as error:
            contents.note(index, [f"pictures cannot be read: {error}"])
            continue
        contents.note(index, frozen_pictures(episode.images, episode.states, spread))
    return len(places)


def telling_episodes(contents: Contents, returns: NDArray[np.float64]) -> list[tuple[str, int]]:
    """Of each task the episodes with the greatest, a middling and the least return, as (which, index)."""
    chosen: list[tuple[str, int]] = []
    tasks = sorted({contents.episodes[index].task_id for index in contents.usable})
    for task in tasks[: MOST_STRIPS // 3]:
        places = [place for place, index in enumerate(contents.usable) if contents.episodes[index].task_id == task]
        ranked = sorted(places, key=lambda place: -returns[place])
        for which, place in (("best", ranked[0]), ("middling", ranked[len(ranked) // 2]), ("worst", ranked[-1])):
            if contents.usable[place] not in [index for _, index in chosen]:
                chosen.append((which, contents.usable[place]))
    return chosen


def make_strips(dataset: LeRobotDataset, contents: Contents, chosen: Sequence[tuple[str, int]]) -> list[Strip]:
    """Strips of the first camera; an episode whose pictures cannot be read has none."""
    if not dataset.embodiment.cameras:
        return []
    strips = []
    for which, index in chosen:
        try:
            episode = dataset.episode(index, cameras=dataset.embodiment.camera_names[:1])
        except ReflexError as error:
            contents.note(index, [f"pictures cannot be read: {error}"])
            continue
        title = f"{episode.instruction} ({which}, episode {index}, {episode.policy_id}, {episode.length} steps)"
        strips.append(Strip(title, episode.success, _encoded(strip_of(episode), "JPEG")))
    return strips


def strip_of(episode: Episode) -> NDArray[np.uint8]:
    """`FRAMES` evenly spaced frames of the first camera, side by side, [H, W, 3]."""
    frames = next(iter(episode.images.values()))
    places = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    strip: NDArray[np.uint8] = side_by_side([frames[place : place + 1] for place in places])[0]
    return strip


def map_of(grid: Sequence[Sequence[int]]) -> str:
    """How often each cell is visited as a base64 PNG: the more often, the less transparent."""
    counts = np.log1p(np.array(grid, dtype=np.float64))
    pixels = np.zeros((*counts.shape, 4), np.uint8)
    pixels[..., :3] = ACCENT
    pixels[..., 3] = (255 * np.where(counts > 0, 0.15 + 0.85 * counts / counts.max(), 0.0)).astype(np.uint8)
    return _encoded(pixels, "PNG")


def _encoded(pixels: NDArray[np.uint8], kind: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
