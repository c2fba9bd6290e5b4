"""Transitions from LeRobot datasets, with any reward column, and from Minari's format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vla.data.samples import sample_episodes, write_dataset
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.sources import lerobot_transitions, read_transitions
from vla.policies.gaussian.vision import FrozenVision

DATA = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five episodes, the last of which failed, with a second reward: the number of the frame."""
    folder = write_dataset(tmp_path_factory.mktemp("written") / "demos")
    table = pq.read_table(folder / DATA)
    numbers = table["index"].to_numpy().astype(np.float32)
    pq.write_table(table.append_column("next.reward.vlm", pa.array(numbers)), folder / DATA)
    return folder


def test_every_step_of_a_success_and_all_but_the_last_of_a_failure(dataset: Path) -> None:
    data = read_transitions(str(dataset))
    episodes = sample_episodes()
    lengths = [episode.length for episode in episodes[:4]] + [episodes[4].length - 1]
    assert np.bincount(data.episodes).tolist() == lengths
    assert data.terminals.sum() == 4
    start = 0
    for episode, length in zip(episodes, lengths, strict=True):
        rows = slice(start, start + length)
        np.testing.assert_array_equal(data.observations[rows], episode.states[:length])
        np.testing.assert_array_equal(data.actions[rows], episode.actions[:length])
        np.testing.assert_array_equal(data.rewards[rows], episode.rewards[:length])
        following = episode.states[1 : length + 1]
        np.testing.assert_array_equal(data.next_observations[rows][: len(following)], following)
        assert data.terminals[rows][-1] == episode.success
        assert not data.terminals[rows][:-1].any()
        start += length
    assert data.embodiment.cameras == ()


def test_another_reward_column(dataset: Path) -> None:
    data = read_transitions(str(dataset), "next.reward.vlm")
    assert data.rewards.tolist() == list(range(22))  # 23 frames, of which the failure's last is left out
    with pytest.raises(ReflexError, match=r"no column 'next\.reward\.other'"):
        read_transitions(str(dataset), "next.reward.other")


def test_tasks_are_chosen(dataset: Path) -> None:
    data = read_transitions(str(dataset), tasks=[8])
    assert np.unique(data.episodes).tolist() == [1, 3]
    with pytest.raises(ReflexError, match=r"no episode of the tasks \[2\]"):
        read_transitions(str(dataset), tasks=[2])


def test_features_stand_beside_the_states(dataset: Path) -> None:
    opened = LeRobotDataset(dataset, numbers=("next.reward",))
    features = np.arange(23 * 3, dtype=np.float32).reshape(23, 3)
    vision = FrozenVision("pixels", "wrist_image", "made up", 3)
    data, rows = (
        lerobot_transitions(opened, "next.reward", [8], features, vision),
        [7, 8, 9, 10, 12, 13, 14, 15, 16, 17],
    )
    np.testing.assert_array_equal(data.observations[:, 8:], features[rows])
    np.testing.assert_array_equal(data.observations[:, :8], lerobot_transitions(opened, tasks=[8]).observations)
    assert data.next_observations[0, 8:].tolist() == features[8].tolist()
    assert data.embodiment.camera_names == ("wrist_image",)
    with pytest.raises(ReflexError, match="2 features for 23 frames"):
        lerobot_transitions(opened, features=features[:2], vision=vision)
    with pytest.raises(ReflexError, match=r"of \(11, 7\) numbers for a robot that has \(12, 7\)"):
        lerobot_transitions(opened, features=features, vision=replace(vision, size=4))


def write_minari(path: Path, **changes: Any) -> Path:
    """Two episodes of 2 and 1 steps: the first is cut, the second ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number, length in ((0, 2), (10, 1)):
            group = file.create_group(f"episode_{number}")
            values: dict[str, Any] = {
                "observations": np.arange(2 * (length + 1)).reshape(length + 1, 2) + number,
                "actions": np.full((length, 1), 0.5),
                "rewards": np.arange(length) + 1.0,
                "terminations": [False] * (length - 1) + [number == 10],
                "truncations": [False] * (length - 1) + [number == 0],
            }
            for name, value in (values | changes).items():
                group.create_dataset(name, data=value)
    return path


def test_minari_s_format(tmp_path: Path) -> None:
    path = write_minari(tmp_path / "set" / "data" / "main_data.hdf5")
    for place in (path, tmp_path / "set"):
        data = read_transitions(str(place))
        assert data.observations.tolist() == [[0, 1], [2, 3], [10, 11]]
        assert data.next_observations.tolist() == [[2, 3], [4, 5], [12, 13]]
        assert data.rewards.tolist() == [1, 2, 1]
        assert data.terminals.tolist() == [False, False, True]  # a truncation is none
        assert data.episodes.tolist() == [0, 0, 10]
        assert data.embodiment.action.low == (-1.0,)
    with pytest.raises(ReflexError, match="one reward and no tasks"):
        read_transitions(str(path), tasks=[0])


def test_actions_beyond_one_have_no_known_limits(tmp_path: Path) -> None:
    path = write_minari(tmp_path / "set.hdf5", actions=np.array([[7.0], [2.0]])[:1])
    with pytest.raises(ReflexError, match=r"set\.hdf5 cannot be read as a data set of Minari"):
        read_transitions(str(path))  # one action for three observations
    with h5py.File(path, "r+") as file:
        del file["episode_0"]
    assert read_transitions(str(path)).embodiment.action.low == ()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="does not exist"):
        read_transitions(str(tmp_path / "missing.hdf5"))
    (tmp_path / "junk.hdf5").write_bytes(b"junk")
    with pytest.raises(ReflexError, match=r"junk\.hdf5 cannot be read"):
        read_transitions(str(tmp_path / "junk.hdf5"))
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    with pytest.raises(ReflexError, match="holds no episode"):
        read_transitions(str(tmp_path / "empty.hdf5"))
