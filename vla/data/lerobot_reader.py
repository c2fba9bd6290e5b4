"""Reads LeRobotDataset v3.0 folders and hub datasets back into episodes, one episode at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.data import lerobot_files as files
from vla.data import lerobot_keys as keys
from vla.data.episode import Episode
from vla.data.statistics import QUANTILES, Statistics, vector_statistics
from vla.data.video import decode_video
from vla.errors import ReflexError

UNKNOWN = -1
"""Seed and initial state of an episode whose dataset does not record them."""


class LeRobotDataset:
    """A LeRobotDataset v3.0 with two cameras, an 8-number state and a 7-number action.

    Reads what this project writes, what LeRobot writes, and the public LIBERO copies (mp4 or embedded PNG frames).

    Args:
        path_or_hub_id: a local folder, or a Hugging Face dataset id.

    Raises:
        ReflexError: something is missing, damaged or of another shape; the message names the file.
    """

    def __init__(self, path_or_hub_id: str | Path) -> None:
        self.root = files.resolve_dataset(path_or_hub_id)
        self.info = files.read_info(self.root)
        self.tasks = files.read_tasks(self.root)
        self._rows = files.read_episode_rows(self.root)
        self._check_totals()
        self._provenance = self._read_provenance()
        # Data files are small next to their videos; two stay in memory so that sequential reading opens each once.
        self._data = lru_cache(maxsize=2)(self._read_data)

    @property
    def num_episodes(self) -> int:
        """Episodes in the dataset."""
        return len(self._rows)

    @property
    def num_frames(self) -> int:
        """Control steps in the dataset, over all episodes."""
        return self.info.num_frames

    @property
    def fps(self) -> float:
        """Control steps per second."""
        return self.info.fps

    @cached_property
    def stats(self) -> dict[str, Statistics]:
        """Feature -> statistic -> array, as in `meta/stats.json`; state and action always have their quantiles.

        Datasets converted from older formats come without quantiles; those are computed here from the data.
        """
        statistics = files.read_statistics(self.root)
        for name in (keys.STATE, keys.ACTION):
            if not set(QUANTILES) <= set(statistics.get(name, {})):
                chunks = [self._data(*location)[name] for location in dict.fromkeys(map(_data_location, self._rows))]
                statistics[name] = vector_statistics(np.concatenate(chunks))
        return statistics

    def task_id(self, index: int) -> int:
        """The suite's task number where the dataset records it, else the dataset's own task index."""
        known = self._provenance.get(index)
        return int(known["task_id"]) if known else self.tasks.index(self._instruction(index))

    def episode(self, index: int) -> Episode:
        """Read one episode with every frame decoded (T frames and states for T actions).

        Raises `ReflexError` when a file it needs is damaged or disagrees with the metadata, `IndexError` out of range.
        """
        row = self._row(index)
        length = int(row["length"])
        path, columns = self._episode_columns(row)
        task_index = int(columns[keys.TASK_INDEX][0])
        if not 0 <= task_index < len(self.tasks):
            raise ReflexError(f"{path} has task_index {task_index} in episode {index}; meta/tasks.parquet does not")
        known = self._provenance.get(index, {})
        success = self._success(columns, known)
        default_reward = np.zeros(length, dtype=np.float32)
        default_reward[-1] = float(success)
        zeros = np.zeros(length, dtype=np.float32)
        return Episode(
            suite=str(known.get("suite", self.root.name)),
            task_id=int(known.get("task_id", task_index)),
            instruction=self.tasks[task_index],
            split=str(known.get("split", "train")),
            init_state_id=int(known.get("init_state_id", UNKNOWN)),
            seed=int(known.get("seed", UNKNOWN)),
            policy_id=str(known.get("policy_id", "demonstration")),
            success=success,
            actions=columns[keys.ACTION],
            observation_steps=np.arange(length, dtype=np.int64),
            images=self._frames(row, keys.IMAGE, path),
            wrist_images=self._frames(row, keys.WRIST_IMAGE, path),
            states=columns[keys.STATE],
            rewards=columns.get(keys.REWARD, default_reward),
            costs=columns.get(keys.COST, zeros),
            progress=columns.get(keys.PROGRESS, zeros.copy()),
        )

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self._rows):
            raise IndexError(f"episode {index} of {self.root}, which has episodes 0 to {len(self._rows) - 1}")
        return self._rows[index]

    def _instruction(self, index: int) -> str:
        return str(self._row(index)["tasks"][0])

    def _frames(self, row: dict[str, Any], camera: str, data: Path) -> NDArray[np.uint8]:
        length, size = int(row["length"]), self.info.picture_size(camera)
        if self.info.features[camera]["dtype"] == "image":
            return files.read_pictures(data, camera, int(row["episode_index"]), length, size)
        prefix = f"videos/{camera}/"
        template = self.info.video_path or ""
        video = template.format(
            video_key=camera, chunk_index=row[prefix + "chunk_index"], file_index=row[prefix + "file_index"]
        )
        checksum = self._provenance.get(int(row["episode_index"]), {}).get(f"checksum/{camera}")
        start = float(row[prefix + "from_timestamp"])
        return decode_video(self.root / video, start, length, self.fps, size, checksum)

    def _data_file(self, chunk_index: int, file_index: int) -> Path:
        return self.root / self.info.data_path.format(chunk_index=chunk_index, file_index=file_index)

    def _read_data(self, chunk_index: int, file_index: int) -> dict[str, NDArray[Any]]:
        """The numeric columns of one data file that this project uses."""
        path = self._data_file(chunk_index, file_index)
        wanted = {keys.STATE: len(keys.STATE_NAMES), keys.ACTION: len(keys.ACTION_NAMES)}
        wanted |= dict.fromkeys((keys.FRAME_INDEX, keys.EPISODE_INDEX, keys.INDEX, keys.TASK_INDEX), 1)
        present = set(files.column_names(path))
        optional = (keys.REWARD, keys.COST, keys.PROGRESS, keys.SUCCESS)
        wanted |= {name: 1 for name in optional if name in present}
        table = files.read_parquet(path, list(wanted))
        return {name: files.column_array(table, name, size, path) for name, size in wanted.items()}

    def _episode_columns(self, row: dict[str, Any]) -> tuple[Path, dict[str, NDArray[Any]]]:
        """The data file of an episode, and its own part of every column (copied)."""
        location = _data_location(row)
        path, length = self._data_file(*location), int(row["length"])
        columns = self._data(*location)
        rows = np.flatnonzero(columns[keys.EPISODE_INDEX] == row["episode_index"])
        steps = columns[keys.FRAME_INDEX][rows]
        if len(rows) != length or not np.array_equal(steps, np.arange(length)) or rows[-1] - rows[0] != length - 1:
            raise ReflexError(
                f"{path} holds {len(rows)} rows of episode {row['episode_index']} where {keys.EPISODES_FOLDER} says "
                f"{length} in a row; restore this file"
            )
        part = {name: values[rows] for name, values in columns.items()}
        for name in (keys.STATE, keys.ACTION, keys.REWARD, keys.COST, keys.PROGRESS):
            if name in part:
                part[name] = part[name].astype(np.float32)
        return path, part

    @staticmethod
    def _success(columns: dict[str, NDArray[Any]], known: dict[str, Any]) -> bool:
        """Recorded success; a dataset that records none holds demonstrations, which succeed."""
        if "success" in known:
            return bool(known["success"])
        if keys.SUCCESS in columns:
            return bool(columns[keys.SUCCESS].any())
        return True

    def _read_provenance(self) -> dict[int, dict[str, Any]]:
        """Provenance by episode; LeRobot's tools drop or outdate the file, so rows that do not match are ignored."""
        path = self.root / keys.PROVENANCE_PATH
        if not path.exists():
            return {}
        known = {int(line["episode_index"]): line for line in files.read_parquet(path).to_pylist()}
        return {
            index: known[index]
            for index, row in enumerate(self._rows)
            if index in known
            and known[index]["length"] == row["length"]
            and known[index]["instruction"] == row["tasks"][0]
        }

    def _check_totals(self) -> None:
        folder = self.root / keys.EPISODES_FOLDER
        needed = ["length", "tasks", "data/chunk_index", "data/file_index"]
        for camera in keys.CAMERAS:
            if self.info.features[camera]["dtype"] == "video":
                needed += [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        for index, row in enumerate(self._rows):
            lacking = [name for name in needed if row.get(name) is None]
            if lacking:
                raise ReflexError(f"{folder} has no {lacking[0]!r} for episode {index}; restore these files")
            if int(row["episode_index"]) != index or not row["tasks"] or row["tasks"][0] not in self.tasks:
                raise ReflexError(
                    f"{folder} has a wrong number or an unknown task for episode {index}; restore these files"
                )
        frames = sum(int(row["length"]) for row in self._rows)
        if (len(self._rows), frames) != (self.info.num_episodes, self.info.num_frames):
            raise ReflexError(
                f"{folder} lists {len(self._rows)} episodes with {frames} frames where {self.info.path} says "
                f"{self.info.num_episodes} with {self.info.num_frames}; the copy is not complete: fetch it again"
            )


def _data_location(row: dict[str, Any]) -> tuple[int, int]:
    return int(row["data/chunk_index"]), int(row["data/file_index"])


def read_demonstrations(
    path_or_hub_id: str | Path, task_ids: Sequence[int] | None = None, episodes_per_task: int | None = None
) -> list[Episode]:
    """Read the first `episodes_per_task` episodes of each of `task_ids` (None: all), in the dataset's order.

    Raises `ReflexError` when the dataset lacks a task or has fewer episodes of it.
    """
    dataset = LeRobotDataset(path_or_hub_id)
    by_task: dict[int, list[int]] = {}
    for index in range(dataset.num_episodes):
        by_task.setdefault(dataset.task_id(index), []).append(index)
    chosen: list[int] = []
    for task_id in sorted(by_task) if task_ids is None else task_ids:
        indices = by_task.get(task_id, [])
        needed = max(1, len(indices)) if episodes_per_task is None else episodes_per_task
        if len(indices) < needed:
            counts = ", ".join(f"{task}: {len(listed)}" for task, listed in sorted(by_task.items()))
            raise ReflexError(
                f"{dataset.root} has {len(indices)} episodes of task {task_id}, not {needed} "
                f"(episodes per task: {counts}); choose other tasks, ask for fewer episodes, or collect more"
            )
        chosen += indices[:needed]
    return [dataset.episode(index) for index in sorted(chosen)]
