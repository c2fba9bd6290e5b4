"""A dataset as rows, one for each moment: where a moment is, and the features of all of them, computed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from vla.data.content_hash import observations_hash
from vla.data.episode import Episode
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.preferences import Moment
from vla.policies.moment_features import PICTURES, POLICY, STATE, MomentFeatures, load_features
from vla.rewards.models.model import all_moments
from vla.rollout.observations import observations_at
from vla.run.files import remove_temporaries, write_bytes

Progress = Callable[[int, int], None]
"""(episodes read, episodes in all)"""


@dataclass(frozen=True)
class Rows:
    """Where each moment of a dataset is, in the order of its episodes."""

    episodes: NDArray[np.int64]
    """[N] index of the episode of each row, counted from 0."""
    starts: dict[int, tuple[int, int]]
    """First row and length of each episode, by its own number (`episode_index`)."""

    def of(self, moments: Iterable[Moment]) -> NDArray[np.int64]:
        """Rows of moments. Raises `ReflexError` for one that the dataset does not have."""
        found = []
        for moment in moments:
            start, length = self.starts.get(moment.episode, (0, 0))
            if not 0 <= moment.frame < length:
                raise ReflexError(
                    f"the labels name frame {moment.frame} of episode {moment.episode}, which the dataset does not "
                    "have; give the dataset that was labelled"
                )
            found.append(start + moment.frame)
        return np.array(found, dtype=np.int64)


def rows_of(dataset: LeRobotDataset) -> Rows:
    """The rows of a dataset."""
    lengths = [dataset.length(index) for index in range(dataset.num_episodes)]
    ends = np.cumsum(lengths).tolist()
    starts = {
        number: (end - length, length)
        for number, end, length in zip(dataset.episode_numbers, ends, lengths, strict=True)
    }
    return Rows(np.repeat(np.arange(len(lengths)), lengths), starts)


@dataclass(frozen=True)
class Look:
    """What a reward model looks at in a dataset."""

    encoder: str
    """Name of the features, as `load_features` takes it."""
    camera: str | None
    size: tuple[int, int] | None
    """Height and width of the camera's pictures."""
    features: MomentFeatures

    @property
    def cameras(self) -> tuple[str, ...] | None:
        """Cameras whose pictures must be decoded; None for all."""
        if self.encoder.startswith(POLICY):
            return None
        return () if self.encoder == STATE or self.camera is None else (self.camera,)

    def describe(self) -> dict[str, Any]:
        """JSON-ready, as a model's folder has it."""
        return {
            "name": self.encoder,
            "camera": self.camera,
            "size": None if self.size is None else list(self.size),
            "identity": self.features.identity,
        }


def look_at(dataset: LeRobotDataset, encoder: str, camera: str | None, device: str = "cpu") -> Look:
    """What `encoder` makes of a dataset's camera, or of its first. Raises as `load_features` does, and `ReflexError`
    for a camera that the dataset does not have."""
    names = dataset.embodiment.camera_names
    name = camera or (names[0] if names else None)
    size = None
    if name is not None:
        (chosen,) = dataset.chosen([name]).cameras
        size = (chosen.height, chosen.width)
    elif encoder != STATE:
        raise ReflexError(f"{dataset.root} has no camera; set encoder=state")
    return Look(encoder, name, size, load_features(encoder, name, size, device))


def features_of(dataset: LeRobotDataset, look: Look, show: Progress = lambda done, total: None) -> NDArray[np.float32]:
    """Features [N, F] of every row, from the cache beside the dataset (`DATASET.features/`) where they are there.

    The cache is addressed by what the dataset shows and by the features' identity. Where nothing can be written beside
    the dataset, they are computed each time.

    Raises `ReflexError` and `WorldModelError` when the dataset or the encoder cannot be read.
    """
    key = hashlib.sha256(f"{observations_hash(dataset)}\n{look.features.identity}".encode()).hexdigest()
    path = dataset.root.with_name(dataset.root.name + ".features") / f"{key[:32]}.safetensors"
    cached = _cached(path, dataset.num_frames)
    if cached is not None:
        return cached
    parts = []
    for index in range(dataset.num_episodes):
        parts.append(look.features.of(observed(dataset, index, look)).astype(np.float32))
        show(index + 1, dataset.num_episodes)
    features = np.concatenate(parts)
    if _may_write_beside(dataset.root):
        remove_temporaries(path.parent)
        write_bytes(path, save({"features": features}))
    return features


def pictures_of(
    dataset: LeRobotDataset, look: Look, rows: NDArray[np.int64], show: Progress = lambda done, total: None
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, H, W, 3] of some rows (increasing, none twice): all of a dataset may not fit in memory."""
    if look.encoder != PICTURES or look.size is None:
        raise ReflexError(f"encoder={look.encoder} gives no pictures")
    found = np.empty((len(rows), *look.size, 3), dtype=np.uint8)
    start = 0
    for index in range(dataset.num_episodes):
        end = start + dataset.length(index)
        first, last = np.searchsorted(rows, [start, end])
        if first < last:
            found[first:last] = look.features.of(observed(dataset, index, look, rows[first:last] - start))
        start = end
        show(index + 1, dataset.num_episodes)
    return found


def observed(dataset: LeRobotDataset, index: int, look: Look, frames: NDArray[np.int64] | None = None) -> Any:
    """The observations of one episode, or of some of its frames."""
    episode: Episode = dataset.episode(index, cameras=look.cameras)
    return observations_at(episode, all_moments(episode) if frames is None else frames)


def _cached(path: Path, rows: int) -> NDArray[np.float32] | None:
    """What the cache holds; a file that is damaged is as good as none, and is written again."""
    if not path.exists():
        return None
    try:
        features: NDArray[np.float32] = load_file(path)["features"]
    except (SafetensorError, KeyError, OSError):
        return None
    return features if features.ndim == 2 and len(features) == rows else None


def _may_write_beside(root: Path) -> bool:
    """Whether the folder above the dataset can hold a cache: not in the hub's own cache, whose folders are links."""
    return os.access(root.resolve().parent, os.W_OK) and "snapshots" not in root.parts
