"""Reads LeRobotDataset v3.0 folders and hub datasets back into episodes, one episode at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from sim.embodiments import Camera, Embodiment
from vla.data import lerobot_files as files
from vla.data import lerobot_keys as keys
from vla.data.embodiment import CameraFeature, DatasetFeatures, find_features, infer_embodiment, read_embodiment
from vla.data.episode import Episode
from vla.data.lerobot_pictures import read_pictures
from vla.data.lerobot_rows import Columns, FrameRows
from vla.data.statistics import QUANTILES, Statistics, vector_statistics
from vla.data.video import decode_video
from vla.errors import ReflexError

UNKNOWN = -1
"""Seed and initial state of an episode whose dataset does not record them."""


NORMALISATION = ("mean", "std", "q01", "q99")
"""Statistics that a policy's normalisation may need."""


class LeRobotDataset:
    """A LeRobotDataset v3.0 of any robot: any cameras, any length of state and action, any rate.

    Reads what this project writes, what LeRobot writes, and what others call LeRobot datasets of version 3: mp4 of any
    codec that PyAV decodes, or pictures in the data files or beside them.

    Args:
        path_or_hub_id: a local folder, or a Hugging Face dataset id.
        numbers: columns of one number that `numbers` gives, where the dataset has them.
        must_be_finite: refuse numbers that are not finite; False hands them out, to whoever looks for them.

    Raises:
        ReflexError: something is missing, damaged or of another shape; the message names the file.
    """

    def __init__(self, path_or_hub_id: str | Path, *, numbers: Sequence[str] = (), must_be_finite: bool = True) -> None:
        self.root = files.resolve_dataset(path_or_hub_id)
        self.info = files.read_info(self.root)
        self.features: DatasetFeatures = find_features(self.info.features, self.info.path)
        """Which of its features are cameras, state and action."""
        inferred = infer_embodiment(self.info.features, self.info.path, self.info.robot_type, self.info.fps)
        self.embodiment: Embodiment = read_embodiment(self.root, inferred)
        """The robot, with the cameras and picture sizes of the dataset."""
        self.tasks = files.read_tasks(self.root)
        self._table = files.read_episode_table(self.root)
        self._numbers: list[int] = self._table["episode_index"].to_pylist()
        self._check_totals()
        vectors = {self.features.action: self.embodiment.action.size}
        if self.features.state is not None:
            vectors[self.features.state] = self.embodiment.state.size
        self._rows = FrameRows(self.root, self.info.data_path, vectors, numbers, must_be_finite)
        self._wanted = tuple(numbers)
        self._provenance = self._read_provenance()

    @property
    def says_success(self) -> bool:
        """Whether it records which episodes succeeded; otherwise all are taken for successes."""
        return keys.SUCCESS in self.info.features or bool(self._provenance)

    @property
    def num_episodes(self) -> int:
        """Episodes in the dataset."""
        return len(self._numbers)

    @property
    def episode_numbers(self) -> tuple[int, ...]:
        """Each episode's own `episode_index`, in the order in which `episode` counts them."""
        return tuple(self._numbers)

    @property
    def data_files(self) -> list[Path]:
        """The parquet files with its rows."""
        return sorted((self.root / Path(self.info.data_path).parts[0]).rglob("*.parquet"))

    @property
    def num_frames(self) -> int:
        """Control steps in the dataset, over all episodes."""
        return self.info.num_frames

    @property
    def fps(self) -> float:
        """Control steps per second."""
        return self.info.fps

    @cached_property
    def stats(self) -> dict[str, Statistics]:
        """Feature -> statistic -> array, as in `meta/stats.json`; state and action always have their quantiles.

        Datasets converted from older formats come without quantiles; those are computed here from the data.
        """
        statistics = files.read_statistics(self.root)
        for name in filter(None, (self.features.state, self.features.action)):
            if not set(QUANTILES) <= set(statistics.get(name, {})):
                statistics[name] = vector_statistics(self._rows.column(name))
        return statistics

    def normalisation(self, episodes: Sequence[Episode]) -> dict[str, Statistics]:
        """Statistics of "state" and "action" for a policy trained on these episodes, each [D]: mean, std, q01, q99, ...

        Those of `meta/stats.json` where the episodes are the whole dataset and it has all of them, else exact ones of
        the episodes. (LeRobot's own quantiles are means of each episode's, which other policies are trained with too.)
        """
        whole = len(episodes) == self.num_episodes and sum(episode.length for episode in episodes) == self.num_frames
        stored = files.read_statistics(self.root) if whole else {}
        found: dict[str, Statistics] = {}
        for name, key in (("state", self.features.state), ("action", self.features.action)):
            values = np.concatenate([episode.states if name == "state" else episode.actions for episode in episodes])
            given = stored.get(key or "", {})
            complete = all(part in given and given[part].shape == values.shape[1:] for part in NORMALISATION)
            found[name] = given if complete else vector_statistics(values)
        return found

    def length(self, index: int) -> int:
        """Control steps of an episode. Raises `IndexError` out of range."""
        return int(self._row(index)["length"])

    def numbers(self, index: int) -> Columns:
        """Of one episode the columns of one number that were asked for, float32 [T], without those that are missing.

        Raises `ReflexError` and `IndexError` as `episode` does.
        """
        _, columns = self._rows.episode(self._row(index))
        return {name: columns[name] for name in self._wanted if name in columns}

    def task_id(self, index: int) -> int:
        """The suite's task number where the dataset records it, else the dataset's own task index."""
        row = self._row(index)
        known = self._provenance.get(int(row["episode_index"]))
        if known:
            return int(known["task_id"])
        named = row.get("tasks") or []
        if len(named) == 1 and named[0] in self.tasks:
            return self.tasks.index(named[0])
        # The episode table lists several in no order, or none: the frames know.
        first = self._rows.first_tasks.get(int(row["episode_index"]))
        if first is None or not 0 <= first < len(self.tasks):
            raise ReflexError(f"{self.root} does not say the task of episode {index}; restore its files")
        return first

    def episode(
        self,
        index: int,
        image_size: int | None = None,
        cameras: Iterable[str | Camera] | None = None,
        out: dict[str, NDArray[np.uint8]] | None = None,
    ) -> Episode:
        """Read one episode with every frame decoded (T frames and states for T actions).

        `index` counts the episodes that are there, from 0, whatever their own numbers. `cameras` and `image_size` say
        which pictures are read and how small, as `chosen` does. `out`, if given, holds an array [T, h, w, 3] for each
        of them that is filled instead of a new one.

        Raises `ReflexError` when a file it needs is damaged or disagrees with the metadata, `IndexError` out of range.
        """
        row = self._row(index)
        paths, columns = self._rows.episode(row)
        embodiment = self.chosen(cameras, image_size)
        length = len(columns[self.features.action])
        images = {camera.name: _pictures_for(camera, length, out) for camera in embodiment.cameras}
        for name, pictures in images.items():
            self._fill(self.features.cameras[name], row, paths, pictures)
        return self._episode(row, paths[0], columns, embodiment, images)

    def chosen(self, cameras: Iterable[str | Camera] | None = None, image_size: int | None = None) -> Embodiment:
        """The embodiment with only those cameras (None: all), in their order, at the sizes that pictures are read in.

        A `Camera` says which size, else squares of `image_size` pixels, else as they are; never larger than they are.
        Raises `ReflexError` naming the known cameras for another.
        """
        chosen = []
        for wanted in self.embodiment.camera_names if cameras is None else cameras:
            name = wanted if isinstance(wanted, str) else wanted.name
            if name not in self.embodiment.camera_names:
                known = ", ".join(self.embodiment.camera_names) or "none"
                raise ReflexError(f"{self.root} has no camera {name!r}; its cameras are: {known}")
            here = self.embodiment.camera(name)
            if isinstance(wanted, Camera):
                target = wanted
            else:
                target = Camera(name, image_size or here.height, image_size or here.width)
            smaller = target.height <= here.height and target.width <= here.width
            chosen.append(target if smaller else here)
        return dataclasses.replace(self.embodiment, cameras=tuple(dict.fromkeys(chosen)))

    def _episode(
        self,
        row: dict[str, Any],
        path: Path,
        columns: Columns,
        embodiment: Embodiment,
        images: dict[str, NDArray[np.uint8]],
    ) -> Episode:
        actions = columns[self.features.action]
        length, number = len(actions), int(row["episode_index"])
        instructions = self._instructions(columns[keys.TASK_INDEX], path, number)
        known = self._provenance.get(number, {})
        success = self._success(columns, known)
        default_reward = np.zeros(length, dtype=np.float32)
        default_reward[-1] = float(success)
        zeros = np.zeros(length, dtype=np.float32)
        states = columns[self.features.state] if self.features.state else np.zeros((length, 0), np.float32)
        return Episode(
            suite=str(known.get("suite", self.root.name)),
            embodiment=embodiment,
            task_id=int(known.get("task_id", columns[keys.TASK_INDEX][0])),
            instruction=instructions[0],
            split=str(known.get("split", "train")),
            init_state_id=int(known.get("init_state_id", UNKNOWN)),
            seed=int(known.get("seed", UNKNOWN)),
            policy_id=str(known.get("policy_id", "demonstration")),
            success=success,
            actions=actions,
            observation_steps=np.arange(length, dtype=np.int64),
            images=images,
            states=states,
            rewards=columns.get(keys.REWARD, default_reward),
            costs=columns.get(keys.COST, zeros),
            progress=columns.get(keys.PROGRESS, zeros.copy()),
            interventions=_interventions(columns),
            instructions=tuple(instructions) if len(instructions) > 1 else None,
        )

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index} of {self.root}, which has episodes 0 to {self.num_episodes - 1}")
        row: dict[str, Any] = self._table.slice(index, 1).to_pylist()[0]
        return row

    def _instructions(self, task_index: NDArray[np.int64], path: Path, number: int) -> list[str]:
        """The instruction of each frame; a single one where it does not change."""
        wrong = task_index[(task_index < 0) | (task_index >= len(self.tasks))]
        if len(wrong):
            raise ReflexError(f"{path} has task_index {wrong[0]} in episode {number}; meta/tasks.parquet does not")
        if (task_index == task_index[0]).all():
            return [self.tasks[task_index[0]]]
        return [self.tasks[task] for task in task_index]

    def _fill(
        self, camera: CameraFeature, row: dict[str, Any], paths: Sequence[Path], pictures: NDArray[np.uint8]
    ) -> None:
        """Decode one camera's frames of an episode into `pictures` [T, h, w, 3]."""
        number, size = int(row["episode_index"]), (camera.height, camera.width)
        if camera.dtype == "image":
            read_pictures(self.root, paths, camera.key, number, size, pictures)
            return
        prefix = f"videos/{camera.key}/"
        video = (self.info.video_path or "").format(
            video_key=camera.key, chunk_index=row[prefix + "chunk_index"], file_index=row[prefix + "file_index"]
        )
        checksum = self._provenance.get(number, {}).get(f"checksum/{camera.key}")
        start = float(row[prefix + "from_timestamp"])
        decode_video(self.root / video, start, len(pictures), self.fps, size, checksum, pictures)

    @staticmethod
    def _success(columns: Columns, known: dict[str, Any]) -> bool:
        """Recorded success; a dataset that records none holds demonstrations, which succeed."""
        if "success" in known:
            return bool(known["success"])
        if keys.SUCCESS in columns:
            return bool(columns[keys.SUCCESS].any())
        return True

    def _read_provenance(self) -> dict[int, dict[str, Any]]:
        """Provenance by episode; LeRobot's tools drop or outdate the file, so rows that do not match are ignored."""
        path = self.root / keys.PROVENANCE_PATH
        if not path.exists() or "tasks" not in self._table.column_names:
            return {}
        known = {int(line["episode_index"]): line for line in files.read_parquet(path).to_pylist()}
        columns = (self._table[name].to_pylist() for name in ("episode_index", "length", "tasks"))
        return {
            number: known[number]
            for number, length, tasks in zip(*columns, strict=True)
            if number in known and known[number]["length"] == length and known[number]["instruction"] in tasks[:1]
        }

    def _check_totals(self) -> None:
        folder = self.root / keys.EPISODES_FOLDER
        needed = ["length"]
        for camera in self.features.cameras.values():
            if camera.dtype == "video":
                if not self.info.video_path:
                    raise ReflexError(
                        f"{self.info.path} has a video feature {camera.key} but no video_path; restore this file"
                    )
                needed += [f"videos/{camera.key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        for name in needed:
            column = self._table[name] if name in self._table.column_names else None
            if column is None or column.null_count:
                number = 0 if column is None else pc.index(pc.is_null(column), True).as_py()
                raise ReflexError(f"{folder} has no {name!r} for episode {number}; restore these files")
        frames = int(pc.sum(self._table["length"]).as_py() or 0)
        if (self.num_episodes, frames) != (self.info.num_episodes, self.info.num_frames):
            raise ReflexError(
                f"{folder} lists {self.num_episodes} episodes with {frames} frames where {self.info.path} says "
                f"{self.info.num_episodes} with {self.info.num_frames}; the copy is not complete: fetch it again"
            )


def _interventions(columns: Columns) -> NDArray[np.bool_] | None:
    """Which actions a person made; None where the dataset does not say."""
    known = next((name for name in keys.INTERVENTION_KEYS if name in columns), None)
    return None if known is None else np.asarray(columns[known]) > 0


def _pictures_for(camera: Camera, length: int, out: dict[str, NDArray[np.uint8]] | None) -> NDArray[np.uint8]:
    if out is not None:
        return out[camera.name]
    return np.empty((length, camera.height, camera.width, 3), dtype=np.uint8)
