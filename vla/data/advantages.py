"""What critics make of every action of a dataset: a file of a run of offline RL that fine-tuning weighs samples by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla.data.lerobot_files import read_parquet
from vla.errors import ReflexError
from vla.run.files import write_bytes

ADVANTAGES_FILE = "advantages.parquet"
"""In the run folder of `vla offline`."""


@dataclass(frozen=True)
class Advantages:
    """Of N actions, or of the chunks that begin with them."""

    episodes: NDArray[np.int64]
    """[N] place of the episode in its dataset, from 0."""
    frames: NDArray[np.int64]
    """[N] step within the episode, from 0."""
    values: NDArray[np.float32]
    """[N]"""

    def of_episode(self, episode: int, length: int) -> NDArray[np.float32]:
        """[length] of an episode's steps, NaN where nothing is known."""
        known = np.full(length, np.nan, dtype=np.float32)
        rows = np.flatnonzero(self.episodes == episode)
        rows = rows[self.frames[rows] < length]
        known[self.frames[rows]] = self.values[rows]
        return known

    def write(self, path: Path) -> None:
        """Write a Parquet file with the columns episode, frame and advantage, atomically."""
        content = pa.BufferOutputStream()
        pq.write_table(pa.table({"episode": self.episodes, "frame": self.frames, "advantage": self.values}), content)
        write_bytes(path, content.getvalue().to_pybytes())

    @classmethod
    def read(cls, run: Path) -> Advantages:
        """Read `ADVANTAGES_FILE` of a run folder. Raises `ReflexError` when it is missing or damaged."""
        path = run / ADVANTAGES_FILE
        if not path.is_file():
            raise ReflexError(f"{path} does not exist; give the run folder of vla offline algo=iql or algo=awac")
        table = read_parquet(path, ["episode", "frame", "advantage"])
        episodes, frames, values = (table[name].to_numpy() for name in ("episode", "frame", "advantage"))
        return cls(episodes, frames, values)
