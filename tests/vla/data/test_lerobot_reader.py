from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vla.data.samples import SIZE, join_dataset_videos, sample_episodes, write_dataset
from vla.data import lerobot_keys as keys
from vla.data.lerobot_reader import UNKNOWN, LeRobotDataset, read_demonstrations
from vla.data.statistics import STATISTIC_NAMES
from vla.errors import ReflexError

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.image2/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("written") / "demos")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "demos"))


@pytest.fixture(scope="module")
def written_joined(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dataset with all episodes of a camera in one mp4."""
    return join_dataset_videos(Path(shutil.copytree(written, tmp_path_factory.mktemp("joined") / "demos")))


@pytest.fixture
def joined(written_joined: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written_joined, tmp_path / "joined"))


def read_all(folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    assert dataset.stats
    for index in range(dataset.num_episodes):
        dataset.episode(index)


@pytest.mark.parametrize("layout", ["folder", "joined"])
def test_episodes_come_back(layout: str, request: pytest.FixtureRequest) -> None:
    dataset = LeRobotDataset(request.getfixturevalue(layout))
    assert (dataset.num_episodes, dataset.num_frames) == (5, 23)
    assert dataset.tasks == ["fill gauge 3", "fill gauge 8"]
    for index, written in enumerate(sample_episodes()):
        read = dataset.episode(index)
        assert read.record() == written.record()
        assert read.instruction == written.instruction
        for name in ("actions", "states", "rewards", "costs", "progress", "observation_steps"):
            assert np.array_equal(getattr(read, name), getattr(written, name)), name
            assert getattr(read, name).dtype == getattr(written, name).dtype, name
        # Colour is stored at half the resolution; another frame or camera would be off by more than 8.
        assert read.embodiment == written.embodiment
        for camera in ("image", "wrist_image"):
            assert np.abs(read.images[camera].astype(int) - written.images[camera]).mean() < 3.0
    with pytest.raises(IndexError):
        dataset.episode(5)


@pytest.mark.parametrize("layout", ["folder", "joined"])
def test_episodes_can_be_read_in_any_order_and_share_no_memory(layout: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(layout)
    dataset = LeRobotDataset(folder)
    last, first = dataset.episode(3), dataset.episode(0)
    assert np.array_equal(LeRobotDataset(folder).episode(3).images["image"], last.images["image"])
    again = dataset.episode(0)
    again.actions[:], again.images["image"][:] = 7.0, 0
    assert np.array_equal(dataset.episode(0).actions, first.actions)


def test_read_demonstrations_chooses_by_task(folder: Path) -> None:
    assert [episode.task_id for episode in read_demonstrations(folder)] == [3, 8, 3, 8, 3]
    chosen = read_demonstrations(folder, task_ids=[3], episodes_per_task=2)
    assert [(episode.task_id, episode.init_state_id) for episode in chosen] == [(3, 0), (3, 2)]
    with pytest.raises(ReflexError, match=r"has 2 episodes of task 8, not 3 \(episodes per task: 3: 3, 8: 2\)"):
        read_demonstrations(folder, episodes_per_task=3)
    with pytest.raises(ReflexError, match="has 0 episodes of task 5"):
        read_demonstrations(folder, task_ids=[5])


def test_a_dataset_without_our_columns_and_files(folder: Path) -> None:
    """As the public LIBERO copies are: no rewards, no provenance, no quantiles."""
    (folder / "meta/reflex_episodes.parquet").unlink()
    table = pq.read_table(folder / DATA)
    pq.write_table(table.drop_columns([name for name in table.column_names if name.startswith("next.")]), folder / DATA)
    stats = json.loads((folder / "meta/stats.json").read_text())
    kept = ("min", "max", "mean", "std", "count")
    bare = {name: {key: feature[key] for key in kept} for name, feature in stats.items()}
    (folder / "meta/stats.json").write_text(json.dumps(bare))
    dataset = LeRobotDataset(folder)
    assert set(dataset.stats["action"]) == set(STATISTIC_NAMES)
    assert dataset.stats["action"]["q99"] == pytest.approx(stats["action"]["q99"])
    episode = dataset.episode(1)
    assert (episode.task_id, episode.init_state_id, episode.seed) == (1, UNKNOWN, UNKNOWN)
    assert episode.success
    assert episode.rewards.tolist() == [0, 0, 0, 1]
    assert (episode.suite, episode.policy_id) == ("demos", "demonstration")


def embed_pictures(folder: Path) -> None:
    """As in the PNG copies of LIBERO: dtype "image", bytes in the data file, channels declared first."""
    episodes = sample_episodes()
    table = pq.read_table(folder / DATA)
    info = json.loads((folder / "meta/info.json").read_text())
    for name, field in (("observation.images.image", "image"), ("observation.images.image2", "wrist_image")):
        frames = np.concatenate([episode.images[field] for episode in episodes])
        cells = [{"bytes": cv2.imencode(".png", frame[..., ::-1])[1].tobytes(), "path": None} for frame in frames]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = table.append_column(name, pa.array(cells, type=kind))
        names = ["channels", "height", "width"]
        info["features"][name] = {"dtype": "image", "shape": [3, SIZE, SIZE], "names": names}
    pq.write_table(table, folder / DATA, row_group_size=9)  # episodes straddle row groups
    info["video_path"] = None
    (folder / "meta/info.json").write_text(json.dumps(info))


def test_frames_embedded_as_pictures(folder: Path) -> None:
    embed_pictures(folder)
    dataset = LeRobotDataset(folder)
    for index, written in enumerate(sample_episodes()):
        read = dataset.episode(index)
        for camera in ("image", "wrist_image"):
            assert np.array_equal(read.images[camera], written.images[camera])


@pytest.mark.parametrize("content", [b"no picture", cv2.imencode(".png", np.zeros((8, 8, 3)))[1].tobytes()])
def test_a_frame_that_is_no_picture_of_that_size_is_named(folder: Path, content: bytes) -> None:
    embed_pictures(folder)

    def replace_one(cells: list[Any]) -> list[Any]:
        return [*cells[:9], {"bytes": content, "path": "x.png"}, *cells[10:]]

    change_column(DATA, "observation.images.image2", replace_one)(folder)
    dataset = LeRobotDataset(folder)
    assert np.array_equal(dataset.episode(0, cameras=["image"]).images["image"], sample_episodes()[0].images["image"])
    message = r"no 32x32 picture in column 'observation\.images\.image2', frame 2 of episode 1"
    with pytest.raises(ReflexError, match=message):
        dataset.episode(1)


def test_names_of_folders_above_a_dataset_are_no_columns_of_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "action=1").mkdir()
    moved = folder.rename(tmp_path / "action=1" / "task_index=5")
    read_all(moved)


@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_datasets_that_lerobot_wrote(kind: str) -> None:
    """`lerobot_0_4_4` was recorded with the lerobot package: 3 episodes, AV1 video (its default) or PNG frames."""
    dataset = LeRobotDataset(Path(__file__).parent / "lerobot_0_4_4" / kind)
    assert (dataset.num_episodes, dataset.num_frames) == (3, 13)
    assert dataset.tasks == ["open the drawer", "close the drawer"]
    tolerance = 2 if kind == "video" else 0
    for index, length in enumerate((4, 6, 3)):
        episode = dataset.episode(index)
        steps = np.arange(length)
        assert episode.instruction == dataset.tasks[index % 2]
        assert episode.success == (index != 1)  # the second one ends without success
        assert episode.states[:, 2] == pytest.approx(2 + index + steps / 10)
        assert episode.actions[:, 6] == pytest.approx((steps + 1) / 10)
        assert episode.rewards.tolist() == [0.0] * (length - 1) + [1.0]
        left, right = 20 * steps + 10 * index, 200 - 20 * steps  # grey levels of the two halves
        assert np.abs(episode.images["image"][:, 16, 4, :].astype(int) - left[:, None]).max() <= tolerance
        assert np.abs(episode.images["image"][:, 16, 28, :].astype(int) - right[:, None]).max() <= tolerance
        assert np.abs(episode.images["wrist_image"][:, 16, 4, :].astype(int) - right[:, None]).max() <= tolerance
    assert set(dataset.stats["action"]) >= set(STATISTIC_NAMES)


def overwrite(path: str, start: float, count: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        at = int(start * len(content))
        content[at : at + count] = bytes(value ^ 0xFF for value in content[at : at + count])
        (folder / path).write_bytes(content)

    return damage


def truncate(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:-200]) and None


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def change_info(*keys: str, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "meta/info.json"
        info = target = json.loads(path.read_text())
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
        path.write_text(json.dumps(info))

    return damage


def change_column(path: str, name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        table = pq.read_table(folder / path)
        index = table.column_names.index(name)
        pq.write_table(table.set_column(index, name, pa.array(change(table[name].to_pylist()))), folder / path)

    return damage


DAMAGE = {
    "info missing": (remove("meta/info.json"), r"info\.json is missing"),
    "info is a list": (
        lambda folder: (folder / "meta/info.json").write_text("[]") and None,
        r"info\.json does not hold a JSON object",
    ),
    "info torn": (truncate("meta/info.json"), r"info\.json is not valid JSON .* restore this file"),
    "old format": (change_info("codebase_version", value="v2.1"), r"info\.json is of format v2\.1"),
    "info lacks fps": (change_info("fps", value=None), r"info\.json lacks or garbles"),
    "no action": (
        change_info("features", value={"observation.state": {"dtype": "float32", "shape": [8]}}),
        r"info\.json has no feature 'action', only observation\.state; name the column",
    ),
    "an action without a shape": (
        change_info("features", "action", value={}),
        r"gives action the shape \[\]; a vector",
    ),
    "features that are none": (change_info("features", value=3), r"info\.json lacks or garbles"),
    "an action of another length": (
        change_info("features", "action", "shape", value=[14]),
        r"rows of another length than 14, which meta/info\.json says, in column 'action'",
    ),
    "an action of two axes": (
        change_info("features", "action", "shape", value=[7, 2]),
        r"info\.json gives action the shape \[7, 2\]; a vector",
    ),
    "no rate": (change_info("fps", value=0), r"info\.json describes no robot: .*control_frequency 0\.0 must be above"),
    "our description torn": (truncate("meta/reflex_embodiment.json"), r"reflex_embodiment\.json is not valid JSON"),
    "our description garbled": (
        lambda folder: (folder / "meta/reflex_embodiment.json").write_text('{"name": "a", "cameras": 3}') and None,
        r"reflex_embodiment\.json cannot be used: .*; restore this file, or delete it",
    ),
    "wrong picture size": (
        change_info("features", "observation.images.image", "shape", value=[64, 64, 3]),
        r"file-000\.mp4 has frames of 32x32 pixels",
    ),
    "stats torn": (truncate("meta/stats.json"), r"stats\.json is not valid JSON"),
    "tasks missing": (remove("meta/tasks.parquet"), r"tasks\.parquet is missing"),
    "episodes missing": (remove(EPISODES), r"meta/episodes has no parquet file"),
    "fewer episodes than info says": (change_info("total_episodes", value=6), r"lists 5 episodes .* 6 with 23"),
    "data missing": (remove(DATA), r"data/chunk-000/file-000\.parquet is missing"),
    "data torn": (truncate(DATA), r"data/chunk-000/file-000\.parquet is damaged"),
    "data flipped": (overwrite(DATA, 0.1, 64), r"data/chunk-000/file-000\.parquet is damaged"),
    "data lacks a column": (
        lambda folder: pq.write_table(pq.read_table(folder / DATA).drop_columns("action"), folder / DATA),
        r"file-000\.parquet has no column 'action'",
    ),
    "state of another size": (
        change_column(DATA, "observation.state", lambda rows: [row[:6] for row in rows]),
        r"file-000\.parquet has rows of another length than 8.* in column 'observation\.state'",
    ),
    "a ragged action": (
        change_column(DATA, "action", lambda rows: [[*rows[0], 0.0], rows[1][:6], *rows[2:]]),
        r"file-000\.parquet has rows of another length than 7.* in column 'action'",
    ),
    "an action that is not finite": (
        change_column(DATA, "action", lambda rows: [[float("nan")] * 7, *rows[1:]]),
        r"column 'action' that is not finite",
    ),
    "an episode number that repeats": (
        change_column(DATA, "episode_index", lambda rows: [0] * len(rows)),
        r"file-000\.parquet holds 23 rows of episode 0 where meta/episodes says 7",
    ),
    "video missing": (remove(VIDEO), r"image2/chunk-000/file-000\.mp4"),
    "video torn": (truncate(VIDEO), r"image2/chunk-000/file-000\.mp4"),
    "video flipped": (overwrite(VIDEO, 0.3, 300), r"image2/chunk-000/file-000\.mp4"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_dataset_is_one_clear_error(folder: Path, name: str) -> None:
    read_all(folder)
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(ReflexError, match=message) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["folder", "joined"])
def test_a_bit_that_the_decoder_would_not_miss_is_found(layout: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(layout) / VIDEO
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    at = packets[5][0] + packets[5][1] - 3  # near the end of the sixth picture of the first episode
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    dataset = LeRobotDataset(path.parents[3])
    with pytest.raises(ReflexError, match=r"image2/chunk-000/file-000\.mp4 is damaged in the episode at second 0\.000"):
        dataset.episode(0)
    dataset.episode(1)
    (dataset.root / "meta/reflex_episodes.parquet").unlink()
    LeRobotDataset(dataset.root).episode(0)  # without the checksum it goes unnoticed


@pytest.mark.parametrize("name", ["video missing", "video torn", "video flipped"])
def test_damage_to_a_video_of_several_episodes_is_one_clear_error(joined: Path, name: str) -> None:
    read_all(joined)
    damage, message = DAMAGE[name]
    damage(joined)
    with pytest.raises(ReflexError, match=message):
        read_all(joined)


def test_neither_a_folder_nor_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"there is no dataset folder .*nowhere"):
        LeRobotDataset(tmp_path / "nowhere")
    (tmp_path / "demos.partial").mkdir()
    with pytest.raises(ReflexError, match=r"there is no dataset folder .*demos"):
        LeRobotDataset(tmp_path / "demos")  # a folder of somebody else's
    (tmp_path / "demos.partial" / keys.RECORDING_MARKER).touch()
    with pytest.raises(ReflexError, match="demos is not finished"):
        LeRobotDataset(str(tmp_path / "demos"))


def test_a_hub_id_without_a_network(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom vla.data.lerobot_reader import LeRobotDataset\nfrom vla.errors import ReflexError\n"
        "try:\n    LeRobotDataset('some-owner/some-dataset')\nexcept ReflexError as error:\n"
        "    print(error); sys.exit(2)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert "'some-owner/some-dataset'" in run.stdout
    assert "give a local folder" in run.stdout
