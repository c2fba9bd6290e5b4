from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from sim.embodiments import Camera
from tests.vla.data.foreign import Foreign, write_foreign
from vla.data import frame_store
from vla.data.frame_store import allocate_frames, free_memory, temporary_folder
from vla.data.images import resize_frames
from vla.data.lerobot_reader import LeRobotDataset, read_demonstrations
from vla.errors import ReflexError

CAMERAS = (Camera("front", 48, 64), Camera("wrist", 32, 32))
PER_FRAME = 3 * (48 * 64 + 32 * 32)
KIND = Foreign(
    cameras={"observation.images.front": (48, 64), "observation.images.wrist": (32, 32)}, lengths=(5, 3, 6, 4)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("foreign") / "demos", KIND)


def mapped_files(folder: Path) -> list[str]:
    """Files in a folder that this process has in its memory, with or without a name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line[line.index("/") :] for line in lines if f" {folder}/" in line]


def test_few_frames_are_in_memory_and_many_in_a_file_without_a_name(tmp_path: Path) -> None:
    few = allocate_frames(10, CAMERAS, in_memory=10 * PER_FRAME, folder=tmp_path)
    assert not mapped_files(tmp_path)
    many = allocate_frames(11, CAMERAS, in_memory=10 * PER_FRAME, folder=tmp_path)
    for frames, count in ((few, 10), (many, 11)):
        assert {name: array.shape for name, array in frames.items()} == {
            "front": (count, 48, 64, 3),
            "wrist": (count, 32, 32, 3),
        }
        frames["wrist"][:] = 7
        assert frames["wrist"].min() == 7
    assert list(tmp_path.iterdir()) == []  # nothing that a crash could leave behind
    used = mapped_files(tmp_path)
    assert len(used) == 2 and all(name.endswith("(deleted)") for name in used)
    del many, frames
    assert mapped_files(tmp_path) == []  # and the room is free again


def test_the_room_on_the_disk_is_taken_at_once(tmp_path: Path) -> None:
    before = os.statvfs(tmp_path)
    frames = allocate_frames(2000, CAMERAS, in_memory=0, folder=tmp_path)
    after = os.statvfs(tmp_path)
    taken = (before.f_bfree - after.f_bfree) * after.f_frsize
    assert taken > 0.5 * 2000 * PER_FRAME  # others use the disk too
    del frames


def test_a_disk_that_fills_in_between_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ReflexError, match=f"cannot write {tmp_path}: No space left on device"):
        allocate_frames(10, CAMERAS, in_memory=0, folder=tmp_path)


def test_a_file_system_that_cannot_take_room_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    frames = allocate_frames(10, CAMERAS, in_memory=0, folder=tmp_path)
    frames["front"][9] = 1
    assert frames["front"].sum() == 48 * 64 * 3


def test_what_does_not_fit_is_refused_with_the_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = (Camera("a", 256, 256), Camera("b", 256, 256))
    monkeypatch.setattr(frame_store, "free_memory", lambda: 3 * 1024**3)
    expected = (
        r"273,465,000 frames of 256 x 256 x 3 \+ 256 x 256 x 3 bytes need 100145\.9 GiB\. "
        rf"Up to 2\.0 GiB may be in memory of 3\.0 GiB free, and {tmp_path} has room for [\d.]+ GiB; choose fewer"
    )
    with pytest.raises(ReflexError, match=expected):
        allocate_frames(273_465_000, large, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_memory_has_no_room_for_goes_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_store, "free_memory", lambda: 10 * PER_FRAME)
    few = allocate_frames(10, CAMERAS, folder=tmp_path)
    assert not mapped_files(tmp_path)
    many = allocate_frames(11, CAMERAS, folder=tmp_path)
    assert len(mapped_files(tmp_path)) == 2
    assert len(few["front"]) == 10 and len(many["front"]) == 11


@pytest.mark.parametrize("group", frame_store.GROUPS)
@pytest.mark.parametrize(
    ("limit", "free"), [("9223372036854771712", 400 * 1024), ("200000", 200000 - 150000 + 1000), ("90000", 0)]
)
def test_free_memory_is_the_machines_or_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int, group: tuple[str, str, str, str]
) -> None:
    folder, allowed, taken, cached = group
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemAvailable:    400 kB\n")
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / allowed).write_text(limit + "\n")
    (tmp_path / folder / taken).write_text("150000\n")
    (tmp_path / folder / "memory.stat").write_text(f"anon 140000\n{cached} 1000\n")
    monkeypatch.setattr(frame_store, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(frame_store, "CONTAINER", tmp_path)
    assert free_memory() == free
    if group[1] == "memory.max":
        (tmp_path / "memory.max").write_text("max\n")
        assert free_memory() == 400 * 1024
    monkeypatch.setattr(frame_store, "MEMORY_INFO", tmp_path / "none")
    monkeypatch.setattr(frame_store, "CONTAINER", tmp_path / "none")
    assert free_memory() is None


def test_frames_go_where_tmpdir_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_folder() == tmp_path
    monkeypatch.delenv("TMPDIR")
    assert temporary_folder() == Path("/var/tmp")


@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_demonstrations_are_those_of_the_dataset_reduced(folder: Path, tmp_path: Path, in_memory: int) -> None:
    dataset = LeRobotDataset(folder)
    wanted = [Camera("wrist", 16, 12), "front"]
    episodes = read_demonstrations(dataset, cameras=wanted, image_size=24, in_memory=in_memory, folder=tmp_path)
    assert [episode.task_id for episode in episodes] == [0, 1, 0, 1]
    for index, episode in enumerate(episodes):
        whole = dataset.episode(index)
        assert episode.embodiment.cameras == (Camera("wrist", 16, 12), Camera("front", 24, 24))
        assert list(episode.images) == ["wrist", "front"]
        assert np.array_equal(episode.images["wrist"], resize_frames(whole.images["wrist"], 16, 12))
        assert np.array_equal(episode.images["front"], resize_frames(whole.images["front"], 24, 24))
        assert np.array_equal(episode.actions, whole.actions)
        episode.images["front"][:] = 0  # its own, whatever the file
        assert index == 3 or episodes[index + 1].images["front"].any()


def test_pictures_are_never_enlarged(folder: Path) -> None:
    episode = read_demonstrations(folder, [1], 1, image_size=40)[0]
    assert episode.embodiment.cameras == (Camera("front", 40, 40), Camera("wrist", 32, 32))
    assert episode.images["wrist"].shape == (3, 32, 32, 3)
    assert read_demonstrations(folder, [1], 1, cameras=[])[0].images == {}


def test_a_damaged_video_ends_the_reading(folder: Path) -> None:
    path = folder / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(ReflexError, match=r"images\.wrist/chunk-000/file-000\.mp4"):
            read_demonstrations(folder)
    finally:
        path.write_bytes(content)


def test_what_does_not_fit_is_refused_before_anything_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_store, "DISK_RESERVE", 2**60)
    monkeypatch.setattr(LeRobotDataset, "episode", lambda *arguments, **settings: pytest.fail("decoded"))
    message = r"18 frames of 48 x 64 x 3 \+ 32 x 32 x 3 bytes need 0\.2 MiB\. Up to 0\.0 MiB may .* room for 0\.0 MiB"
    with pytest.raises(ReflexError, match=message):
        read_demonstrations(folder, in_memory=1000)
