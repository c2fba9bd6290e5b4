from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sim.embodiments import Camera
from tests.vla.data.samples import ROBOT, SIZE, as_rollout, make_episode, sample_episodes, write_dataset
from tests.vla.run.file_calls import FileCalls, Killed
from vla.data import lerobot_keys as keys
from vla.data.episode import Episode
from vla.data.lerobot_reader import LeRobotDataset
from vla.data.lerobot_writer import LeRobotWriter, check_same_settings
from vla.data.staging import read_staged, stage_episode, staged_keys
from vla.data.statistics import STATISTIC_NAMES
from vla.data.video import encode_video
from vla.errors import ReflexError

VECTORS = {"observation.state": 8, "action": 7}
IMAGES = ("observation.images.image", "observation.images.image2")


def same_files(one: Path, two: Path) -> bool:
    """Whether two folders hold the same names with the same bytes."""

    def content(folder: Path) -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return content(one) == content(two)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def test_files_and_info(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "demos")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/reflex_embodiment.json",
        "meta/reflex_episodes.parquet",
        "meta/stats.json",
        "meta/tasks.parquet",
        *(f"videos/{camera}/chunk-000/file-00{index}.mp4" for camera in IMAGES for index in range(5)),
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
    # What others' tools and earlier versions of ours know these datasets by.
    assert info["robot_type"] == "panda" and type(info["fps"]) is int
    assert list(info["features"])[:4] == [*IMAGES, "observation.state", "action"]
    assert info["features"]["action"]["names"][5:] == ["axis_angle_z", "gripper"]
    assert type(info["features"][IMAGES[0]]["info"]["video.fps"]) is int
    assert json.loads((folder / "meta/reflex_embodiment.json").read_text())["action"]["kind"] == "end_effector_delta"
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
    for camera in IMAGES:
        places = [[row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")] for row in rows]
        assert places == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4]]
        assert [row[f"videos/{camera}/from_timestamp"] for row in rows] == [0.0] * 5
        ends = [row[f"videos/{camera}/to_timestamp"] for row in rows]
        assert ends == pytest.approx([7 / 20, 4 / 20, 1 / 20, 6 / 20, 5 / 20])
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
    pixels = np.concatenate([episode.images["image"] for episode in episodes]) / 255
    assert np.squeeze(stats[IMAGES[0]]["mean"]) == pytest.approx(pixels.mean(axis=(0, 1, 2)))


def test_size_limits_begin_new_files_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LeRobotDataset(write_dataset(tmp_path / "plain"))
    monkeypatch.setattr(keys, "CHUNKS_SIZE", 2)
    monkeypatch.setattr(keys, "DATA_FILE_MEGABYTES", 0.001)
    folder = write_dataset(tmp_path / "demos")
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["chunks_size"], info["data_files_size_in_mb"]) == (2, 0.001)
    split = LeRobotDataset(folder)
    for kind, suffix in (("data", "parquet"), ("meta/episodes", "parquet"), ("videos/" + IMAGES[0], "mp4")):
        names = [str(path.relative_to(folder / kind)) for path in sorted((folder / kind).rglob("*." + suffix))]
        assert names == [f"chunk-{n // 2:03d}/file-{n % 2:03d}.{suffix}" for n in range(len(names))], kind
        assert len(names) >= 3, kind
    rows = [row for path in sorted((folder / "meta/episodes").rglob("*")) if path.is_file() for row in read_rows(path)]
    for row in rows:
        for camera in IMAGES:
            number = 2 * row[f"videos/{camera}/chunk_index"] + row[f"videos/{camera}/file_index"]
            assert number == row["episode_index"]
        place = f"chunk-{row['meta/episodes/chunk_index']:03d}/file-{row['meta/episodes/file_index']:03d}.parquet"
        assert row["episode_index"] in [other["episode_index"] for other in read_rows(folder / "meta/episodes" / place)]
    for index in range(5):
        one, other = split.episode(index), plain.episode(index)
        assert np.array_equal(one.images["image"], other.images["image"])
        assert np.array_equal(one.actions, other.actions)


def test_the_same_episodes_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_dataset(tmp_path / "one"), write_dataset(tmp_path / "two")
    assert same_files(one, two)


def test_a_rollout_is_refused(tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
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
        (
            {"images": dict.fromkeys(("image", "wrist_image"), np.zeros((7, 64, 64, 3), dtype=np.uint8))},
            r"images of camera image of shape \(7, 64, 64, 3\)",
        ),
        ({"images": {"image": np.zeros((7, 32, 32, 3), dtype=np.uint8)}}, "pictures of image where its robot has"),
        ({"embodiment": ROBOT.with_image_size(64)}, r"image 64x64.* cannot go into a dataset of panda: image 32x32"),
        ({"actions": np.full((7, 7), np.nan, dtype=np.float32)}, "actions that is not finite"),
        ({"actions": np.zeros((0, 7), dtype=np.float32)}, "has no actions"),
    ],
)
def test_bad_episodes_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    writer = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    with pytest.raises(ReflexError, match=message):
        writer.add_episode(replace(make_episode(0), **change))
    assert writer.num_episodes == 0


def test_an_interrupted_recording_continues(tmp_path: Path) -> None:
    episodes = sample_episodes()
    writer = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    for episode in episodes[:2]:
        writer.add_episode(episode)
    writer.close()
    assert not (tmp_path / "demos").exists()
    with pytest.raises(ReflexError, match="interrupted recording; resume it"):
        LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    with pytest.raises(ReflexError, match=r"embodiment='panda: image 32x32.* now embodiment='panda: image 64x64"):
        LeRobotWriter(tmp_path / "demos", "point", ROBOT.with_image_size(64), resume=True)
    resumed = LeRobotWriter(tmp_path / "demos", "point", ROBOT, resume=True)
    assert resumed.num_episodes == 2
    for episode in episodes[2:]:
        resumed.add_episode(episode)
    resumed.finalize()
    whole = write_dataset(tmp_path / "whole")
    assert same_files(tmp_path / "demos", whole)


def test_requests_that_cannot_be_served(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "demos")
    with pytest.raises(ReflexError, match=r"demos already exists"):
        LeRobotWriter(folder, "point", ROBOT)
    with pytest.raises(ReflexError, match=r"33x33 pixels \(camera image\) .* 34x34 would be right"):
        LeRobotWriter(tmp_path / "odd", "point", ROBOT.with_image_size(33))
    with pytest.raises(ReflexError, match=r"12x64 pixels \(camera left\) .* 16x64 would be right"):
        LeRobotWriter(tmp_path / "odd", "point", replace(ROBOT, cameras=(Camera("left", 12, 64),)))
    with pytest.raises(
        ReflexError, match=r"camera '\.\./left' cannot be written: its name becomes a file's; rename it"
    ):
        LeRobotWriter(tmp_path / "odd", "point", replace(ROBOT, cameras=(Camera("../left", 32, 32),)))
    writer = LeRobotWriter(tmp_path / "empty", "point", ROBOT)
    with pytest.raises(ReflexError, match="no episode was recorded"):
        writer.finalize()
    with pytest.raises(ReflexError, match="another process is recording"):
        LeRobotWriter(tmp_path / "empty", "point", ROBOT, resume=True)


def test_the_statistics_are_those_of_all_episodes_and_of_each_camera(tmp_path: Path) -> None:
    def plain(seed: int, picture: list[int], wrist: list[int]) -> Episode:
        episode = make_episode(seed, length=2 + seed)
        frames = {name: np.empty_like(pictures) for name, pictures in episode.images.items()}
        frames["image"][:], frames["wrist_image"][:] = picture, wrist
        return replace(episode, images=frames)

    episodes = [plain(0, [0, 51, 102], [255, 204, 153]), plain(1, [51, 102, 102], [204, 255, 0])]
    folder = write_dataset(tmp_path / "demos", episodes)
    stats = LeRobotDataset(folder).stats
    rows = read_rows(folder / "meta/episodes/chunk-000/file-000.parquet")
    expected = {  # levels are fifths; 2 frames of the first episode, 3 of the second
        IMAGES[0]: {"min": [0, 0.2, 0.4], "max": [0.2, 0.4, 0.4], "mean": [0.12, 0.32, 0.4], "q50": [0.2, 0.4, 0.4]},
        IMAGES[1]: {"min": [0.8, 0.8, 0], "max": [1, 1, 0.6], "mean": [0.88, 0.92, 0.24], "q10": [0.8, 0.8, 0]},
    }
    for camera, values in expected.items():
        for name, value in values.items():
            assert stats[camera][name][:, 0, 0] == pytest.approx(value), (camera, name)
        assert stats[camera]["count"] == [5]
        assert rows[1][f"stats/{camera}/count"] == [3]
    spread = 0.2 * np.sqrt(0.4 * 0.6)
    assert stats[IMAGES[0]]["std"][:, 0, 0] == pytest.approx([spread, spread, 0], abs=1e-7)
    assert np.ravel(rows[0][f"stats/{IMAGES[0]}/max"]) == pytest.approx([0, 0.2, 0.4])
    assert np.ravel(rows[1][f"stats/{IMAGES[1]}/min"]) == pytest.approx([0.8, 1, 0])
    for name, key in (("rewards", "next.reward"), ("costs", "next.cost"), ("progress", "next.progress")):
        values = np.concatenate([getattr(episode, name) for episode in episodes])
        assert stats[key]["max"] == pytest.approx(values.max())
        assert stats[key]["std"] == pytest.approx(values.std(), rel=1e-5)


def test_every_file_is_on_the_disk_before_the_dataset_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    for episode in sample_episodes():
        writer.add_episode(episode)
    layer = FileCalls(monkeypatch, tmp_path)
    writer.finalize({"suite": "point"})
    merged = layer.at("replace", "demos.partial/.writing-dataset", "demos.partial/dataset")
    named = layer.at("rename", "demos.partial/dataset", "demos")
    assert merged < named < layer.at("rmtree", "demos.partial")
    assert ("fsync", ".") in layer.calls[named:]
    flushed = {path for name, path, *_ in layer.calls[:merged] if name == "fsync"}
    files = [path.relative_to(tmp_path / "demos") for path in (tmp_path / "demos").rglob("*")]
    assert len(files) > 20
    assert flushed >= {f"demos.partial/.writing-dataset/{path}" for path in files}


def test_a_kill_while_merging_leaves_the_recording(tmp_path: Path) -> None:
    def record(name: str) -> LeRobotWriter:
        writer = LeRobotWriter(tmp_path / name, "point", ROBOT)
        for episode in sample_episodes()[:2]:
            writer.add_episode(episode)
        return writer

    writer = record("whole")
    with pytest.MonkeyPatch.context() as patch:
        layer = FileCalls(patch, tmp_path)
        whole = writer.finalize()
        merged = layer.at("replace", "whole.partial/.writing-dataset", "whole.partial/dataset")
        named = layer.at("rename", "whole.partial/dataset", "whole")
    for kill_at in (0, merged, named - 1, named):
        writer = record(f"demos-{kill_at}")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            FileCalls(patch, tmp_path, kill_at)
            writer.finalize()
        writer.close()
        assert not writer.folder.exists()
        resumed = LeRobotWriter(writer.folder, "point", ROBOT, resume=True)
        assert resumed.num_episodes == 2
        assert same_files(resumed.finalize(), whole)


def test_an_episode_staged_again_replaces_the_first(tmp_path: Path) -> None:
    for seed in (0, 1):
        stage_episode(tmp_path, "task-0", make_episode(seed), "yuv420p")
    assert staged_keys(tmp_path) == ["task-0"]
    assert read_staged(tmp_path, "task-0").record["seed"] == 101


def break_video(folder: Path) -> None:
    (folder / "image.mp4").write_bytes(encode_video(make_episode(0, 4).images["image"], fps=20))


def tear_video(folder: Path) -> None:
    (folder / "wrist_image.mp4").write_bytes((folder / "wrist_image.mp4").read_bytes()[:300])


def pickled_arrays(folder: Path) -> None:
    (folder / "arrays.npz").write_bytes(pickle.dumps(Trap(folder)))


def pickled_array(folder: Path) -> None:
    np.savez(folder / "arrays.npz", actions=np.array([Trap(folder)], dtype=object))


def torn_arrays(folder: Path) -> None:
    (folder / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes()[:-40])


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "unpickled"

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_video, r"episode-000000/image\.mp4 holds 4 frames where 7 were recorded; delete .* and run again"),
        (tear_video, r"episode-000000/wrist_image\.mp4"),
        (pickled_arrays, r"recorded episode .*episode-000000 is damaged .*allow_pickle"),
        (pickled_array, r"recorded episode .*episode-000000 is damaged .*allow_pickle"),
        (torn_arrays, r"recorded episode .*episode-000000 is damaged"),
        (lambda folder: (folder / "record.json").unlink(), r"record\.json is missing; delete .*episode-000000 and run"),
        (
            lambda folder: (folder / "record.json").write_text("{"),
            r"record\.json is not valid JSON .*; delete .* and run",
        ),
    ],
)
def test_a_damaged_recording_is_one_clear_error(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    writer = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    for episode in sample_episodes()[:2]:
        writer.add_episode(episode)
    staged = writer.staging / "episodes" / "episode-000000"
    damage(staged)
    with pytest.raises(ReflexError, match=message):
        writer.finalize()
    assert not (staged / "unpickled").exists()
    assert not (tmp_path / "demos").exists()
    shutil.rmtree(staged)
    assert LeRobotDataset(writer.finalize()).num_frames == 4


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    check_same_settings(tmp_path / "a.json", {"seed": 0, "tasks": [1]})
    check_same_settings(tmp_path / "a.json", {"seed": 0, "tasks": [1]})
    with pytest.raises(ReflexError, match=r"interrupted recording with tasks=\[1\], now tasks=\[2\]"):
        check_same_settings(tmp_path / "a.json", {"seed": 0, "tasks": [2]})
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ReflexError, match=r"a\.json is not valid JSON .*; delete .* and record again"):
        check_same_settings(tmp_path / "a.json", {"seed": 0})


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.vla.data.samples import ROBOT, make_episode
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError

writer = LeRobotWriter(Path(sys.argv[1]), "point", ROBOT)
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
    resumed = LeRobotWriter(folder, "point", ROBOT, resume=True)
    assert LeRobotDataset(resumed.finalize()).num_frames == 20


def test_a_colour_format_that_videos_do_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="pixel_format='rgb' must be one of yuv420p, yuv444p"):
        LeRobotWriter(tmp_path / "new", "tabletop", ROBOT, pixel_format="rgb")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
