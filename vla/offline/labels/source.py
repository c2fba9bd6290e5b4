"""The dataset that is labelled: what its episodes are about, and the pictures of its moments as files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vla.data import lerobot_keys as keys
from vla.data.images import resize_frames
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.labels.files import MOMENTS, PICTURES
from vla.offline.labels.selection import MomentPair
from vla.offline.preferences import Moment
from vla.run.files import write_bytes
from vla.run.jsonl import append_lines, drop_torn_line, read_lines

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Episodes of a LeRobot dataset, by their positions 0 to E - 1 among those that were chosen."""

    dataset: LeRobotDataset
    camera: str
    indices: tuple[int, ...]
    """[E] where the dataset has them."""
    lengths: tuple[int, ...]
    """[E] frames."""
    groups: tuple[int, ...]
    """[E] only episodes of one group are compared."""
    goals: tuple[str, ...]
    """[E] what is wanted."""
    successes: tuple[bool, ...]
    """[E] as the dataset says."""

    def number(self, position: int) -> int:
        """An episode's own `episode_index`."""
        return self.dataset.episode_numbers[self.indices[position]]

    def moment(self, moment: Moment) -> Moment:
        """A moment whose episode is a position, by its `episode_index`."""
        return Moment(self.number(moment.episode), moment.frame)

    def pair(self, pair: MomentPair) -> MomentPair:
        """Both moments, as `moment`."""
        return self.moment(pair[0]), self.moment(pair[1])


def open_source(
    path: str, goal: str | None, tasks: Sequence[int] | None, camera: str | None, needs_camera: bool = True
) -> Source:
    """Read what there is to label, without any picture.

    Args:
        path: a LeRobot dataset.
        goal: the sentence for all chosen episodes, which are then compared across tasks; None for each task's own.
        tasks: task numbers; None for all.
        camera: by name; None for the first.
        needs_camera: pictures will be asked for.

    Raises:
        ReflexError: it cannot be read, has no camera, no sentence, or no episode of these tasks.
    """
    dataset = LeRobotDataset(path)
    cameras = dataset.embodiment.camera_names
    if needs_camera and not cameras:
        raise ReflexError(f"{dataset.root} has no camera, and a vision-language model compares pictures")
    if camera is not None:
        dataset.chosen([camera])  # names the cameras where there is none of that name
    indices = [i for i in range(dataset.num_episodes) if tasks is None or dataset.task_id(i) in tasks]
    if not indices:
        chosen = "" if tasks is None else f" of tasks={list(tasks)}"
        raise ReflexError(f"{dataset.root} has no episodes{chosen}; there is nothing to compare")
    episodes = [dataset.episode(index, cameras=[]) for index in indices]
    goals = [(goal or episode.instruction).strip() for episode in episodes]
    if "" in goals:
        number = dataset.episode_numbers[indices[goals.index("")]]
        raise ReflexError(
            f"{dataset.root} has no task sentence for episode {number}; say what is wanted with goal='open the drawer'"
        )
    return Source(
        dataset,
        camera or (cameras[0] if cameras else ""),
        tuple(indices),
        tuple(episode.length for episode in episodes),
        tuple(0 if goal else dataset.task_id(index) for index in indices),
        tuple(goals),
        tuple(episode.success for episode in episodes),
    )


def read_progress(dataset: LeRobotDataset, numbers: Iterable[int]) -> dict[int, NDArray[np.float32]] | None:
    """`next.progress` [T] of episodes by their `episode_index`; None where the dataset does not know it.

    A column of zeros knows nothing: that is what the recording of a real arm has.

    Raises:
        ReflexError: there is no such episode.
    """
    index_of = {number: index for index, number in enumerate(dataset.episode_numbers)}
    wanted = sorted(set(numbers))
    lacking = [number for number in wanted if number not in index_of]
    if lacking:
        raise ReflexError(f"{dataset.root} has no episode {lacking[0]}; the labels are of another dataset")
    if keys.PROGRESS not in dataset.info.features:
        return None
    progress = {number: dataset.episode(index_of[number], cameras=[]).progress for number in wanted}
    return progress if any(values.any() for values in progress.values()) else None


@dataclass(frozen=True)
class Picture:
    """What a model is shown of a moment."""

    path: Path
    """PNG."""
    sha256: str
    """Of its pixels, so that neither the file's format nor its compression matters."""
    height: int
    width: int


def write_pictures(
    source: Source, moments: Iterable[Moment], size: int, folder: Path, on_progress: Callable[[int], None]
) -> dict[Moment, Picture]:
    """The pictures of moments (by `episode_index`), as files in `folder`, which a call before may have begun.

    Pictures whose longer side is more than `size` pixels are made smaller.

    Raises:
        ReflexError: a video or picture of the dataset cannot be decoded (before anything was asked), or a file that was
            written before is damaged.
    """
    drop_torn_line(folder / MOMENTS)
    found = {Moment(row["episode"], row["frame"]): _picture(folder, row) for row in read_lines(folder / MOMENTS)}
    missing: dict[int, set[int]] = {}
    for moment in set(moments) - found.keys():
        missing.setdefault(moment.episode, set()).add(moment.frame)
    for done, (episode, frames) in enumerate(each_episode(source, missing, size)):
        rows = []
        for frame, pixels in zip(sorted(missing[episode]), frames, strict=True):
            digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
            path = folder / PICTURES / f"{digest[:24]}.png"
            if not path.exists():  # a still scene gives the same picture many times
                encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
                write_bytes(path, encoded.tobytes())
            rows.append(
                {
                    "episode": episode,
                    "frame": frame,
                    "sha256": digest,
                    "height": pixels.shape[0],
                    "width": pixels.shape[1],
                }
            )
        append_lines(folder / MOMENTS, rows)
        found |= {Moment(row["episode"], row["frame"]): _picture(folder, row) for row in rows}
        on_progress(done + 1)
    return found


def each_episode(source: Source, frames: Mapping[int, Iterable[int]], size: int) -> Iterable[tuple[int, Frames]]:
    """For each episode (by `episode_index`) the pictures [n, H, W, 3] of some of its frames, in order of time.

    Raises `ReflexError` when a picture cannot be decoded.
    """
    index_of = {source.number(position): index for position, index in enumerate(source.indices)}
    for number in sorted(frames):
        pictures = source.dataset.episode(index_of[number], cameras=[source.camera]).images[source.camera]
        yield number, _smaller(pictures[sorted(frames[number])], size)


def _smaller(pictures: Frames, size: int) -> Frames:
    height, width = pictures.shape[1:3]
    share = min(1.0, size / max(height, width))
    return resize_frames(pictures, math.ceil(height * share), math.ceil(width * share))


def _picture(folder: Path, row: Mapping[str, object]) -> Picture:
    path = folder / PICTURES / f"{str(row['sha256'])[:24]}.png"
    if not path.is_file():
        raise ReflexError(f"{path} is missing; delete {folder / MOMENTS}, and the pictures are written anew")
    return Picture(path, str(row["sha256"]), int(str(row["height"])), int(str(row["width"])))
