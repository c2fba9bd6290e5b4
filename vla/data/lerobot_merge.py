"""Merges staged episodes into the files of a LeRobotDataset v3.0."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla.data import lerobot_keys as keys
from vla.data.staging import StagedEpisode, write_file
from vla.data.statistics import Statistics, image_statistics, vector_statistics
from vla.data.video import PixelFormat, VideoJoiner, encoder_header


@dataclass(frozen=True)
class FileLimits:
    """When the writer begins a new file, and a new chunk folder."""

    chunks_size: int = keys.CHUNKS_SIZE
    """Files in one chunk folder."""
    data_megabytes: float = keys.DATA_FILE_MEGABYTES
    """Size of a data or episode parquet file."""
    video_megabytes: float = keys.VIDEO_FILE_MEGABYTES
    """Size of an mp4 file."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode())


def frame_columns(episode: StagedEpisode, start: int, index: int, task_index: int, fps: int) -> dict[str, NDArray[Any]]:
    """The data columns of one episode, each [T] or [T, D]; `start` is its first frame's number in the dataset."""
    length = episode.length
    last = np.zeros(length, dtype=bool)
    last[-1] = True
    success = bool(episode.record["success"])
    frames = np.arange(length, dtype=np.int64)
    return {
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
        keys.TASK_INDEX: np.full(length, task_index, dtype=np.int64),
    }


@dataclass
class _VideoFile:
    """The mp4 file of one camera that episodes are being joined into."""

    joiner: VideoJoiner
    header: bytes
    chunk_index: int
    file_index: int
    num_frames: int = 0
    num_bytes: int = 0


@dataclass
class DatasetMerge:
    """One pass over the staged episodes that writes every file of the dataset under `root`."""

    root: Path
    image_size: int
    fps: int
    pixel_format: PixelFormat
    limits: FileLimits
    tasks: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    histograms: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    num_frames: int = 0
    data_tables: list[pa.Table] = field(default_factory=list)
    data_file: tuple[int, int] = (0, 0)
    videos: dict[str, _VideoFile] = field(default_factory=dict)

    def run(self, episodes: Iterable[StagedEpisode]) -> None:
        """Write the whole dataset."""
        try:
            for episode in episodes:
                self._add(episode)
        finally:
            for video in self.videos.values():
                video.joiner.close()
        self._flush_data()
        self._write_episode_rows()
        self._write_tasks()
        pq.write_table(pa.Table.from_pylist(self.provenance), self.root / keys.PROVENANCE_PATH)
        write_json(self.root / keys.STATS_PATH, _to_lists(self._dataset_statistics()))
        # Last: a folder without info.json is not a dataset to any reader.
        write_json(self.root / keys.INFO_PATH, self._info())
        _flush_tree(self.root)

    def _add(self, episode: StagedEpisode) -> None:
        index, start, length = len(self.rows), self.num_frames, episode.length
        instruction = episode.record["instruction"]
        task_index = self.tasks.setdefault(instruction, len(self.tasks))
        columns = frame_columns(episode, start, index, task_index, self.fps)
        row: dict[str, Any] = {"episode_index": index, "tasks": [instruction], "length": length}
        row["data/chunk_index"], row["data/file_index"] = self._add_data(columns)
        row["dataset_from_index"], row["dataset_to_index"] = start, start + length
        statistics = {name: vector_statistics(_two_axes(values)) for name, values in columns.items()}
        provenance = {"episode_index": index, **episode.record}
        for camera in keys.CAMERAS:
            location, provenance[f"checksum/{camera}"] = self._add_video(camera, episode)
            row |= location
            histogram = episode.arrays[f"histogram/{camera}"]
            statistics[camera] = image_statistics(histogram, length)
            self.histograms[camera] = self.histograms.get(camera, np.zeros((3, 256), dtype=np.int64)) + histogram
        for name, feature in statistics.items():
            row |= {f"stats/{name}/{statistic}": value.tolist() for statistic, value in feature.items()}
        self.rows.append(row)
        self.provenance.append(provenance)
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.num_frames += length

    def _add_data(self, columns: dict[str, NDArray[Any]]) -> tuple[int, int]:
        """Queue the rows of one episode; returns the chunk and file they will be in."""
        schema = pa.schema([(name, _arrow_type(spec)) for name, spec in keys.numeric_features().items()])
        table = pa.table({name: _arrow_column(values) for name, values in columns.items()}, schema=schema)
        queued = sum(part.nbytes for part in self.data_tables)
        if self.data_tables and queued + table.nbytes >= self.limits.data_megabytes * keys.MEGABYTE:
            self._flush_data()
        self.data_tables.append(table)
        return self.data_file

    def _flush_data(self) -> None:
        chunk_index, file_index = self.data_file
        path = self.root / keys.DATA_PATH.format(chunk_index=chunk_index, file_index=file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, self.data_tables[0].schema, compression="snappy") as writer:
            for table in self.data_tables:  # one row group per episode, so that an episode can be read alone
                writer.write_table(table)
        self.data_tables = []
        self.data_file = keys.next_file(chunk_index, file_index, self.limits.chunks_size)

    def _add_video(self, camera: str, episode: StagedEpisode) -> tuple[dict[str, Any], int]:
        """Join the video of one camera to the present file, or begin the next; returns its place and its checksum."""
        source = episode.video(camera)
        size, header = source.stat().st_size, encoder_header(source)
        video = self.videos.get(camera)
        limit = self.limits.video_megabytes * keys.MEGABYTE
        if video is None:
            video = self._open_video(camera, header, 0, 0)
        elif video.num_bytes + size >= limit or video.header != header:
            video.joiner.close()
            chunk_index, file_index = keys.next_file(video.chunk_index, video.file_index, self.limits.chunks_size)
            video = self._open_video(camera, header, chunk_index, file_index)
        checksum = video.joiner.append(source, episode.length)
        start = video.num_frames
        video.num_frames += episode.length
        video.num_bytes += size
        location = {
            f"videos/{camera}/chunk_index": video.chunk_index,
            f"videos/{camera}/file_index": video.file_index,
            f"videos/{camera}/from_timestamp": start / self.fps,
            f"videos/{camera}/to_timestamp": video.num_frames / self.fps,
        }
        return location, checksum

    def _open_video(self, camera: str, header: bytes, chunk_index: int, file_index: int) -> _VideoFile:
        path = self.root / keys.VIDEO_PATH.format(video_key=camera, chunk_index=chunk_index, file_index=file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        video = _VideoFile(VideoJoiner(path, self.fps), header, chunk_index, file_index)
        self.videos[camera] = video
        return video

    def _write_episode_rows(self) -> None:
        chunk_index, file_index = 0, 0
        remaining = self.rows
        while remaining:
            count = self._rows_that_fit(remaining)
            for row in remaining[:count]:
                row["meta/episodes/chunk_index"], row["meta/episodes/file_index"] = chunk_index, file_index
            path = self.root / keys.EPISODES_PATH.format(chunk_index=chunk_index, file_index=file_index)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(remaining[:count]), path, compression="snappy")
            remaining = remaining[count:]
            chunk_index, file_index = keys.next_file(chunk_index, file_index, self.limits.chunks_size)

    def _rows_that_fit(self, rows: list[dict[str, Any]]) -> int:
        bytes_per_row = pa.Table.from_pylist(rows[:1]).nbytes
        return max(1, int(self.limits.data_megabytes * keys.MEGABYTE / bytes_per_row))

    def _write_tasks(self) -> None:
        """The tasks as pandas writes a table indexed by the task text, which is how LeRobot looks them up."""
        index_name = "__index_level_0__"
        table = pa.table({"task_index": list(self.tasks.values()), index_name: list(self.tasks)})
        column: dict[str, Any] = {"name": "task_index", "field_name": "task_index", "metadata": None}
        column |= {"pandas_type": "int64", "numpy_type": "int64"}
        index = {"name": None, "field_name": index_name, "metadata": None}
        index |= {"pandas_type": "unicode", "numpy_type": "object"}
        labels = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
        pandas = {
            "index_columns": [index_name],
            "column_indexes": [labels | {"metadata": {"encoding": "UTF-8"}}],
            "columns": [column, index],
            "creator": {"library": "pyarrow", "version": pa.__version__},
            "pandas_version": "2.2.0",
        }
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), self.root / keys.TASKS_PATH)

    def _dataset_statistics(self) -> dict[str, Statistics]:
        statistics = {
            camera: image_statistics(histogram, self.num_frames) for camera, histogram in self.histograms.items()
        }
        for name, parts in self.columns.items():
            statistics[name] = vector_statistics(_two_axes(np.concatenate(parts)))
        return statistics

    def _info(self) -> dict[str, Any]:
        camera = keys.video_feature(self.image_size, self.fps, self.pixel_format)
        return {
            "codebase_version": keys.CODEBASE_VERSION,
            "robot_type": keys.ROBOT_TYPE,
            "total_episodes": len(self.rows),
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": self.limits.chunks_size,
            "data_files_size_in_mb": self.limits.data_megabytes,
            "video_files_size_in_mb": self.limits.video_megabytes,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": keys.DATA_PATH,
            "video_path": keys.VIDEO_PATH,
            "features": dict.fromkeys(keys.CAMERAS, camera) | keys.numeric_features(),
        }


def _two_axes(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), -1)


def _arrow_type(feature: dict[str, Any]) -> pa.DataType:
    kind = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}[feature["dtype"]]
    size = feature["shape"][0]
    return kind if size == 1 else pa.list_(kind, size)


def _arrow_column(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _to_lists(statistics: dict[str, Statistics]) -> dict[str, Any]:
    return {name: {key: value.tolist() for key, value in feature.items()} for name, feature in statistics.items()}


def _flush_tree(root: Path) -> None:
    """Flush every file under `root` to the disk, so that the rename that follows publishes whole files."""
    for path in root.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
