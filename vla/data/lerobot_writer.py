"""Writes demonstrations as a LeRobotDataset v3.0.

Episodes are staged one by one in `<folder>.partial`; `finalize` merges them into the layout and renames the result to
its final name, so the final name never holds anything half-written and an interrupted recording can go on. A recording
that ends without a single episode leaves nothing.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

from sim.embodiments import Embodiment
from vla.data import lerobot_keys as keys
from vla.data.episode import Episode
from vla.data.lerobot_merge import DatasetMerge
from vla.data.staging import read_staged, stage_episode, staged_keys
from vla.data.video import PIXEL_FORMAT, PixelFormat, check_pixel_format
from vla.errors import ReflexError, writing
from vla.run.files import read_json_object, replace_folder, sync, write_json

MERGED = "dataset"
FORMAT = "format.json"
LOCK = "lock"


class LeRobotWriter:
    """Collects demonstrations and merges them into one dataset folder.

    Args:
        folder: where the finished dataset will be; must not exist yet.
        suite: suite every episode comes from.
        embodiment: robot every episode comes from, with its cameras' sizes; even, because of h264's colour format.
        resume: continue with the whole episodes an interrupted writer of the same settings left.
        pixel_format: "yuv420p" plays everywhere; "yuv444p" keeps the full colour resolution.

    Raises:
        ReflexError: a camera's size or name cannot be written, the folder exists, a recording is under way or was
            interrupted and `resume` is not set, its settings differ, or `<folder>.partial` is not a recording's.
    """

    def __init__(
        self,
        folder: Path,
        suite: str,
        embodiment: Embodiment,
        resume: bool = False,
        *,
        pixel_format: PixelFormat = PIXEL_FORMAT,
    ) -> None:
        check_cameras(embodiment)
        check_pixel_format(pixel_format)
        self.folder = Path(folder)
        self.staging = self.folder.with_name(self.folder.name + ".partial")
        self.suite, self.embodiment, self.pixel_format = suite, embodiment, pixel_format
        if self.folder.exists():
            raise ReflexError(f"{self.folder} already exists; choose another output folder or delete it")
        if (
            self.staging.is_dir()
            and any(self.staging.iterdir())
            and not (self.staging / keys.RECORDING_MARKER).exists()
        ):
            raise ReflexError(
                f"{self.staging}, where the recording would be kept until it is whole, holds something else; choose "
                "another output folder, or move that one"
            )
        if staged_keys(self.staging) and not resume:
            raise ReflexError(
                f"{self.staging} holds an interrupted recording; resume it, or delete it to record from the beginning"
            )
        with writing(self.staging):
            self.staging.mkdir(parents=True, exist_ok=True)
            (self.staging / keys.RECORDING_MARKER).touch()
            self._lock = (self.staging / LOCK).open("w")
            self._take_lock()
            if not staged_keys(self.staging):
                self._clear()
            settings = {
                "suite": suite,
                "embodiment": embodiment.describe(),
                "pixel_format": pixel_format,
                "details": json.loads(json.dumps(embodiment.to_dict())),  # as it is read back: lists for tuples
            }
            check_same_settings(self.staging / FORMAT, settings)
        self._next = len(staged_keys(self.staging))

    @property
    def num_episodes(self) -> int:
        """Whole episodes recorded so far."""
        return len(staged_keys(self.staging))

    def add_episode(self, episode: Episode) -> None:
        """Record one demonstration (a frame and a state before every action).

        Raises `ReflexError` for another suite or robot, a rollout without all its frames, wrong shapes, or a full
        disk.
        """
        if episode.suite != self.suite:
            raise ReflexError(f"an episode of suite {episode.suite!r} cannot go into a dataset of suite {self.suite!r}")
        if episode.embodiment != self.embodiment:
            raise ReflexError(
                f"an episode of {episode.embodiment.describe()} cannot go into a dataset of "
                f"{self.embodiment.describe()}; one dataset holds one robot with one set of cameras, names and limits"
            )
        stage_episode(self.staging, f"episode-{self._next:06d}", episode, self.pixel_format)
        self._next += 1

    def finalize(self, collection: dict[str, Any] | None = None) -> Path:
        """Merge what was recorded into the dataset folder and return it; the writer is used up.

        `collection` is kept in `meta/reflex_collection.json`.
        Raises `ReflexError` when nothing was recorded or the disk is full; the recorded episodes then stay.
        """
        names = staged_keys(self.staging)
        if not names:
            raise ReflexError(f"no episode was recorded for {self.folder}; a dataset needs at least one")

        def merge(root: Path) -> None:
            merged = DatasetMerge(root, self.embodiment, self.pixel_format)
            merged.run(read_staged(self.staging, name) for name in names)
            if collection is not None:
                write_json(root / keys.COLLECTION_PATH, collection)

        root = self.staging / MERGED
        with writing(self.folder):
            replace_folder(root, merge)  # every file is on the disk before the final name exists
            root.rename(self.folder)
            sync(self.folder.parent)
        self.close()
        shutil.rmtree(self.staging, ignore_errors=True)
        return self.folder

    def close(self) -> None:
        """Let another process continue the recording; without an episode there is none, and nothing stays."""
        if not self._lock.closed and self.staging.is_dir() and not staged_keys(self.staging):
            shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.close()

    def _clear(self) -> None:
        """Forget the settings and attempts of a recording that was killed before its first episode."""
        for entry in self.staging.iterdir():
            if entry.name not in (keys.RECORDING_MARKER, LOCK):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReflexError(
                f"another process is recording into {self.staging}; wait for it or choose another folder"
            ) from error


def check_cameras(embodiment: Embodiment) -> None:
    """Raise `ReflexError` when a camera's pictures cannot be encoded as h264, saying what size would be right."""
    for camera in embodiment.cameras:
        nearest = [max(16, side + side % 2) for side in (camera.height, camera.width)]
        if nearest != [camera.height, camera.width]:
            raise ReflexError(
                f"pictures of {camera.height}x{camera.width} pixels (camera {camera.name}) cannot be encoded as h264 "
                f"video, which needs even sides of 16 or more; {nearest[0]}x{nearest[1]} would be right "
                "(image_size=... where a suite renders them)"
            )
        if "/" in camera.name or camera.name.startswith("."):
            raise ReflexError(f"camera {camera.name!r} cannot be written: its name becomes a file's; rename it")


def check_same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write `settings` to `path`, or, when a recording already has them there, require that they are equal.

    Raises `ReflexError` naming the first setting that differs.
    """
    if not path.exists():
        write_json(path, settings)
        return
    recorded = read_json_object(path, f"delete {path.parent} and record again")
    for name, value in settings.items():
        if recorded.get(name) != value:
            raise ReflexError(
                f"{path.parent} holds an interrupted recording with {name}={recorded.get(name)!r}, "
                f"now {name}={value!r}; use the same settings to continue it, or delete that folder"
            )
