"""Adds a column of one number to a LeRobotDataset that is already there. No other column changes by a bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla.data import lerobot_keys as keys
from vla.data.lerobot_dataset import LeRobotDataset
from vla.data.statistics import vector_statistics
from vla.errors import ReflexError, writing
from vla.run.files import read_json_object, remove_temporaries, sync, write_json

STAGE_PREFIX = ".column-"
"""The folder in a dataset that holds its new data files until all are whole."""
READY = "ready.json"
"""In that folder once they are."""


def stage_folder(dataset: LeRobotDataset, name: str) -> Path:
    """Where a column is prepared; what an interrupted writer left there is used again."""
    return dataset.root / f"{STAGE_PREFIX}{name}"


def write_number_column(
    dataset: LeRobotDataset, name: str, values: Mapping[int, NDArray[np.float32]], documents: Mapping[str, Any]
) -> None:
    """Add the column `name`, or replace it, and describe it in `meta/info.json` and `meta/stats.json`.

    All data files are written beside the old ones first and then take their places one after another, each at once. A
    kill before leaves the dataset as it was. A kill between leaves files with and without the column, which Reflex
    reads; the same call again finishes.

    Args:
        dataset: a local folder.
        name: of the column.
        values: [T] float32 for each episode, by its own number (`episode_index`).
        documents: JSON files to write as well, by their place in the dataset.

    Raises:
        ReflexError: an episode or a frame has no value, a file is damaged, or the disk is full.
    """
    stage = stage_folder(dataset, name)
    with writing(dataset.root):
        stage.mkdir(exist_ok=True)
        remove_temporaries(stage)
    places = {path: stage / path.relative_to(dataset.root) for path in dataset.data_files}
    if not (stage / READY).exists():
        for path, staged in places.items():
            if not staged.exists():
                _write_with_column(path, staged, name, values)
        write_json(stage / READY, sorted(str(path.relative_to(stage)) for path in places.values()))
    with writing(dataset.root):
        for path, staged in places.items():
            if staged.exists():
                staged.replace(path)
                sync(path.parent)
    _describe(dataset, name, np.concatenate(list(values.values())))
    for place, content in documents.items():
        write_json(dataset.root / place, content)
    with writing(stage):
        shutil.rmtree(stage)


def _write_with_column(path: Path, target: Path, name: str, values: Mapping[int, NDArray[np.float32]]) -> None:
    """A data file with the column, row group by row group."""
    temporary = target.with_name(f"{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        source = pq.ParquetFile(path, page_checksum_verification=True)
        schema = _schema(source.schema_arrow, name)
        with pq.ParquetWriter(temporary, schema, compression="snappy") as writer:
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                column = pa.array(_values_of(table, values, path), pa.float32())
                if name in table.column_names:
                    table = table.drop_columns([name])
                writer.write_table(table.append_column(name, column).select(schema.names).cast(schema))
        sync(temporary)
        temporary.replace(target)


def _schema(schema: pa.Schema, name: str) -> pa.Schema:
    """With the column, also where Hugging Face's own description of the columns is kept in the file."""
    metadata = dict(schema.metadata or {})
    if name in schema.names:
        schema = schema.remove(schema.get_field_index(name))
    schema = schema.append(pa.field(name, pa.float32()))
    described = json.loads(metadata.get(b"huggingface", b"{}"))
    if "features" in described.get("info", {}):
        described["info"]["features"][name] = {"dtype": "float32", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(described).encode()
    return schema.with_metadata(metadata or None)


def _values_of(table: pa.Table, values: Mapping[int, NDArray[np.float32]], path: Path) -> NDArray[np.float32]:
    """The value of each row of a table, wherever its episode and frame are."""
    numbers = table[keys.EPISODE_INDEX].to_numpy()
    frames = table[keys.FRAME_INDEX].to_numpy()
    found = np.empty(len(table), dtype=np.float32)
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        known = values.get(number)
        if known is None or frames[rows].max() >= len(known):
            raise ReflexError(
                f"{path} has rows of episode {number} that {keys.EPISODES_FOLDER} does not list; restore these files"
            )
        found[rows] = known[frames[rows]]
    return found


def _describe(dataset: LeRobotDataset, name: str, values: NDArray[np.float32]) -> None:
    info = read_json_object(dataset.info.path)
    info["features"][name] = {"dtype": "float32", "shape": [1], "names": None}
    statistics_path = dataset.root / keys.STATS_PATH
    if statistics_path.exists():
        statistics = read_json_object(statistics_path)
        statistics[name] = {key: value.tolist() for key, value in vector_statistics(values[:, None]).items()}
        write_json(statistics_path, statistics)
    write_json(dataset.info.path, info)
