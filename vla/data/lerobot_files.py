"""Reads and checks the single files of a LeRobotDataset v3.0. Every failure names the file and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla.data import lerobot_keys as keys
from vla.data.statistics import Statistics
from vla.errors import ReflexError
from vla.run.files import read_json_object

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

UNKNOWN_ROBOT = "unknown"
"""Robot type of a dataset that names none."""

INCOMPLETE = "this is not a whole LeRobotDataset: restore this file"


@dataclass(frozen=True)
class DatasetInfo:
    """What `meta/info.json` says, checked."""

    path: Path
    """The info.json itself, for messages."""
    robot_type: str
    fps: float
    features: dict[str, dict[str, Any]]
    num_episodes: int
    num_frames: int
    data_path: str
    video_path: str | None


def resolve_dataset(path_or_hub_id: str | Path) -> Path:
    """The local folder of a dataset; a string that names no folder and looks like `owner/name` is fetched from the hub.

    Raises `ReflexError` when there is neither a folder nor a reachable hub dataset.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    if (partial / keys.RECORDING_MARKER).exists():
        raise ReflexError(
            f"{folder} is not finished: run the command that records it again, it continues from {partial}"
        )
    if isinstance(path_or_hub_id, Path) or not HUB_ID.fullmatch(path_or_hub_id):
        raise ReflexError(f"there is no dataset folder {folder}; give a folder, or a hub id such as owner/name")
    import huggingface_hub  # here, because it is slow to import and only hub ids need it

    try:
        return Path(huggingface_hub.snapshot_download(path_or_hub_id, repo_type="dataset"))
    except Exception as error:  # the hub client raises errors of several HTTP libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ReflexError(
            f"there is no folder {path_or_hub_id!r}, and it could not be fetched from the Hugging Face hub ({reason}); "
            "check the name and the network, or give a local folder"
        ) from error


def read_info(root: Path) -> DatasetInfo:
    """Read and check `meta/info.json`.

    Raises `ReflexError` for another format version, and for what is missing or garbled.
    """
    path = root / keys.INFO_PATH
    content = read_json_object(path, INCOMPLETE)
    version = str(content.get("codebase_version"))
    if not version.startswith("v3."):
        raise ReflexError(
            f"{path} is of format {version}, not v3.0; convert the dataset with LeRobot's converter first"
        )
    try:
        info = DatasetInfo(
            path=path,
            robot_type=str(content.get("robot_type") or UNKNOWN_ROBOT),
            fps=float(content["fps"]),
            features=dict(content["features"]),
            num_episodes=int(content["total_episodes"]),
            num_frames=int(content["total_frames"]),
            data_path=str(content["data_path"]),
            video_path=content.get("video_path"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReflexError(f"{path} lacks or garbles {error}; restore this file") from error
    return info


def read_statistics(root: Path) -> dict[str, Statistics]:
    """Read `meta/stats.json`: feature name -> statistic name -> array; nothing where a dataset has no such file.

    Raises `ReflexError` when it is damaged.
    """
    path = root / keys.STATS_PATH
    if not path.exists():
        return {}
    content = read_json_object(path, INCOMPLETE)
    try:
        return {name: {key: np.asarray(value) for key, value in feature.items()} for name, feature in content.items()}
    except (AttributeError, ValueError) as error:
        raise ReflexError(f"{path} is damaged ({error}); restore this file") from error


def read_parquet(path: Path, columns: list[str] | None = None, episode: int | None = None) -> pa.Table:
    """Read a parquet file, or some of its columns, or the rows of one episode.

    Raises `ReflexError` when it is missing, damaged or lacks a column.
    """
    lacking = [name for name in columns or [] if name not in column_names(path)]
    if lacking:
        raise ReflexError(f"{path} has no column {lacking[0]!r}; restore this file")
    rows = None if episode is None else [(keys.EPISODE_INDEX, "==", episode)]
    with _reading(path):
        # No partitioning: the names of folders above the dataset are not columns of it.
        return pq.read_table(path, columns=columns, filters=rows, partitioning=None, page_checksum_verification=True)


def column_names(path: Path) -> list[str]:
    """Names of the columns of a parquet file. Raises `ReflexError` when it is missing or damaged."""
    with _reading(path):
        return list(pq.read_schema(path).names)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong while a parquet file is read becomes a `ReflexError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise ReflexError(f"{path} is missing; restore this file") from error
    except (pa.ArrowException, OSError) as error:
        raise ReflexError(f"{path} is damaged ({str(error).splitlines()[0]}); restore this file") from error


def read_tasks(root: Path) -> list[str]:
    """The instructions, in the order of their task index."""
    path = root / keys.TASKS_PATH
    table = read_parquet(path)
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    texts += [name for name in table.column_names if pa.types.is_large_string(table.schema.field(name).type)]
    if keys.TASK_INDEX not in table.column_names or not texts:
        raise ReflexError(f"{path} has the columns {table.column_names}; the task text and its task_index are needed")
    numbered = dict(zip(table[keys.TASK_INDEX].to_pylist(), table[texts[0]].to_pylist(), strict=True))
    if sorted(numbered) != list(range(len(numbered))):
        raise ReflexError(f"{path} does not number its tasks 0 to {len(numbered) - 1}; restore this file")
    return [numbered[index] for index in range(len(numbered))]


def read_episode_table(root: Path) -> pa.Table:
    """The episode table in the order of its episodes' numbers, without their statistics. A row is small, but a dataset
    may have a hundred thousand: they stay in Arrow.

    Raises `ReflexError` when it is missing, damaged, or an episode is there twice.
    """
    folder = root / keys.EPISODES_FOLDER
    paths = sorted(folder.glob("*/*.parquet"))
    if not paths:
        raise ReflexError(f"{folder} has no parquet file; this is not a whole LeRobotDataset")
    tables = []
    for path in paths:
        names = [name for name in column_names(path) if not name.startswith("stats/")]
        lacking = [name for name in ("episode_index", "length") if name not in names]
        if lacking:
            raise ReflexError(f"{path} has no column {lacking[0]!r}; restore this file")
        tables.append(read_parquet(path, names))
    table = pa.concat_tables(tables, promote_options="permissive").sort_by("episode_index").combine_chunks()
    if len(pc.unique(table["episode_index"])) != len(table):
        raise ReflexError(f"{folder} has an episode number twice; restore these files")
    return table


def column_array(table: pa.Table, name: str, size: int, path: Path, must_be_finite: bool = True) -> NDArray[Any]:
    """A numeric column as [N] (size 1) or [N, size].

    Raises `ReflexError` when values are missing, not finite though they must be, or rows have another length than
    `size`.
    """
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # older Arrow keeps one chunk wrapped
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    num_rows = len(column)
    if column.null_count:
        raise ReflexError(f"{path} has empty values in column {name!r}; restore this file")
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if is_list or pa.types.is_fixed_size_list(column.type):
        lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        column = column.flatten()
    else:
        lengths = {1}
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    if values.dtype == object or lengths - {size}:
        raise ReflexError(
            f"{path} has rows of another length than {size}, which meta/info.json says, in column {name!r}; restore "
            "this file"
        )
    if must_be_finite and not np.isfinite(values).all():
        raise ReflexError(
            f"{path} has a value in column {name!r} that is not finite; remove or record that episode again"
        )
    return values if size == 1 else values.reshape(num_rows, size)
