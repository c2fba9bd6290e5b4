"""A packed suite against the installation it was packed from."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from sim.contract import EnvironmentRequestError
from sim.libero import archive
from sim.libero.archive import ArchiveSource, archive_path
from sim.libero.environment import LiberoEnvironment
from sim.libero.model_parts import saved
from sim.libero.source import InstalledSource
from sim.libero.suite import LiberoSuite

TASKS = 2
STATES = 2


class FirstTasks(InstalledSource):
    """A suite of fewer tasks, to be packed in seconds."""

    def __init__(self, suite: str) -> None:
        super().__init__(suite)
        self.tasks = self.tasks[:TASKS]


@pytest.fixture(scope="module")
def packed(spatial: LiberoSuite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the archive of the first tasks of libero_spatial, each with the first initial states."""
    folder = tmp_path_factory.mktemp("archives")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "InstalledSource", FirstTasks)
        patch.setattr(archive, "NUM_INIT_STATES", STATES)
        seen: list[tuple[int, int]] = []
        archive.pack("libero_spatial", archive_path(folder, "libero_spatial"), lambda *counts: seen.append(counts))
        assert seen == [(1, TASKS), (2, TASKS)]
        yield folder


@pytest.mark.libero
def test_an_episode_from_the_archive_equals_the_installations(
    spatial: LiberoSuite, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBERO_ARCHIVES", str(packed))
    suite = LiberoSuite("libero_spatial", image_size=64)
    assert suite.protocol() == spatial.protocol() | {"tasks": spatial.protocol()["tasks"][:TASKS]}
    assert suite.instruction(1) == spatial.instruction(1)
    ours, theirs = suite.make(1), spatial.make(1)
    assert isinstance(ours, LiberoEnvironment) and isinstance(theirs, LiberoEnvironment)
    pushing = np.array([1.0, 0.3, -1.0, 0.2, 0.0, 0.4, 1.0])
    for environment in (ours, theirs):
        environment.reset_to("eval", 0)
        environment.advance(pushing)
    for split, index in (("train", 1), ("eval", 1)):
        for environment in (ours, theirs):
            environment.reset_to(split, index)  # type: ignore[arg-type]
        for step in range(6):
            assert np.array_equal(ours.scene.flattened_state(), theirs.scene.flattened_state()), step
            assert np.array_equal(ours.robot_state(), theirs.robot_state()), step
            assert ours.scene.goal_predicates() == theirs.scene.goal_predicates()
            assert ours.advance(pushing) == theirs.advance(pushing)
        assert ours.scene.goal() == theirs.scene.goal()
        ours_pictures, pictures = ours.render_observation(), theirs.render_observation()
        assert np.array_equal(ours_pictures["images"]["image"], pictures["images"]["image"])
        assert np.array_equal(ours_pictures["images"]["wrist_image"], pictures["images"]["wrist_image"])
    ours.close()
    theirs.close()


@pytest.mark.libero
def test_the_archive_needs_neither_robosuite_nor_libero_nor_assets(packed: Path) -> None:
    """In a fresh process that cannot import them; the expert runs, too."""
    program = (
        "import sys\n"
        "for name in ('robosuite', 'libero', 'bddl', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "from sim.suites import get_suite\n"
        "suite = get_suite('libero_spatial', 64)\n"
        "environment = suite.make(0)\n"
        "environment.reset_to('eval', 1)\n"
        "expert = suite.make_expert(0, seed=0)\n"
        "expert.reset(environment)\n"
        "while not (outcome := environment.advance(expert.act(environment))).done: pass\n"
        "print(outcome.success, environment.render_observation()['images']['image'].shape)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIBERO")}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"LIBERO_ARCHIVES": str(packed)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "True (64, 64, 3)"


@pytest.mark.libero
def test_models_are_the_packed_ones_byte_for_byte(packed: Path) -> None:
    source, installed = (
        ArchiveSource(archive_path(packed, "libero_spatial"), "libero_spatial"),
        FirstTasks("libero_spatial"),
    )
    for task in range(TASKS):
        ours, theirs = source.open(task, "exact").scene, installed.open(task, "exact").scene
        assert saved(ours.model) == saved(theirs.model)
        assert ours.definition == theirs.definition


@pytest.mark.libero
def test_tasks_share_what_they_have_in_common(packed: Path) -> None:
    with zipfile.ZipFile(archive_path(packed, "libero_spatial")) as file:
        names = file.namelist()
    source = ArchiveSource(archive_path(packed, "libero_spatial"), "libero_spatial")
    first, second = (entry["parts"] for entry in source._entries)
    assert len(names) == len(set(names))
    assert set(first["meshes"]) == set(second["meshes"]) and first["pictures"] == second["pictures"]
    assert len(set(first["pictures"])) < len(first["pictures"])  # a cube's faces are alike


@pytest.mark.libero
def test_a_damaged_archive_is_named(packed: Path, tmp_path: Path) -> None:
    whole = archive_path(packed, "libero_spatial").read_bytes()
    damaged = tmp_path / "libero_spatial.libero"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        EnvironmentRequestError, match=r"libero_spatial\.libero cannot be read .* damaged or incomplete"
    ):
        ArchiveSource(damaged, "libero_spatial")
    middle = len(whole) // 2
    damaged.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    source = ArchiveSource(damaged, "libero_spatial")
    with pytest.raises(EnvironmentRequestError, match="damaged or incomplete"):
        for task in range(TASKS):
            source.open(task, "exact")


@pytest.mark.libero
@pytest.mark.parametrize("folder", ["pictures", "meshes", "between"])
def test_damage_to_one_part_is_named(packed: Path, tmp_path: Path, folder: str) -> None:
    path = archive_path(packed, "libero_spatial")
    with zipfile.ZipFile(path) as file:
        part = max((entry for entry in file.infolist() if entry.filename.startswith(folder)), key=lambda e: e.file_size)
    content = bytearray(path.read_bytes())
    content[part.header_offset + 200 + part.file_size // 2] ^= 1
    damaged = tmp_path / path.name
    damaged.write_bytes(content)
    source = ArchiveSource(damaged, "libero_spatial")
    with pytest.raises(EnvironmentRequestError, match=r"cannot be read .* damaged or incomplete"):
        for task in range(TASKS):
            source.open(task, "exact")


@pytest.mark.libero
def test_a_model_that_is_put_together_differently_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of it are computed again, perhaps on another processor and by another library."""
    content = archive.put_together
    monkeypatch.setattr(archive, "put_together", lambda parts: content(parts)[:-1] + b"x")
    with pytest.raises(EnvironmentRequestError, match="the model of task 0 is not the one that was packed"):
        ArchiveSource(archive_path(packed, "libero_spatial"), "libero_spatial").open(0, "exact")


@pytest.mark.libero
def test_an_archive_of_another_suite_or_mujoco_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_path(packed, "libero_spatial")
    with pytest.raises(EnvironmentRequestError, match=r"of libero_spatial, not format 3 of libero_goal"):
        ArchiveSource(path, "libero_goal")
    monkeypatch.setattr(archive.mujoco, "__version__", "3.4.0")
    with pytest.raises(EnvironmentRequestError, match=r"packed with mujoco 3\.3\.0, but 3\.4\.0 is installed"):
        ArchiveSource(path, "libero_spatial")


def test_packing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRequestError, match="unknown LIBERO suite"):
        archive.pack("libero_sofa", tmp_path / "libero_sofa.libero")
    assert list(tmp_path.iterdir()) == []


@given(arrays(np.float64, array_shapes(max_dims=3)) | arrays(np.float32, array_shapes(max_dims=3)))
def test_states_come_back_to_the_bit(values: np.ndarray) -> None:
    restored = archive._from_state_planes(archive._state_planes(values))
    assert restored.dtype == values.dtype and restored.shape == values.shape
    assert restored.tobytes() == values.tobytes()
