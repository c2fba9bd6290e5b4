"""Datasets of other robots and other writers: each test is one trait that public datasets have."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sim.embodiments import PANDA_EEF
from tests.vla.data.foreign import TEXTS, Foreign, check_foreign, write_foreign
from vla.data import video
from vla.data.lerobot_reader import LeRobotDataset
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError

LIBERO = {"observation.images.image": (32, 32), "observation.images.image2": (32, 32)}
OPENPI = {"image": (32, 32), "wrist_image": (32, 32)}
PUSHT = {"observation.image": (32, 32)}
ALOHA = {f"observation.images.cam_{place}": (24, 32) for place in ("high", "low", "left_wrist", "right_wrist")}
TWO_SIZES = {"observation.images.front": (48, 64), "observation.images.wrist": (32, 32)}
LARGE = {"observation.images.top": (64, 96)}  # x265 overwrites its memory with pictures smaller than a block

KINDS = {
    "SO-101": Foreign(cameras=TWO_SIZES, fps=30),
    "ALOHA": Foreign(cameras=ALOHA, state_size=14, action_size=14, fps=50),
    "PushT": Foreign(cameras=PUSHT, state_size=2, action_size=2, fps=10),
    "one number": Foreign(state_size=1, action_size=1),
    "no state": Foreign(state=None),
    "no camera": Foreign(cameras={}),
    "openpi's keys": Foreign(cameras=OPENPI, state="state", action="actions", state_size=8, action_size=7),
    "LIBERO's cameras": Foreign(cameras=LIBERO, state_size=8, action_size=7),
    "5 frames a second": Foreign(fps=5),
    "60 frames a second": Foreign(fps=60),
    "29.97 frames a second": Foreign(fps=30000 / 1001, lengths=(40, 9)),
    "AV1": Foreign(codec="libsvtav1", cameras={"observation.images.top": (64, 64)}, options={"preset": "12"}),
    "hevc": Foreign(codec="libx265", cameras=LARGE),
    "h264 with B-frames": Foreign(lengths=(9, 7, 12, 5), options={"bf": "3", "g": "8"}),
    "hevc with open groups": Foreign(
        codec="libx265", cameras=LARGE, lengths=(12, 13, 11), options={"g": "6", "bf": "3"}
    ),
    "PNG": Foreign(codec="png"),
    "JPEG": Foreign(codec="jpg"),
    "PNG by relative path": Foreign(codec="png at relative"),
    "PNG by absolute path": Foreign(codec="png at absolute"),
    "PNG by the path of another machine": Foreign(codec="png at elsewhere"),
    "PNG by name": Foreign(codec="png at name"),
    "channels first": Foreign(codec="png", channels_first=True, picture_names=["channels", "height", "width"]),
    "channels first, no names": Foreign(channels_first=True, picture_names=None),
    "channels first, wrong names": Foreign(channels_first=True),
    "the task only in the frames": Foreign(tasks_column=False),
    "the task only in the frames, pictures": Foreign(tasks_column=False, codec="png"),
    "a task that changes": Foreign(task=lambda episode, frame: int(frame >= 3)),
    "a task that changes, unsaid": Foreign(task=lambda episode, frame: int(frame >= 3), tasks_column=False),
    "several files": Foreign(data_file=lambda episode: episode, video_file=lambda episode: episode // 2),
    "a file index that is wrong": Foreign(data_file=lambda e: int(e > 0), said_data_file=lambda e: int(e > 1)),
    "a file index that is wrong, pictures": Foreign(
        data_file=lambda e: int(e > 0), said_data_file=lambda e: int(e > 1), codec="png"
    ),
    "a file that is not there": Foreign(said_data_file=lambda episode: 7),
    "numbers with gaps": Foreign(numbers=(1, 4, 9)),
    "numbers with gaps, pictures": Foreign(numbers=(1, 4, 9), codec="png at relative"),
    "no robot type": Foreign(robot=None),
}
NAMES = {
    "PushT": {"observation.image": "image"},
    "LIBERO's cameras": {"observation.images.image": "image", "observation.images.image2": "wrist_image"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_number_and_picture_of_a_foreign_dataset_is_right(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    tolerance = {"png": 0, "jpg": 2}.get(kind.codec[:3], 6)
    dataset = check_foreign(write_foreign(tmp_path / "demos", kind), kind, NAMES.get(name), tolerance)
    embodiment = dataset.embodiment
    assert embodiment.name == (kind.robot or "unknown")
    assert (embodiment.action.kind, embodiment.action.low, embodiment.action.gripper) == ("unknown", (), None)
    assert (embodiment.state.size, embodiment.action.size) == (kind.state_size if kind.state else 0, kind.action_size)
    assert embodiment.action.names == tuple(f"action_{index}" for index in range(kind.action_size))
    assert embodiment.control_frequency == kind.fps
    assert [(camera.height, camera.width) for camera in embodiment.cameras] == list(kind.cameras.values())


JOINTS = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (JOINTS, JOINTS),
        ({"motors": JOINTS}, JOINTS),
        ({"arm": JOINTS[:5], "hand": JOINTS[5:]}, JOINTS),
        ([JOINTS], JOINTS),
        ({name: index for index, name in reversed(list(enumerate(JOINTS)))}, JOINTS),
        (["actions"], [f"action_{index}" for index in range(6)]),
        ("actions", [f"action_{index}" for index in range(6)]),
        (3, [f"action_{index}" for index in range(6)]),
        ([], [f"action_{index}" for index in range(6)]),
    ],
)
def test_names_as_they_are_written_somewhere(tmp_path: Path, names: Any, read: list[str]) -> None:
    kind = Foreign(cameras={}, names=names)
    assert check_foreign(write_foreign(tmp_path / "demos", kind), kind).embodiment.action.names == tuple(read)


def test_depth_maps_and_other_features_are_passed_over(tmp_path: Path) -> None:
    picture = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    kind = Foreign(
        extra={
            "observation.images.depth": picture | {"info": {"video.is_depth_map": True}},
            "observation.images.distance": picture | {"shape": [32, 48, 1]},
            "observation.environment_state": {"dtype": "float32", "shape": [9], "names": None},
            "language_instruction": {"dtype": "string", "shape": [1], "names": None},
        }
    )
    dataset = check_foreign(write_foreign(tmp_path / "demos", kind), kind)
    assert dataset.embodiment.camera_names == ("top",)


def test_two_features_that_would_be_one_camera_keep_their_keys(tmp_path: Path) -> None:
    kind = Foreign(cameras={"front": (32, 32), "observation.images.front": (32, 32)})
    check_foreign(write_foreign(tmp_path / "demos", kind), kind, {key: key for key in kind.cameras})


def test_only_chosen_cameras_are_read_and_reduced(tmp_path: Path) -> None:
    kind = Foreign(cameras=TWO_SIZES)
    root = write_foreign(tmp_path / "demos", kind)
    shutil.rmtree(root / "videos/observation.images.front")  # not needed
    dataset = LeRobotDataset(root)
    episode = dataset.episode(1, image_size=8, cameras=["wrist"])
    assert list(episode.images) == ["wrist"]
    assert episode.images["wrist"].shape == (3, 8, 8, 3)
    assert episode.embodiment.camera_names == ("wrist",)
    assert episode.embodiment.camera("wrist").height == 8
    assert np.abs(episode.images["wrist"][2, 4, 1].astype(int) - 22).max() <= 4
    assert dataset.episode(1, cameras=[]).images == {}
    with pytest.raises(ReflexError, match="has no camera 'hand'; its cameras are: front, wrist"):
        dataset.episode(1, cameras=["hand"])


def test_a_robot_whose_names_leave_no_doubt_is_known(tmp_path: Path) -> None:
    """Datasets written here before there was a description beside them."""
    kind = Foreign(cameras=LIBERO, state_size=8, action_size=7, robot="panda")
    root = write_foreign(tmp_path / "demos", kind)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["names"] = list(PANDA_EEF.state.names)
    info["features"]["action"]["names"] = list(PANDA_EEF.action.names)
    (root / "meta/info.json").write_text(json.dumps(info))
    assert LeRobotDataset(root).embodiment == PANDA_EEF.with_image_size(32)
    info["features"]["action"]["names"][6] = "hand"
    (root / "meta/info.json").write_text(json.dumps(info))
    assert LeRobotDataset(root).embodiment.action.kind == "unknown"


def test_a_dataset_read_elsewhere_is_written_with_its_names(tmp_path: Path) -> None:
    kind = Foreign(cameras=TWO_SIZES, names=JOINTS, fps=30, task=lambda episode, frame: int(frame >= 3))
    source = LeRobotDataset(write_foreign(tmp_path / "demos", kind))
    writer = LeRobotWriter(tmp_path / "copy", "so101", source.embodiment)
    for index in range(source.num_episodes):
        writer.add_episode(replace(source.episode(index), suite="so101"))
    copy = check_foreign(writer.finalize(), kind, tolerance=6)
    assert copy.embodiment == source.embodiment
    info = json.loads((copy.root / "meta/info.json").read_text())
    assert (info["robot_type"], info["fps"]) == ("some_arm", 30)
    assert info["features"]["observation.state"]["names"] == JOINTS
    assert info["features"]["observation.images.front"]["shape"] == [48, 64, 3]
    rows = pq.read_table(copy.root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["tasks"] for row in rows] == [list(TEXTS), [TEXTS[0]], list(TEXTS)]


@pytest.mark.parametrize("change", ["no state", "no camera", "one number"])
def test_robots_that_lack_something_are_written_and_read(tmp_path: Path, change: str) -> None:
    kind = KINDS[change]
    source = LeRobotDataset(write_foreign(tmp_path / "demos", kind))
    writer = LeRobotWriter(tmp_path / "copy", "demos", source.embodiment)
    for index in range(source.num_episodes):
        writer.add_episode(source.episode(index))
    copy = check_foreign(writer.finalize(), kind, tolerance=6)
    assert copy.embodiment == source.embodiment
    assert copy.stats["action"]["q99"].shape == (kind.action_size,)


def test_what_is_said_of_an_action_survives_lerobots_tools(tmp_path: Path) -> None:
    """They write info.json anew: a camera less, another rate. What they do not touch still means what it did."""
    kind = Foreign(cameras=TWO_SIZES, names=JOINTS)
    root = write_foreign(tmp_path / "demos", kind)
    plain = LeRobotDataset(root).embodiment
    action = replace(plain.action, kind="joint_position", low=(-90.0,) * 6, high=(90.0,) * 6, gripper=5)
    known = replace(plain, action=action, control_frequency=50)
    (root / "meta/reflex_embodiment.json").write_text(json.dumps(known.to_dict()))
    assert LeRobotDataset(root).embodiment == replace(plain, action=action)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"]["names"] = [*JOINTS[:5], "jaw.pos"]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert LeRobotDataset(root).embodiment.action.kind == "unknown"


def test_pictures_that_were_not_copied_along(tmp_path: Path) -> None:
    kind = Foreign(codec="png at absolute")
    root = write_foreign(tmp_path / "demos", kind)
    shutil.rmtree(root / "images")
    with pytest.raises(ReflexError, match=r"names pictures instead of holding them .*copy the dataset's folder of"):
        LeRobotDataset(root).episode(0)


def test_an_av1_video_without_a_decoder_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_foreign(tmp_path / "demos", KINDS["AV1"])
    monkeypatch.setattr(video, "AV1_DECODERS", ())  # as in a PyAV that was built without
    with pytest.raises(
        ReflexError, match=r"file-000\.mp4 is a video of codec av1, for which PyAV .* convert"
    ) as caught:
        LeRobotDataset(root).episode(0)
    assert "\n" not in str(caught.value)


def test_rows_of_one_episode_in_two_files(tmp_path: Path) -> None:
    kind = Foreign(codec="png")
    root = write_foreign(tmp_path / "demos", kind)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(2), path)
    pq.write_table(table.slice(0, 2), root / "data/chunk-000/file-001.parquet")
    check_foreign(root, kind, tolerance=0)
    pq.write_table(table.slice(0, 1), root / "data/chunk-000/file-001.parquet")
    with pytest.raises(ReflexError, match=r"file-000\.parquet, .*file-001\.parquet holds 4 rows of episode 0 where"):
        LeRobotDataset(root).episode(0)


def test_an_episode_that_is_listed_twice_or_not_at_all(tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "demos", Foreign())
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for damaged, message in (
        (pa.concat_tables([table, table.slice(0, 1)]), "has an episode number twice"),
        (table.slice(0, 2), "lists 2 episodes with 8 frames where .* 3 with 14"),
        (table.drop_columns("length"), "has no column 'length'"),
        (
            table.drop_columns("videos/observation.images.top/file_index"),
            r"has no 'videos/.*/file_index' for episode 0",
        ),
    ):
        pq.write_table(damaged, path)
        with pytest.raises(ReflexError, match=message):
            LeRobotDataset(root)


def test_statistics_for_normalisation_are_the_files_for_the_whole_dataset_and_exact_for_a_part(tmp_path: Path) -> None:
    kind = Foreign(cameras={}, lengths=(5, 3, 6))
    root = write_foreign(tmp_path / "demos", kind)
    episodes = [LeRobotDataset(root).episode(index) for index in range(3)]
    exact = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)

    def found(count: int = 3) -> dict[str, Any]:
        return LeRobotDataset(root).normalisation(episodes[:count])

    assert found()["action"]["mean"] == pytest.approx(exact.mean(axis=0))  # no stats.json
    assert found()["state"]["std"] == pytest.approx(np.concatenate([e.states for e in episodes]).std(axis=0), rel=1e-5)
    stored = {name: [float(number)] * 6 for number, name in enumerate(("mean", "std", "q01", "q99"))}
    path = root / "meta/stats.json"
    path.write_text(json.dumps({"action": stored}))
    assert {name: values.tolist() for name, values in found()["action"].items()} == stored
    assert found(2)["action"]["q99"] == pytest.approx(np.quantile(exact[:8], 0.99, axis=0))
    assert found()["state"]["mean"] == pytest.approx(
        np.concatenate([e.states for e in episodes]).mean(axis=0), rel=1e-5
    )
    for incomplete in ({"mean": [0.0] * 6}, stored | {"q01": [0.0] * 5}):
        path.write_text(json.dumps({"action": incomplete}))
        assert found()["action"]["mean"] == pytest.approx(exact.mean(axis=0))


def test_a_dataset_without_statistics_has_those_of_its_numbers(tmp_path: Path) -> None:
    kind = Foreign(lengths=(5, 3), data_file=lambda episode: episode)
    dataset = LeRobotDataset(write_foreign(tmp_path / "demos", kind))
    assert set(dataset.stats) == {"observation.state", "action"}
    actions = np.concatenate([kind.vectors(episode)[1] for episode in range(2)]).astype(np.float64)
    assert dataset.stats["action"]["q10"] == pytest.approx(np.quantile(actions, 0.1, axis=0))
