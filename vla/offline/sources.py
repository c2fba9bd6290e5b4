"""Where transitions come from: LeRobot datasets, with any column as the reward, and files in Minari's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Action, Embodiment, State
from vla.data import lerobot_keys as keys
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError, require_module
from vla.offline.reward_model.rows import features_of, look_at
from vla.offline.transitions import Transitions
from vla.policies.gaussian.vision import FrozenVision
from vla.run.progress_bar import progress_bar

MINARI_FILE = Path("data") / "main_data.hdf5"
"""Where a data set of Minari keeps its steps, below its folder."""


def is_minari(dataset: str) -> bool:
    """Whether a data set is in Minari's format, by its name or its files."""
    path = Path(dataset)
    return path.suffix in (".hdf5", ".h5") or (path / MINARI_FILE).exists()


def read_transitions(
    dataset: str,
    reward: str | None = keys.REWARD,
    tasks: Sequence[int] | None = None,
    encoder: str | None = None,
    camera: str | None = None,
    device: str = "cpu",
) -> Transitions:
    """Transitions of a LeRobot dataset (a folder or a hub id), or of a file or folder in Minari's format.

    Args:
        dataset: a path that ends in .hdf5, a folder that has `MINARI_FILE`, or what `LeRobotDataset` takes.
        reward: the column of a LeRobot dataset that holds the reward, None for rewards of 0; Minari's format has one.
        tasks: task numbers to keep, as `LeRobotDataset.task_id` gives them; None for all.
        encoder: whose frozen features of the pictures stand beside the states (`vla.policies.moment_features`); they
            are computed once and kept beside the dataset. None for states alone, and no picture is decoded.
        camera: whose pictures; None for the first.
        device: where the encoder computes.

    Raises:
        ReflexError: it cannot be read, has no such column or camera, or no transition.
        WorldModelError: the encoder cannot be loaded.
    """
    if is_minari(dataset):
        path = Path(dataset)
        if reward != keys.REWARD or tasks is not None:
            raise ReflexError(f"{dataset} is in Minari's format, which has one reward and no tasks; leave both out")
        if encoder is not None:
            raise ReflexError(f"{dataset} is in Minari's format, which has no pictures; leave encoder={encoder} out")
        return minari_transitions(path if path.suffix else path / MINARI_FILE)
    opened = LeRobotDataset(dataset, numbers=() if reward is None else (reward,))
    if encoder is None:
        return lerobot_transitions(opened, reward, tasks)
    look = look_at(opened, encoder, camera, device)
    vision = FrozenVision.of(encoder, str(look.camera), look.features)
    with progress_bar(f"features of {look.camera}", opened.num_episodes) as show:
        features = features_of(opened, look, lambda done, total: show(done, ""))
    return lerobot_transitions(opened, reward, tasks, features, vision)


def read_instructions(dataset: str) -> dict[int, str]:
    """Of a LeRobot dataset: number of an episode, as transitions have it -> what was asked for in it.

    Raises `ReflexError` as reading does.
    """
    opened = LeRobotDataset(dataset)
    return {index: opened.episode(index, cameras=()).instruction for index in range(opened.num_episodes)}


def lerobot_transitions(
    dataset: LeRobotDataset,
    reward: str | None = keys.REWARD,
    tasks: Sequence[int] | None = None,
    features: NDArray[np.float32] | None = None,
    vision: FrozenVision | None = None,
) -> Transitions:
    """Transitions of a LeRobot dataset's states, with frozen features of its frames beside them or without.

    A dataset has a frame before every action and none after the last. An episode that succeeded ends in a terminal, and
    its last step is kept; of any other the last step is left out, because what came after it is not recorded.

    Args:
        dataset: opened with `numbers=(reward,)`.
        reward: column of the reward, [frames]: the dataset's own, or one that relabelling wrote; None for zeros.
        tasks: task numbers to keep; None for all.
        features: [frames, F] in the order of the dataset's frames; with `vision`, which made them.
        vision: the camera and the encoder of `features`.

    Raises:
        ReflexError: the column is missing, there is no state, or nothing is left.
    """
    if features is not None and len(features) != dataset.num_frames:
        raise ReflexError(f"{len(features)} features for {dataset.num_frames} frames of {dataset.root}")
    if features is None and not dataset.embodiment.state.size:
        raise ReflexError(f"{dataset.root} has no {keys.STATE}; learn from its pictures instead (encoder=pixels)")
    parts: list[dict[str, NDArray[Any]]] = []
    end = 0
    for index in range(dataset.num_episodes):
        start, end = end, end + dataset.length(index)
        if tasks is not None and dataset.task_id(index) not in tasks:
            continue
        episode = dataset.episode(index, cameras=())
        rewards = np.zeros(len(episode.actions), dtype=np.float32)
        if reward is not None:
            values = dataset.numbers(index)
            if reward not in values:
                raise ReflexError(f"{dataset.root} has no column {reward!r}; its columns of one number are listed in "
                                  f"{dataset.info.path}")  # fmt: skip
            rewards = values[reward]
        observations = episode.states
        if features is not None:
            observations = np.concatenate([observations, features[start:end]], axis=1)
        parts.append(episode_steps(observations, episode.actions, rewards, episode.success, index))
    if not parts:
        raise ReflexError(f"{dataset.root} has no episode of the tasks {list(tasks or ())}; choose others")
    cameras = () if vision is None else (dataset.embodiment.camera(vision.camera),)
    return joined(parts, replace(dataset.embodiment, cameras=cameras), vision)


def episode_steps(
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    rewards: NDArray[Any],
    success: bool,
    number: int,
) -> dict[str, NDArray[Any]]:
    """The columns of `Transitions` for one episode, as a dataset has it: T observations and T actions.

    The last step is kept, as a terminal, where the episode succeeded (`lerobot_transitions`).
    """
    count = len(actions) if success else len(actions) - 1
    following = np.concatenate([observations[1:], observations[-1:]])
    terminals = np.zeros(len(actions), dtype=np.bool_)
    terminals[-1] = success
    return {
        "observations": observations[:count].astype(np.float32),
        "actions": actions[:count],
        "rewards": rewards[:count].astype(np.float32),
        "next_observations": following[:count].astype(np.float32),
        "terminals": terminals[:count],
        "episodes": np.full(count, number, dtype=np.int64),
        "frames": np.arange(count),
        "successes": np.full(count, success, dtype=np.bool_),
    }


def minari_transitions(path: Path) -> Transitions:
    """Transitions of a file in Minari's HDF5 format: a group an episode, with T + 1 observations for T actions.

    "terminations" are terminals, "truncations" are not. The robot is named after the file's folder; its action's limits
    are [-1, 1] where all actions are within, and unknown otherwise. Observations must be vectors.

    Raises:
        ReflexError: the file is missing, damaged, or holds other observations than vectors.
    """
    h5py = require_module("h5py", f"reading {path}", "install the extra: pip install 'reflex-vla[offline]'")
    if not path.is_file():
        raise ReflexError(f"{path} does not exist; give a file in Minari's HDF5 format, or a folder with {MINARI_FILE}")
    parts = []
    try:
        with h5py.File(path, "r") as file:
            for name in sorted((key for key in file if key.startswith("episode_")), key=lambda key: int(key[8:])):
                parts.append(_minari_episode(file[name], int(name[8:])))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ReflexError(f"{path} cannot be read as a data set of Minari ({error}); copy it again") from error
    if not parts:
        raise ReflexError(f"{path} holds no episode")
    observed, acted = parts[0]["observations"].shape[1], parts[0]["actions"].shape[1]
    within = all(np.abs(part["actions"]).max() <= 1.0 for part in parts)
    limits = {"low": (-1.0,) * acted, "high": (1.0,) * acted} if within else {}
    action = Action(tuple(f"action_{at}" for at in range(acted)), "unknown", **limits)
    state = State(tuple(f"state_{at}" for at in range(observed)))
    return joined(parts, Embodiment(path.stem, (), state, action, control_frequency=1))


def _minari_episode(group: Any, number: int) -> dict[str, NDArray[Any]]:
    observations = np.asarray(group["observations"], dtype=np.float32)
    actions = np.asarray(group["actions"], dtype=np.float32)
    if observations.ndim != 2 or actions.ndim != 2 or len(observations) != len(actions) + 1:
        raise ValueError(f"episode {number} has observations {observations.shape} and actions {actions.shape}")
    return {
        "observations": observations[:-1],
        "actions": actions,
        "rewards": np.asarray(group["rewards"], dtype=np.float32),
        "next_observations": observations[1:],
        "terminals": np.asarray(group["terminations"], dtype=np.bool_),
        "episodes": np.full(len(actions), number, dtype=np.int64),
        "frames": np.arange(len(actions)),
        "successes": np.zeros(len(actions), dtype=np.bool_),
    }


def joined(
    parts: Sequence[dict[str, NDArray[Any]]], embodiment: Embodiment, vision: FrozenVision | None = None
) -> Transitions:
    """Transitions of the steps of several episodes. Raises `ReflexError` as they do for what is not finite."""
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    spans = np.ones(len(columns["episodes"]), dtype=np.int64)
    return Transitions(embodiment=embodiment, spans=spans, vision=vision, **columns)
