"""Merges staged episodes into the files of a LeRobotDataset v3.0."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sim.embodiments import Embodiment
from vla.data import lerobot_keys as keys
from vla.data.staging import StagedEpisode
from vla.data.statistics import Statistics, image_statistics, vector_statistics
from vla.data.video import PixelFormat, video_checksum
from vla.errors import ReflexError
from vla.run.files import write_json


def frame_columns(
    episode: StagedEpisode, start: int, index: int, tasks: NDArray[np.int64], fps: float
) -> dict[str, NDArray[Any]]:
    """The data columns of one episode, each [T] or [T, D].

    `start` is its first frame's number in the dataset, `tasks` [T] the task index of each frame.
    """
    length = episode.length
    last = np.zeros(length, dtype=bool)
    last[-1] = True
    success = bool(episode.record["success"])
    frames = np.arange(length, dtype=np.int64)
    columns = {
        keys.STATE: episode.arrays["states"],
        keys.ACTION: episode.arrays["actions"],
        keys.REWARD: episode.arrays["rewards"],
        keys.COST: episode.arrays["costs"],
        keys.PROGRESS: episode.arrays["progress"],
        keys.DONE: last,
        keys.SUCCESS: last & success,
        # An episode that ends without success ended at its horizon.
        keys.TRUNCATED: last & (not success),
        keys.TIMESTAMP: (frames / fps).astype(np.float32),
        keys.FRAME_INDEX: frames,
        keys.EPISODE_INDEX: np.full(length, index, dtype=np.int64),
        keys.INDEX: frames + start,
        keys.TASK_INDEX: tasks,
    }
    if "interventions" in episode.arrays:
        columns[keys.INTERVENTION] = episode.arrays["interventions"]
    if not columns[keys.STATE].shape[1]:  # a robot that feels nothing has no such column
        del columns[keys.STATE]
    # LeRobot keeps a vector of one number as a plain number.
    return {name: values.reshape(length) if values[0].size == 1 else values for name, values in columns.items()}


@dataclass
class DatasetMerge:
    """One pass over the staged episodes that writes every file of the dataset under `root`."""

    root: Path
    embodiment: Embodiment
    pixel_format: PixelFormat
    interventions: bool | None = None
    """Whether the episodes say which actions a person made; None before the first one."""
    tasks: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    histograms: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    num_frames: int = 0
    data_tables: list[pa.Table] = field(default_factory=list)
    num_data_files: int = 0

    def run(self, episodes: Iterable[StagedEpisode]) -> None:
        """Write the whole dataset."""
        for episode in episodes:
            self._add(episode)
        self._flush_data()
        self._write_episode_rows()
        self._write_tasks()
        pq.write_table(pa.Table.from_pylist(self.provenance), self.root / keys.PROVENANCE_PATH)
        write_json(self.root / keys.STATS_PATH, _to_lists(self._dataset_statistics()))
        write_json(self.root / keys.EMBODIMENT_PATH, self.embodiment.to_dict())
        # Last: a folder without info.json is not a dataset to any reader.
        write_json(self.root / keys.INFO_PATH, self._info())

    def _add(self, episode: StagedEpisode) -> None:
        self._check_interventions(episode)
        index, start, length = len(self.rows), self.num_frames, episode.length
        instructions = episode.instructions
        tasks = np.array([self.tasks.setdefault(text, len(self.tasks)) for text in instructions], dtype=np.int64)
        columns = frame_columns(episode, start, index, tasks, self.embodiment.control_frequency)
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": list(dict.fromkeys(instructions)),
            "length": length,
        }
        row |= self._add_data(columns)
        row["dataset_from_index"], row["dataset_to_index"] = start, start + length
        statistics = {name: vector_statistics(_two_axes(values)) for name, values in columns.items()}
        provenance = {"episode_index": index, **episode.record}
        for camera, key in keys.camera_keys(self.embodiment.camera_names).items():
            location, provenance[f"checksum/{key}"] = self._add_video(camera, key, episode)
            row |= location
            histogram = episode.arrays[f"histogram/{camera}"]
            statistics[key] = image_statistics(histogram, length)
            self.histograms[key] = self.histograms.get(key, np.zeros((3, 256), dtype=np.int64)) + histogram
        for name, feature in statistics.items():
            row |= {f"stats/{name}/{statistic}": value.tolist() for statistic, value in feature.items()}
        self.rows.append(row)
        self.provenance.append(provenance)
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.num_frames += length

    def _check_interventions(self, episode: StagedEpisode) -> None:
        known = "interventions" in episode.arrays
        if self.interventions not in (None, known):
            raise ReflexError(
                f"{episode.folder} {'says' if known else 'does not say'} which actions a person made, other than the "
                "episodes before; one dataset has one set of columns: record them into two"
            )
        self.interventions = known

    def _add_data(self, columns: dict[str, NDArray[Any]]) -> dict[str, int]:
        """Queue the rows of one episode; returns the place of the file they will be in."""
        features = keys.numeric_features(self.embodiment, bool(self.interventions))
        schema = pa.schema([(name, _arrow_type(spec)) for name, spec in features.items()])
        table = pa.table({name: list(values) for name, values in columns.items()}, schema=schema)
        queued = sum(part.nbytes for part in self.data_tables)
        if self.data_tables and queued + table.nbytes >= keys.DATA_FILE_MEGABYTES * keys.MEGABYTE:
            self._flush_data()
        self.data_tables.append(table)
        place = keys.file_place(self.num_data_files)
        return {f"data/{name}": value for name, value in place.items()}

    def _flush_data(self) -> None:
        path = self._new_file(keys.DATA_PATH, self.num_data_files)
        with pq.ParquetWriter(path, self.data_tables[0].schema, compression="snappy") as writer:
            for table in self.data_tables:  # one row group per episode, so that an episode can be read alone
                writer.write_table(table)
        self.data_tables = []
        self.num_data_files += 1

    def _add_video(self, camera: str, key: str, episode: StagedEpisode) -> tuple[dict[str, Any], int]:
        """Copy the video of one camera to a file of its own; returns its place and its checksum."""
        number, source = len(self.rows), episode.video(camera)
        num_frames, checksum = video_checksum(source)
        if num_frames != episode.length:
            raise ReflexError(
                f"{source} holds {num_frames} frames where {episode.length} were recorded; delete {episode.folder} "
                "and run again"
            )
        shutil.copyfile(source, self._new_file(keys.VIDEO_PATH, number, video_key=key))
        times = {"from_timestamp": 0.0, "to_timestamp": episode.length / self.embodiment.control_frequency}
        location = keys.file_place(number) | times
        return {f"videos/{key}/{name}": value for name, value in location.items()}, checksum

    def _new_file(self, template: str, number: int, **names: str) -> Path:
        """The path of file `number` of one kind, with its folder made."""
        path = self.root / template.format(**keys.file_place(number), **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_episode_rows(self) -> None:
        count = self._rows_that_fit()
        for number, first in enumerate(range(0, len(self.rows), count)):
            rows = self.rows[first : first + count]
            place = keys.file_place(number)
            for row in rows:
                row |= {f"meta/episodes/{name}": value for name, value in place.items()}
            pq.write_table(pa.Table.from_pylist(rows), self._new_file(keys.EPISODES_PATH, number), compression="snappy")

    def _rows_that_fit(self) -> int:
        """How many episode rows, which are all of about the size of the first, fit in a file."""
        bytes_per_row = pa.Table.from_pylist(self.rows[:1]).nbytes
        return max(1, int(keys.DATA_FILE_MEGABYTES * keys.MEGABYTE / bytes_per_row))

    def _write_tasks(self) -> None:
        """The tasks as a table that pandas indexes by the task text, which is how LeRobot looks them up."""
        index = "__index_level_0__"
        column = {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        table = pa.table({"task_index": list(self.tasks.values()), index: list(self.tasks)})
        pandas = json.dumps({"index_columns": [index], "columns": [column]})
        pq.write_table(table.replace_schema_metadata({"pandas": pandas}), self.root / keys.TASKS_PATH)

    def _dataset_statistics(self) -> dict[str, Statistics]:
        statistics = {
            camera: image_statistics(histogram, self.num_frames) for camera, histogram in self.histograms.items()
        }
        for name, parts in self.columns.items():
            statistics[name] = vector_statistics(_two_axes(np.concatenate(parts)))
        return statistics

    def _info(self) -> dict[str, Any]:
        fps = self.embodiment.control_frequency
        written = keys.camera_keys(self.embodiment.camera_names)
        cameras = {
            written[camera.name]: keys.video_feature(camera, fps, self.pixel_format)
            for camera in self.embodiment.cameras
        }
        return {
            "codebase_version": keys.CODEBASE_VERSION,
            "robot_type": self.embodiment.name,
            "total_episodes": len(self.rows),
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": keys.CHUNKS_SIZE,
            "data_files_size_in_mb": keys.DATA_FILE_MEGABYTES,
            "video_files_size_in_mb": keys.VIDEO_FILE_MEGABYTES,
            "fps": keys.plain_number(fps),
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": keys.DATA_PATH,
            "video_path": keys.VIDEO_PATH if cameras else None,
            "features": cameras | keys.numeric_features(self.embodiment, bool(self.interventions)),
        }


def _two_axes(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), -1)


def _arrow_type(feature: dict[str, Any]) -> pa.DataType:
    kind = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}[feature["dtype"]]
    size = feature["shape"][0]
    return kind if size == 1 else pa.list_(kind, size)


def _to_lists(statistics: dict[str, Statistics]) -> dict[str, Any]:
    return {name: {key: value.tolist() for key, value in feature.items()} for name, feature in statistics.items()}
