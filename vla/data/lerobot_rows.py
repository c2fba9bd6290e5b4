"""Finds the rows of an episode in the data files of a LeRobotDataset, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vla.data import lerobot_files as files
from vla.data import lerobot_keys as keys
from vla.errors import ReflexError

Columns = dict[str, NDArray[Any]]

OPTIONAL = (keys.REWARD, keys.COST, keys.PROGRESS, keys.SUCCESS, *keys.INTERVENTION_KEYS)
"""Columns of one number that are read where a dataset has them."""


class FrameRows:
    """The numeric columns of a dataset, one episode at a time.

    The episode table says in which file an episode is. Some converters are wrong about the first episode of a file, and
    people move rows: where the rows are not there, all files are looked through.
    """

    def __init__(
        self,
        root: Path,
        data_path: str,
        vectors: dict[str, int],
        numbers: Sequence[str] = (),
        must_be_finite: bool = True,
    ) -> None:
        """`data_path` is info.json's template; `vectors` are the columns of several numbers and their lengths.

        `numbers` are columns of one number that are read besides, where a dataset has them.
        """
        self._must_be_finite = must_be_finite
        self._root, self._template, self._vectors, self._numbers = root, data_path, vectors, tuple(numbers)
        # Data files are small next to their videos; two stay in memory so that sequential reading opens each once.
        self._columns = lru_cache(maxsize=2)(self._read)

    def episode(self, row: dict[str, Any]) -> tuple[list[Path], Columns]:
        """The files that hold an episode, and its own part of every column, [T] or [T, D], in order of time.

        `row` is its row in the episode table. Raises `ReflexError` when rows are missing, repeated or damaged.
        """
        number, length = int(row["episode_index"]), int(row["length"])
        recorded = self._recorded(row)
        where = [recorded] if recorded is not None and recorded.exists() else []
        part, whole = self._gather(where, number, length)
        if not whole:
            where = self._files_of.get(number, where)
            part, whole = self._gather(where, number, length)
        if not whole:
            if recorded is not None and not recorded.exists():
                raise ReflexError(f"{recorded} is missing; restore this file")
            count = len(part[keys.FRAME_INDEX]) if part else 0
            place = ", ".join(str(path) for path in where) or str(self._root / "data")
            raise ReflexError(
                f"{place} holds {count} rows of episode {number} where {keys.EPISODES_FOLDER} says {length}, numbered "
                f"from 0; restore this file"
            )
        return where, part

    def column(self, name: str) -> NDArray[Any]:
        """One column of every data file, [N, D]."""
        return np.concatenate([self._columns(path)[name] for path in self._paths])

    @cached_property
    def first_tasks(self) -> dict[int, int]:
        """Episode number -> task index of its first frame."""
        tasks: dict[int, int] = {}
        for path in self._paths:
            table = files.read_parquet(path, [keys.EPISODE_INDEX, keys.FRAME_INDEX, keys.TASK_INDEX])
            first = table.filter(pc.equal(table[keys.FRAME_INDEX], 0))
            tasks |= dict(zip(first[keys.EPISODE_INDEX].to_pylist(), first[keys.TASK_INDEX].to_pylist(), strict=True))
        return tasks

    @cached_property
    def _paths(self) -> list[Path]:
        return sorted((self._root / Path(self._template).parts[0]).rglob("*.parquet"))

    @cached_property
    def _files_of(self) -> dict[int, list[Path]]:
        """Episode number -> the files that hold rows of it."""
        found: dict[int, list[Path]] = {}
        for path in self._paths:
            for number in pc.unique(files.read_parquet(path, [keys.EPISODE_INDEX])[keys.EPISODE_INDEX]).to_pylist():
                found.setdefault(int(number), []).append(path)
        return found

    def _recorded(self, row: dict[str, Any]) -> Path | None:
        place = {name: row.get(f"data/{name}") for name in ("chunk_index", "file_index")}
        if None in place.values():
            return None
        return self._root / self._template.format(**place)

    def _gather(self, paths: list[Path], number: int, length: int) -> tuple[Columns, bool]:
        """An episode's rows in those files, by time, and whether they are all of them."""
        parts = []
        for path in paths:
            columns = self._columns(path)
            rows = np.flatnonzero(columns[keys.EPISODE_INDEX] == number)
            parts.append({name: values[rows] for name, values in columns.items()})
        if not parts:
            return {}, False
        shared = [name for name in parts[0] if all(name in part for part in parts)]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in shared}
        order = np.argsort(whole[keys.FRAME_INDEX], kind="stable")
        whole = {name: values[order] for name, values in whole.items()}
        return whole, np.array_equal(whole[keys.FRAME_INDEX], np.arange(length))

    def _read(self, path: Path) -> Columns:
        """The numeric columns of one data file that are used."""
        present = set(files.column_names(path))
        wanted = self._vectors | dict.fromkeys((keys.FRAME_INDEX, keys.EPISODE_INDEX, keys.TASK_INDEX), 1)
        wanted |= {name: 1 for name in (*OPTIONAL, *self._numbers) if name in present}
        table = files.read_parquet(path, list(wanted))
        columns = {
            name: files.column_array(table, name, size, path, self._must_be_finite) for name, size in wanted.items()
        }
        for name in (*self._vectors, keys.REWARD, keys.COST, keys.PROGRESS, *self._numbers):
            if name in columns:
                columns[name] = columns[name].astype(np.float32)
        return columns | {name: columns[name].reshape(-1, size) for name, size in self._vectors.items()}
