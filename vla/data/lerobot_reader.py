"""Reads the demonstrations that a training run asks for, with pictures as small as its policy takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Camera
from vla.data.episode import Episode
from vla.data.frame_store import IN_MEMORY, allocate_frames
from vla.data.lerobot_dataset import UNKNOWN, LeRobotDataset
from vla.errors import ReflexError
from vla.run.cores import available_cpus

__all__ = ["UNKNOWN", "LeRobotDataset", "choose_episodes", "read_demonstrations"]


def read_demonstrations(
    source: LeRobotDataset | str | Path,
    task_ids: Sequence[int] | None = None,
    episodes_per_task: int | None = None,
    *,
    cameras: Iterable[str | Camera] | None = None,
    image_size: int | None = None,
    in_memory: int = IN_MEMORY,
    folder: Path | None = None,
) -> list[Episode]:
    """Read the first `episodes_per_task` episodes of each of `task_ids` (None: all), in the dataset's order.

    Pictures are reduced while they are decoded, one thread a core, and kept in memory or, beyond `in_memory` bytes, in
    a nameless file in `folder` (`vla.data.frame_store`), which ends with the process.

    Args:
        source: an opened dataset, its folder, or a hub id.
        task_ids: task numbers, as `LeRobotDataset.task_id` gives them.
        episodes_per_task: None for all.
        cameras: which to read, by the dataset's names; a `Camera` also says to which size. None: all.
        image_size: side in pixels of squares for cameras of which no size is said. None: as they are. Pictures are
            never enlarged.
        in_memory: bytes of frames that may be kept in memory.
        folder: where the file is made.

    Raises:
        ReflexError: the dataset lacks a task, a camera, or has fewer episodes of a task; there is no room for the
            frames; or something is damaged.
    """
    dataset = source if isinstance(source, LeRobotDataset) else LeRobotDataset(source)
    indices = choose_episodes(dataset, task_ids, episodes_per_task)
    lengths = [dataset.length(index) for index in indices]
    chosen = dataset.chosen(cameras, image_size).cameras
    frames = allocate_frames(sum(lengths), chosen, in_memory, folder)
    ends = np.cumsum(lengths).tolist()

    def read(place: int) -> Episode:
        rows = slice(ends[place] - lengths[place], ends[place])
        out: dict[str, NDArray[np.uint8]] = {name: pictures[rows] for name, pictures in frames.items()}
        return dataset.episode(indices[place], cameras=chosen, out=out)

    with ThreadPoolExecutor(available_cpus()) as threads:  # the decoder and the resizing let other threads run
        waiting = [threads.submit(read, place) for place in range(len(indices))]
        try:
            return [episode.result() for episode in waiting]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def choose_episodes(
    dataset: LeRobotDataset, task_ids: Sequence[int] | None, episodes_per_task: int | None
) -> list[int]:
    """Indices of the first `episodes_per_task` episodes of each of `task_ids` (None: all), in the dataset's order.

    Raises `ReflexError` when the dataset lacks a task or has fewer episodes of it.
    """
    by_task: dict[int, list[int]] = {}
    for index in range(dataset.num_episodes):
        by_task.setdefault(dataset.task_id(index), []).append(index)
    chosen: list[int] = []
    for task_id in sorted(by_task) if task_ids is None else dict.fromkeys(task_ids):
        indices = by_task.get(task_id, [])
        needed = max(1, len(indices)) if episodes_per_task is None else episodes_per_task
        if len(indices) < needed:
            counts = ", ".join(f"{task}: {len(listed)}" for task, listed in sorted(by_task.items()))
            raise ReflexError(
                f"{dataset.root} has {len(indices)} episodes of task {task_id}, not {needed} "
                f"(episodes per task: {counts}); choose other tasks, ask for fewer episodes, or collect more"
            )
        chosen += indices[:needed]
    return sorted(chosen)
