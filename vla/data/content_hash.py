"""What a dataset shows, as one hash: pictures, states and instructions, and nothing that is computed from them."""

from __future__ import annotations

import hashlib

from vla.data import lerobot_keys as keys
from vla.data.lerobot_dataset import LeRobotDataset
from vla.data.lerobot_files import read_parquet
from vla.run.files import file_sha256


def observations_hash(dataset: LeRobotDataset) -> str:
    """SHA-256 of a dataset's pictures, states and instructions, in the order of its episodes.

    Rewards and other columns do not count: relabelling a dataset leaves its hash as it is. Reads every file once.
    Raises `ReflexError` when a file is damaged.
    """
    digest = hashlib.sha256()
    for index, number in enumerate(dataset.episode_numbers):
        digest.update(f"{number}:{dataset.length(index)}\n".encode())
    digest.update("\n".join(dataset.tasks).encode("utf-8"))
    for path in sorted((dataset.root / "videos").rglob("*.mp4")):
        digest.update(path.relative_to(dataset.root).as_posix().encode())
        digest.update(file_sha256(path))
    pictures = [camera.key for camera in dataset.features.cameras.values() if camera.dtype == "image"]
    shown = [*pictures, *filter(None, [dataset.features.state])]
    for path in dataset.data_files:
        table = read_parquet(path, [keys.EPISODE_INDEX, keys.FRAME_INDEX, keys.TASK_INDEX, *shown])
        for column in table.columns:
            for row in column.to_pylist():
                digest.update(repr(row).encode())
    return digest.hexdigest()
