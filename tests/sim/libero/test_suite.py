"""Task lists, protocol, and the messages for what can be missing or damaged."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.core import gl
from sim.libero import installation, rendering
from sim.libero.expert import BowlExpert
from sim.libero.goal_experts import SurfaceExpert
from sim.libero.goals import Predicate, Thing
from sim.libero.long_experts import MugExpert, ShutDrawerExpert, parts_of
from sim.libero.scene import axis_angle_from_quaternion
from sim.libero.snapshot import ObservationClock
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import HORIZONS, LiberoTask, Variant, instruction_from_name, load_tasks, read_init_states
from sim.libero.waypoints import turn_about_vertical
from sim.suites import get_suite


@pytest.mark.parametrize(
    ("quaternion", "expected"),
    [
        ((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0, 0.0), (np.pi, 0.0, 0.0)),
        ((0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)), (0.0, 0.0, np.pi / 2)),
        # The same quarter turn with the other sign: 3/2 pi about the opposite axis, not pi/2.
        ((0.0, 0.0, -np.sin(np.pi / 4), -np.cos(np.pi / 4)), (0.0, 0.0, -3 * np.pi / 2)),
    ],
)
def test_axis_angle_keeps_the_sign_of_w(quaternion: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert axis_angle_from_quaternion(np.array(quaternion)) == pytest.approx(np.array(expected), abs=1e-12)


def test_observables_sample_once_per_control_step_at_the_same_substep() -> None:
    """Two forced samples put the clock at 4 ms; 46 ms later (23 substeps) the period ends, and the next one samples."""
    clock = ObservationClock(0.002, 0.05)
    samples = [[substep for substep in range(1, 26) if clock.tick()] for _ in range(3)]
    assert samples == [[24], [24], [24]]


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("open_the_middle_drawer_of_the_cabinet", "open the middle drawer of the cabinet"),
        ("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", "close the top drawer of the cabinet"),
        ("LIVING_ROOM_SCENE2_put_both_the_soup_in_the_basket", "put both the soup in the basket"),
    ],
)
def test_instruction_is_the_task_name_without_its_scene(name: str, instruction: str) -> None:
    assert instruction_from_name(name) == instruction


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(EnvironmentRequestError, match="libero_spatial, libero_object"):
        LiberoSuite("libero_space")


@pytest.mark.libero
@pytest.mark.parametrize("name", list(HORIZONS))
def test_every_suite_lists_the_original_tasks(spatial: LiberoSuite, name: str) -> None:
    suite = LiberoSuite(name)
    assert len(suite.task_ids) == (90 if name == "libero_90" else 10)
    assert suite.horizon(0) == HORIZONS[name]
    assert suite.num_init_states(0, "eval") == suite.num_init_states(0, "train") == 50
    assert suite.image_size == 256
    installation.import_libero(installation.find_installation())
    from libero.libero.benchmark import get_benchmark

    benchmark = get_benchmark(name)()
    assert [suite.task_name(task) for task in suite.task_ids] == benchmark.get_task_names()
    assert [suite.instruction(task) for task in suite.task_ids] == [task.language for task in benchmark.tasks]
    last = load_tasks(name, installation.find_installation())[-1]
    assert len(read_init_states(last.init_states_file)) == 50


@pytest.mark.libero
def test_protocol_is_json_and_names_what_determines_results(spatial: LiberoSuite) -> None:
    protocol = spatial.protocol()
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["versions"] == {"mujoco": "3.3.0", "hf-libero": "0.1.4", "robosuite": "1.4.0", "bddl": "1.0.1"}
    assert protocol["horizon"] == 220
    assert protocol["settle_steps"] == 10
    digests = {task["init_states_sha256"] for task in protocol["tasks"]}
    assert len(digests) == 10
    assert all(len(digest) == 64 for digest in digests)
    assert LiberoSuite("libero_spatial", 128).protocol() != protocol


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("libero_spatial", ("libero_spatial", 220, False, False)),
        ("libero_10", ("libero_10", 520, False, False)),
        ("libero_10_512", ("libero_10", 512, False, False)),
        ("libero_goal_fast", ("libero_goal", 300, True, False)),
        ("libero_90_512_fast_plain", ("libero_90", 512, True, True)),
    ],
)
def test_a_name_says_how_a_suite_is_run(name: str, expected: tuple[str, int, bool, bool]) -> None:
    variant = Variant.of(name)
    assert (variant.base, variant.horizon, variant.fast, variant.plain) == expected


@pytest.mark.libero
def test_variants_carry_other_protocols(spatial: LiberoSuite) -> None:
    names = ("libero_spatial", "libero_spatial_512", "libero_spatial_fast", "libero_spatial_plain")
    suites = [get_suite(name, 64) for name in names]
    assert len({json.dumps(suite.protocol() | {"suite": ""}, sort_keys=True) for suite in suites}) == 4
    assert [suite.horizon(0) for suite in suites] == [220, 512, 220, 220]


@pytest.mark.libero
@pytest.mark.parametrize("task_id", [10, -1, True])
def test_unknown_task_is_refused(spatial: LiberoSuite, task_id: int) -> None:
    with pytest.raises(EnvironmentRequestError, match="tasks 0 to 9"):
        spatial.make(task_id)


@pytest.mark.libero
def test_tasks_without_an_expert_say_so(spatial: LiberoSuite) -> None:
    with pytest.raises(EnvironmentRequestError, match=r"no scripted expert for libero_10 task 9 .*microwave"):
        LiberoSuite("libero_10").make_expert(9, seed=0)


def test_a_goal_says_who_fulfils_it_and_in_which_order() -> None:
    task = LiberoTask("libero_90", 3, "put_the_butter_in_the_drawer_and_close_it", "", "")
    drawer, butter = Thing("wooden_cabinet_1_top_region"), Thing("butter_1")
    goal = (Predicate("close", (drawer,)), Predicate("in", (butter, drawer)))
    assert list(parts_of(goal, task).items()) == [(1, SurfaceExpert), (0, ShutDrawerExpert)]
    mug, plate = Thing("porcelain_mug_1"), Thing("plate_1")
    assert parts_of((Predicate("on", (mug, plate)),), task) == {0: MugExpert}
    with pytest.raises(EnvironmentRequestError, match=r"libero_90 task 3 .*nobody here does \(close microwave_1\)"):
        parts_of((Predicate("close", (Thing("microwave_1"),)),), task)


def test_truncated_initial_states_are_named(tmp_path: Path) -> None:
    path = tmp_path / "task.pruned_init"
    np.zeros(3).dump(path)  # a pickle that is not torch's
    with pytest.raises(EnvironmentRequestError, match=r"task\.pruned_init cannot be read"):
        read_init_states(path)


@pytest.mark.libero
def test_truncated_official_file_is_named(spatial: LiberoSuite, tmp_path: Path) -> None:
    whole = load_tasks("libero_spatial", installation.find_installation())[0].init_states_file.read_bytes()
    path = tmp_path / "task.pruned_init"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EnvironmentRequestError, match="damaged"):
        read_init_states(path)


@pytest.mark.libero
def test_missing_assets_are_named(spatial: LiberoSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    with pytest.raises(EnvironmentRequestError, match=r"set LIBERO_ASSETS=FOLDER"):
        LiberoSuite("libero_spatial")
    for name in installation.ASSET_FOLDERS[:-1]:
        (tmp_path / "assets" / name).mkdir(parents=True)
    with pytest.raises(EnvironmentRequestError, match="incomplete: no turbosquid_objects"):
        LiberoSuite("libero_spatial")


@pytest.mark.libero
def test_the_assets_folder_itself_is_understood(spatial: LiberoSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = installation.find_installation().assets
    monkeypatch.setenv("LIBERO_ASSETS", str(assets))
    assert installation.find_installation().assets == assets


@pytest.mark.libero
def test_a_missing_mesh_is_named(spatial: LiberoSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All folders are there, one object's files are not."""
    source = Path(os.environ["LIBERO_ASSETS"]).absolute() / "assets"
    objects = tmp_path / "assets" / "stable_scanned_objects"
    objects.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name != objects.name:
            (tmp_path / "assets" / entry.name).symlink_to(entry)
    for entry in (source / objects.name).iterdir():
        if entry.name != "akita_black_bowl":
            (objects / entry.name).symlink_to(entry)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    try:
        with pytest.raises(EnvironmentRequestError, match="akita_black_bowl"):
            LiberoSuite("libero_spatial").make(0)
    finally:
        installation.import_libero(installation.find_installation())


@pytest.mark.libero
@pytest.mark.parametrize(
    ("distribution", "message"),
    [("hf-libero", "pip install --no-deps hf-libero==0.1.4"), ("mujoco", r"pip install mujoco==3\.3\.0")],
)
def test_a_missing_package_is_named(
    spatial: LiberoSuite, monkeypatch: pytest.MonkeyPatch, distribution: str, message: str
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == distribution:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    with pytest.raises(EnvironmentRequestError, match=message):
        LiberoSuite("libero_spatial")


@pytest.mark.libero
def test_another_mujoco_is_refused(spatial: LiberoSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.4.0" if name == "mujoco" else version(name))
    with pytest.raises(EnvironmentRequestError, match=r"needs mujoco 3\.3\.0, but 3\.4\.0"):
        LiberoSuite("libero_spatial")


def test_no_gl_context_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(width: int, height: int) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(gl, "_context_class", lambda: broken)
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    with pytest.raises(EnvironmentRequestError, match="apt-get install libegl1"):
        rendering.CameraRenderer(model, 32)


@pytest.mark.libero
def test_importing_asks_nothing_and_writes_nothing_to_the_home(spatial: LiberoSuite, tmp_path: Path) -> None:
    """In a fresh process with an empty home and closed standard input, as on a new machine."""
    program = (
        "import sys; from sim.libero.suite import LiberoSuite\n"
        "from sim.libero.installation import find_installation, import_libero\n"
        "LiberoSuite('libero_spatial')\n"
        "import_libero(find_installation())\n"
        "print(sorted({'torch', 'torchvision', 'robomimic'} & set(sys.modules)))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "LIBERO_CONFIG_PATH"}
    environment |= {"HOME": str(tmp_path), "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[3],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    assert "robosuite WARNING" not in result.stderr
    assert not (tmp_path / ".libero").exists()
    assert not list(tmp_path.rglob("*libero*"))


@pytest.mark.parametrize("disturbance", [-2e-3, 0.0, 2e-3])
def test_the_hand_makes_the_same_quarter_turn_from_wherever_it_stands(disturbance: float) -> None:
    """Official states have an arm disturbed by milliradians; a quarter turn the other way can end at a joint limit."""
    task = LiberoTask("libero_spatial", 0, "", "", "")
    expert = BowlExpert(task, seed=0)
    expert._rotation = turn_about_vertical(np.pi / 2 + disturbance)
    expert._turn_along(np.array([-1.0, 0.0, 0.0]))
    assert expert._rotation[0, 0] == pytest.approx(-1.0)
