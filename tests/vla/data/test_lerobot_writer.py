from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.vla.data.samples import SIZE, as_rollout, make_episode, sample_episodes, write_dataset
from vla.data.lerobot_merge import FileLimits
from vla.data.lerobot_reader import LeRobotDataset
from vla.data.lerobot_writer import LeRobotWriter
from vla.data.statistics import STATISTIC_NAMES
from vla.errors import ReflexError

VECTORS = {"observation.state": 8, "action": 7}
IMAGES = ("observation.images.image", "observation.images.image2")


def test_files_and_info(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "demos")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/reflex_episodes.parquet",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.image/chunk-000/file-000.mp4",
        "videos/observation.images.image2/chunk-000/file-000.mp4",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]  # no staging folder is left
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (5, 23, 2, 20)
    assert (info["chunks_size"], info["data_files_size_in_mb"], info["video_files_size_in_mb"]) == (1000, 100, 200)
    assert info["splits"] == {"train": "0:5"}
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    assert info["features"]["action"]["shape"] == [7]
    assert info["features"]["observation.images.image2"]["shape"] == [SIZE, SIZE, 3]


def test_columns_of_the_data_file(tmp_path: Path) -> None:
    table = pq.read_table(write_dataset(tmp_path / "demos") / "data/chunk-000/file-000.parquet")
    assert table.num_rows == 23
    assert table["episode_index"].to_pylist() == [0] * 7 + [1] * 4 + [2] + [3] * 6 + [4] * 5
    assert table["frame_index"].to_pylist()[:8] == [0, 1, 2, 3, 4, 5, 6, 0]
    assert table["index"].to_pylist() == list(range(23))
    assert table["task_index"].to_pylist() == [0] * 7 + [1] * 4 + [0] + [1] * 6 + [0] * 5
    assert table["timestamp"].to_pylist()[:3] == pytest.approx([0.0, 0.05, 0.1])
    ends = [6, 10, 11, 17, 22]
    assert np.flatnonzero(table["next.done"].to_pylist()).tolist() == ends
    assert np.flatnonzero(table["next.success"].to_pylist()).tolist() == ends[:4]
    assert np.flatnonzero(table["next.truncated"].to_pylist()).tolist() == ends[4:]


def test_episode_rows_and_statistics(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "demos")
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows[:3]] == [(0, 7), (7, 11), (11, 12)]
    assert rows[1]["tasks"] == ["fill gauge 8"]
    assert rows[1]["videos/observation.images.image/from_timestamp"] == pytest.approx(7 / 20)
    assert rows[1]["videos/observation.images.image/to_timestamp"] == pytest.approx(11 / 20)
    episodes = sample_episodes()
    assert rows[3]["stats/action/mean"] == pytest.approx(episodes[3].actions.mean(axis=0), rel=1e-6)
    stats = json.loads((folder / "meta/stats.json").read_text())
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    assert set(stats) == set(features)
    for name, feature in stats.items():
        assert set(feature) == set(STATISTIC_NAMES)
        shape = (3, 1, 1) if name in IMAGES else (VECTORS.get(name, 1),)
        assert all(np.shape(value) == shape for key, value in feature.items() if key != "count"), name
        assert all(f"stats/{name}/{key}" in rows[0] for key in STATISTIC_NAMES)
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    assert stats["action"]["q01"] == pytest.approx(np.quantile(actions, 0.01, axis=0))
    assert stats["action"]["count"] == [23]
    pixels = np.concatenate([episode.images for episode in episodes]) / 255
    assert np.squeeze(stats[IMAGES[0]]["mean"]) == pytest.approx(pixels.mean(axis=(0, 1, 2)))


def test_size_limits_begin_new_files_and_chunks(tmp_path: Path) -> None:
    tiny = FileLimits(chunks_size=2, data_megabytes=0.001, video_megabytes=0.001)
    folder = write_dataset(tmp_path / "demos", limits=tiny)
    plain = LeRobotDataset(write_dataset(tmp_path / "plain"))
    split = LeRobotDataset(folder)
    for kind, suffix in (("data", "parquet"), ("meta/episodes", "parquet"), ("videos/" + IMAGES[0], "mp4")):
        names = [str(path.relative_to(folder / kind)) for path in sorted((folder / kind).rglob("*." + suffix))]
        assert names[:3] == [f"chunk-{n // 2:03d}/file-{n % 2:03d}.{suffix}" for n in range(3)], kind
    for index in range(5):
        one, other = split.episode(index), plain.episode(index)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.actions, other.actions)


def test_the_same_episodes_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_dataset(tmp_path / "one"), write_dataset(tmp_path / "two")
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path.name


def test_a_rollout_is_refused(tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path / "demos", "point", SIZE)
    with pytest.raises(ReflexError, match="rendered only at decisions, not a demonstration"):
        writer.add_episode(as_rollout(make_episode(0)))
    assert writer.num_episodes == 0


def test_a_final_observation_is_left_out(tmp_path: Path) -> None:
    whole = make_episode(0, 8)
    episode = replace(  # eight observations for seven actions
        whole, actions=whole.actions[:7], rewards=whole.rewards[:7], costs=whole.costs[:7], progress=whole.progress[:7]
    )
    read = LeRobotDataset(write_dataset(tmp_path / "demos", [episode])).episode(0)
    assert read.observation_steps.tolist() == list(range(7))
    assert np.array_equal(read.states, whole.states[:7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "libero_goal"}, "'libero_goal' cannot go into a dataset of suite 'point'"),
        ({"states": np.zeros((7, 9), dtype=np.float32)}, r"states of shape \(7, 9\)"),
        ({"images": np.zeros((7, 64, 64, 3), dtype=np.uint8)}, r"images of shape \(7, 64, 64, 3\)"),
        ({"actions": np.full((7, 7), np.nan, dtype=np.float32)}, "actions that is not finite"),
        ({"actions": np.zeros((0, 7), dtype=np.float32)}, "has no actions"),
    ],
)
def test_bad_episodes_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    writer = LeRobotWriter(tmp_path / "demos", "point", SIZE)
    with pytest.raises(ReflexError, match=message):
        writer.add_episode(replace(make_episode(0), **change))
    assert writer.num_episodes == 0


def test_an_interrupted_recording_continues(tmp_path: Path) -> None:
    episodes = sample_episodes()
    writer = LeRobotWriter(tmp_path / "demos", "point", SIZE)
    for episode in episodes[:2]:
        writer.add_episode(episode)
    writer.close()
    assert not (tmp_path / "demos").exists()
    with pytest.raises(ReflexError, match="interrupted recording; resume it"):
        LeRobotWriter(tmp_path / "demos", "point", SIZE)
    with pytest.raises(ReflexError, match=r"image_size=32, now image_size=64"):
        LeRobotWriter(tmp_path / "demos", "point", 64, resume=True)
    resumed = LeRobotWriter(tmp_path / "demos", "point", SIZE, resume=True)
    assert resumed.num_episodes == 2
    for episode in episodes[2:]:
        resumed.add_episode(episode)
    resumed.finalize()
    whole = write_dataset(tmp_path / "whole")
    for path in whole.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "demos" / path.relative_to(whole)).read_bytes(), path.name


def test_requests_that_cannot_be_served(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "demos")
    with pytest.raises(ReflexError, match=r"demos already exists"):
        LeRobotWriter(folder, "point", SIZE)
    with pytest.raises(ReflexError, match="image_size=33"):
        LeRobotWriter(tmp_path / "odd", "point", 33)
    writer = LeRobotWriter(tmp_path / "empty", "point", SIZE)
    with pytest.raises(ReflexError, match="no episode was recorded"):
        writer.finalize()
    with pytest.raises(ReflexError, match="another process is recording"):
        LeRobotWriter(tmp_path / "empty", "point", SIZE, resume=True)


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.vla.data.samples import SIZE, make_episode
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError

writer = LeRobotWriter(Path(sys.argv[1]), "point", SIZE)
writer.add_episode(make_episode(0, 20))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))  # writes beyond fail
try:
    if sys.argv[3] == "add":
        writer.add_episode(make_episode(1, 20))
    else:
        writer.finalize()
except ReflexError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("when", ["add", "finalize"])
def test_no_room_on_the_disk(tmp_path: Path, when: str) -> None:
    folder = tmp_path / "demos"
    command = [sys.executable, "-c", FULL_DISK, str(folder), "2048", when]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert run.returncode == 2, run.stderr
    assert "cannot write" in run.stdout
    assert str(folder) in run.stdout
    assert not folder.exists()
    staging = folder.with_name("demos.partial")
    assert [path.name for path in (staging / "episodes").iterdir()] == ["episode-000000"]
    assert not (staging / "dataset").exists()
    resumed = LeRobotWriter(folder, "point", SIZE, resume=True)
    assert LeRobotDataset(resumed.finalize()).num_frames == 20
