"""Whole episodes on disk before they are merged into a dataset: what an interrupted recording continues from.

Each episode is a folder of its own, filled under a temporary name and then renamed, so what is staged is whole.
Any number of processes may stage episodes with different keys into one folder.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.data.statistics import image_histogram
from vla.data.video import PixelFormat, encode_video
from vla.errors import ReflexError
from vla.run.files import read_json_object, replace_folder

EPISODES = "episodes"
ARRAYS = "arrays.npz"
RECORD = "record.json"


@dataclass(frozen=True)
class StagedEpisode:
    """One whole episode in the staging folder, with its videos still in files."""

    folder: Path
    record: dict[str, Any]
    """Instruction and provenance."""
    arrays: dict[str, NDArray[Any]]
    """states [T, S], actions [T, A], rewards, costs and progress [T], "histogram/<camera>" [3, 256], and, where it was
    recorded, interventions [T]."""

    @property
    def length(self) -> int:
        """Control steps."""
        return len(self.arrays["actions"])

    @property
    def instructions(self) -> list[str]:
        """The instruction of each control step."""
        return list(self.record.get("instructions") or [self.record["instruction"]] * self.length)

    def video(self, camera: str) -> Path:
        """The mp4 of one camera."""
        return self.folder / f"{camera}.mp4"


def check_demonstration(episode: Episode) -> None:
    """Refuse an episode that cannot be written as a demonstration.

    Raises `ReflexError` when frames are missing (a rollout keeps them only at its decisions), a shape differs from the
    episode's embodiment or a number is not finite.
    """
    length = episode.length
    name = f"episode (task {episode.task_id}, initial state {episode.init_state_id})"
    if length == 0:
        raise ReflexError(f"{name} has no actions; a dataset holds episodes of at least one step")
    steps = episode.observation_steps
    if len(steps) < length or not np.array_equal(steps[:length], np.arange(length)):
        raise ReflexError(
            f"{name} has observations at {len(steps)} of its {length} control steps: it is a rollout that rendered "
            "only at decisions, not a demonstration; record it with a frame at every control step (vla collect)"
        )
    embodiment = episode.embodiment
    expected: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "states": (episode.states, (len(steps), embodiment.state.size)),
        "actions": (episode.actions, (length, embodiment.action.size)),
        "rewards": (episode.rewards, (length,)),
        "costs": (episode.costs, (length,)),
        "progress": (episode.progress, (length,)),
    }
    if episode.interventions is not None:
        expected["interventions"] = (episode.interventions, (length,))
    if set(episode.images) != set(embodiment.camera_names):
        raise ReflexError(
            f"{name} has pictures of {', '.join(sorted(episode.images)) or 'no camera'} where its robot has the "
            f"cameras {', '.join(embodiment.camera_names) or 'none'}"
        )
    for camera in embodiment.cameras:
        pictures = (len(steps), camera.height, camera.width, 3)
        expected[f"images of camera {camera.name}"] = (episode.images[camera.name], pictures)
    for field, (array, shape) in expected.items():
        if array.shape != shape:
            raise ReflexError(f"{name} has {field} of shape {array.shape} where the dataset needs {shape}")
        if not np.isfinite(array).all():
            raise ReflexError(f"{name} has a value in {field} that is not finite; find the step that produced it")


def stage_episode(staging: Path, key: str, episode: Episode, pixel_format: PixelFormat) -> None:
    """Write one demonstration under `staging`, whole or not at all.

    `key` names it; merged datasets hold their episodes in the order of the keys.
    Raises `ReflexError` for an episode that is not a demonstration, and when it cannot be written (full disk).
    """
    check_demonstration(episode)
    length = episode.length
    frames = {camera: episode.images[camera][:length] for camera in episode.embodiment.camera_names}
    arrays: dict[str, NDArray[Any]] = {
        "states": episode.states[:length].astype(np.float32),
        "actions": episode.actions.astype(np.float32),
        "rewards": episode.rewards.astype(np.float32),
        "costs": episode.costs.astype(np.float32),
        "progress": episode.progress.astype(np.float32),
        **{f"histogram/{camera}": image_histogram(pictures) for camera, pictures in frames.items()},
    }
    if episode.interventions is not None:
        arrays["interventions"] = episode.interventions.astype(np.bool_)
    record = {**episode.record(), "instruction": episode.instruction, "length": length}
    if episode.instructions is not None:
        record["instructions"] = list(episode.instructions[:length])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)

    def fill(folder: Path) -> None:
        (folder / ARRAYS).write_bytes(buffer.getvalue())
        for camera, pictures in frames.items():
            video = encode_video(pictures, episode.embodiment.control_frequency, pixel_format)
            (folder / f"{camera}.mp4").write_bytes(video)
        (folder / RECORD).write_text(json.dumps(record))

    # Not flushed to the disk: that costs more than recording the episode, and only a power cut could tell. The merge
    # checks every staged episode and flushes the dataset.
    replace_folder(staging / EPISODES / key, fill, flush=False)


def staged_keys(staging: Path) -> list[str]:
    """Keys of the whole episodes in the staging folder, in order."""
    folder = staging / EPISODES
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def read_staged(staging: Path, key: str) -> StagedEpisode:
    """Read one staged episode. Raises `ReflexError` naming the folder when it is damaged."""
    folder = staging / EPISODES / key
    remedy = f"delete {folder} and run again"
    record = read_json_object(folder / RECORD, remedy)
    try:
        with np.load(folder / ARRAYS, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReflexError(f"the recorded episode {folder} is damaged ({error}); {remedy}") from error
    return StagedEpisode(folder, record, arrays)
