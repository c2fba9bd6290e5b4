"""LeRobot v3 datasets as others write them, with pyarrow and PyAV alone, and what a reader must find in them.

Every frame says where it belongs: its left half is grey 10 + 6 t, its right half grey 20 + 40 * episode + 15 * camera.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from vla.data.lerobot_reader import LeRobotDataset

TEXTS = ("pick up the red cube", "push the blue cube")


@dataclass(frozen=True)
class Foreign:
    """What to write."""

    lengths: Sequence[int] = (5, 3, 6)
    cameras: dict[str, tuple[int, int]] = field(default_factory=lambda: {"observation.images.top": (32, 48)})
    """Feature -> height and width."""
    state: str | None = "observation.state"
    state_size: int = 6
    action: str = "action"
    action_size: int = 6
    names: Any = None
    """Names of state and action in info.json."""
    fps: float = 20
    codec: str = "libx264"
    """"png", "jpg": pictures in the data file, or of "png at PATH" where the cells say they are."""
    options: dict[str, str] = field(default_factory=dict)
    channels_first: bool = False
    picture_names: list[str] | None = field(default_factory=lambda: ["height", "width", "channel"])
    robot: str | None = "some_arm"
    numbers: Sequence[int] | None = None
    """Numbers of the episodes; None for 0, 1, ..."""
    task: Callable[[int, int], int] = lambda episode, frame: episode % 2
    tasks_column: bool = True
    data_file: Callable[[int], int] = lambda episode: 0
    said_data_file: Callable[[int], int] | None = None
    """The data file in the episode table; None for the right one."""
    video_file: Callable[[int], int] = lambda episode: 0
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    """More features of info.json, of which there is no data."""

    def number(self, episode: int) -> int:
        return episode if self.numbers is None else self.numbers[episode]

    @property
    def is_video(self) -> bool:
        return self.codec.startswith("lib")

    def frame(self, episode: int, step: int, camera: int) -> NDArray[np.uint8]:
        height, width = list(self.cameras.values())[camera]
        picture = np.empty((height, width, 3), np.uint8)
        picture[:, : width // 2], picture[:, width // 2 :] = 10 + 6 * step, 20 + 40 * episode + 15 * camera
        return picture

    def vectors(self, episode: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States and actions of an episode."""
        generator, length = np.random.default_rng(episode), self.lengths[episode]
        states = generator.normal(size=(length, self.state_size)).astype(np.float32)
        return states, generator.uniform(-90, 90, (length, self.action_size)).astype(np.float32)


def write_foreign(root: Path, kind: Foreign) -> Path:
    """Write the dataset."""
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    episodes = range(len(kind.lengths))
    for number in sorted({kind.data_file(episode) for episode in episodes}):
        rows = [row for e in episodes if kind.data_file(e) == number for row in _frame_rows(root, kind, e)]
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    table = [_episode_row(kind, episode) for episode in episodes]
    if kind.is_video:
        _write_videos(root, kind, table)
    pq.write_table(pa.Table.from_pylist(table), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": list(range(len(TEXTS))), "__index_level_0__": list(TEXTS)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(_info(kind)))
    return root


def check_foreign(root: Path, kind: Foreign, names: dict[str, str] | None = None, tolerance: int = 4) -> LeRobotDataset:
    """Read it and compare every number, picture and instruction; `names` are the cameras' where not their keys'."""
    dataset = LeRobotDataset(root)
    assert dataset.num_episodes == len(kind.lengths)
    assert dataset.fps == pytest.approx(kind.fps)
    known = names or {key: key.removeprefix("observation.images.") for key in kind.cameras}
    assert dataset.embodiment.camera_names == tuple(known[key] for key in kind.cameras)
    for episode, length in enumerate(kind.lengths):
        read = dataset.episode(episode)
        states, actions = kind.vectors(episode)
        assert np.array_equal(read.states, states if kind.state else np.zeros((length, 0)))
        assert np.array_equal(read.actions, actions)
        texts = [TEXTS[kind.task(episode, step)] for step in range(length)]
        assert read.instruction == texts[0]
        assert read.instructions_at(np.arange(length)) == texts
        assert dataset.task_id(episode) == read.task_id == kind.task(episode, 0)
        for camera, key in enumerate(kind.cameras):
            wanted = np.stack([kind.frame(episode, step, camera) for step in range(length)]).astype(int)
            found = read.images[known[key]]
            assert found.shape == wanted.shape
            inner = [slice(None), slice(None), [2, -3]]  # away from the edge between both halves
            assert np.abs(found[tuple(inner)] - wanted[tuple(inner)]).max() <= tolerance, (episode, key)
    return dataset


def _frame_rows(root: Path, kind: Foreign, episode: int) -> list[dict[str, Any]]:
    states, actions = kind.vectors(episode)
    rows = []
    first = sum(kind.lengths[:episode])
    for step in range(kind.lengths[episode]):
        row: dict[str, Any] = {
            kind.action: actions[step].tolist() if kind.action_size > 1 else float(actions[step, 0]),
            "timestamp": step / kind.fps,
            "frame_index": step,
            "episode_index": kind.number(episode),
            "index": first + step,
            "task_index": kind.task(episode, step),
        }
        if kind.state:
            row[kind.state] = states[step].tolist()
        if not kind.is_video:
            row |= {key: _cell(root, kind, episode, step, key) for key in kind.cameras}
        rows.append(row)
    return rows


def _cell(root: Path, kind: Foreign, episode: int, step: int, key: str) -> dict[str, Any]:
    form, _, place = kind.codec.partition(" at ")
    picture = kind.frame(episode, step, list(kind.cameras).index(key))
    encoded = cv2.imencode("." + form, picture)[1].tobytes()
    relative = Path("images", key, f"episode-{kind.number(episode):06d}", f"frame-{step:06d}.{form}")
    if not place:
        return {"bytes": encoded, "path": relative.name}
    (root / relative).parent.mkdir(parents=True, exist_ok=True)
    (root / relative).write_bytes(encoded)
    named = {"relative": relative, "absolute": root / relative, "name": Path(relative.name)}
    named["elsewhere"] = Path("/nowhere/recordings") / relative
    return {"bytes": None, "path": str(named[place])}


def _episode_row(kind: Foreign, episode: int) -> dict[str, Any]:
    length, first = kind.lengths[episode], sum(kind.lengths[:episode])
    row: dict[str, Any] = {
        "episode_index": kind.number(episode),
        "length": length,
        "dataset_from_index": first,
        "dataset_to_index": first + length,
        "data/chunk_index": 0,
        "data/file_index": (kind.said_data_file or kind.data_file)(episode),
    }
    if kind.tasks_column:  # in no order, as LeRobot lists them
        row["tasks"] = sorted({TEXTS[kind.task(episode, step)] for step in range(length)}, reverse=True)
    return row


def _write_videos(root: Path, kind: Foreign, table: list[dict[str, Any]]) -> None:
    for camera, key in enumerate(kind.cameras):
        parts: dict[int, list[NDArray[np.uint8]]] = {}
        for episode, length in enumerate(kind.lengths):
            number = kind.video_file(episode)
            frames = parts.setdefault(number, [])
            start, prefix = len(frames) / kind.fps, f"videos/{key}/"
            frames += [kind.frame(episode, step, camera) for step in range(length)]
            table[episode] |= {prefix + "chunk_index": 0, prefix + "file_index": number}
            table[episode] |= {prefix + "from_timestamp": start, prefix + "to_timestamp": start + length / kind.fps}
        for number, frames in parts.items():
            path = root / f"videos/{key}/chunk-000/file-{number:03d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(path, frames, kind.fps, kind.codec, kind.options)


def encode(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float, codec: str, options: dict[str, str]) -> None:
    """One mp4 with these frames."""
    rate = Fraction(fps).limit_denominator(1001)
    quiet = {"libx265": {"x265-params": "log-level=none"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**quiet.get(codec, {}), **options})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _info(kind: Foreign) -> dict[str, Any]:
    features: dict[str, dict[str, Any]] = {}
    for key, (height, width) in kind.cameras.items():
        shape = [3, height, width] if kind.channels_first else [height, width, 3]
        dtype = "video" if kind.is_video else "image"
        features[key] = {"dtype": dtype, "shape": shape, "names": kind.picture_names}
    if kind.state:
        features[kind.state] = {"dtype": "float32", "shape": [kind.state_size], "names": kind.names}
    features[kind.action] = {"dtype": "float32", "shape": [kind.action_size], "names": kind.names}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for key in ("frame_index", "episode_index", "index", "task_index"):
        features[key] = {"dtype": "int64", "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "robot_type": kind.robot,
        "total_episodes": len(kind.lengths),
        "total_frames": sum(kind.lengths),
        "total_tasks": len(TEXTS),
        "chunks_size": 1000,
        "fps": kind.fps,
        "splits": {"train": f"0:{len(kind.lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if kind.is_video else None,
        "features": features | kind.extra,
    }
