"""LIBERO's own demonstration files, written here as its recorder writes them, become episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from sim.libero.environment import LiberoEnvironment
from sim.libero.suite import LiberoSuite
from tests.sim.libero.conftest import spatial  # noqa: F401 - a fixture
from tests.vla.data.point_suite import PointSuite
from vla.data.lerobot_reader import LeRobotDataset
from vla.data.libero_hdf5 import (
    demonstration_names,
    fixture_poses,
    read_demonstration,
    task_name,
    without_idle_steps,
)
from vla.errors import ReflexError
from vla.rollout.libero_import import ImportConfig, as_recorded, import_demonstrations

h5py: Any = pytest.importorskip("h5py")

SCENE = """
<mujoco><worldbody>
  <body name="cabinet" pos="0.5 -0.25 1"><body name="drawer"/></body>
  <body name="stove" pos="0 1 2" quat="0 0 0 2"/>
</worldbody></mujoco>
"""


def small_file(path: Path, **changes: Any) -> Path:
    """Three steps of a scene that exists nowhere; `changes` replace fields, None leaves one out."""
    rows = np.arange(3)
    picture = np.zeros((3, 4, 4, 3), np.uint8)
    picture[:, 0, 0] = 10 + rows[:, None]  # OpenGL's first pixel: bottom left
    fields: dict[str, Any] = {
        "actions": np.full((3, 7), 0.5) + rows[:, None],
        "states": np.zeros((3, 5)) + rows[:, None],
        "obs/agentview_rgb": picture,
        "obs/eye_in_hand_rgb": picture + 100,
        "obs/ee_states": np.full((3, 6), 0.1),
        "obs/gripper_states": np.full((3, 2), 0.04),
    }
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["macros_image_convention"] = changes.pop("convention", "opengl")
        for name in changes.pop("names", ["demo_0"]):
            group = data.create_group(name)
            group.attrs["model_file"] = SCENE
            for field, values in {**fields, **changes}.items():
                if values is not None:
                    group.create_dataset(field, data=values)
    return path


def test_pictures_are_turned_and_an_action_gets_what_was_seen_before_it(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a_task_demo.hdf5")
    recorded = read_demonstration(path, "demo_0")
    assert recorded.images[:, 3, 3, 0].tolist() == [10, 11, 12], "both axes are flipped"
    assert recorded.images.sum() == 3 * (10 + 11 + 12)
    episode = as_recorded(recorded, PointSuite(None), 1)
    assert episode.length == 2
    # What was seen after action 0 (a 10) is what action 1 was chosen from.
    assert episode.images["image"][:, 3, 3, 0].tolist() == [10, 11]
    assert episode.images["wrist_image"][:, 3, 3, 0].tolist() == [110, 111]
    assert episode.actions[:, 0].tolist() == [1.0, 1.0], "1.5 and 2.5, clipped"
    np.testing.assert_allclose(episode.states[0], [0.1] * 6 + [0.04] * 2, rtol=1e-6)
    assert episode.rewards.tolist() == [0.0, 1.0]


def test_pictures_that_are_stored_top_row_first_are_only_mirrored(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a_task_demo.hdf5", convention="opencv")
    assert read_demonstration(path, "demo_0").images[:, 0, 3, 0].tolist() == [10, 11, 12]


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a_task_demo.hdf5", names=["demo_10", "demo_2", "demo_0"])
    assert demonstration_names(path) == ["demo_0", "demo_2", "demo_10"]
    assert task_name(path) == "a_task"


def test_fixtures_are_found_where_the_scene_has_them() -> None:
    poses = fixture_poses(SCENE, ["stove", "cabinet", "drawer"])
    np.testing.assert_array_equal(poses[0], [0, 1, 2, 0, 0, 0, 1])
    np.testing.assert_array_equal(poses[1], [0.5, -0.25, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(poses[2], [0, 0, 0, 1, 0, 0, 0])
    with pytest.raises(ReflexError, match="no body 'microwave'"):
        fixture_poses(SCENE, ["microwave"])
    with pytest.raises(ReflexError, match="cannot be read"):
        fixture_poses("<mujoco>", [])


def test_steps_that_move_nothing_are_left_out() -> None:
    still, moving = [0.0] * 6, [0.0, 0.2, 0.0, 0.0, 0.0, 0.0]
    actions = np.array(
        [
            [*still, -1.0],  # before anything moved: left out
            [*moving, -1.0],
            [*still, -1.0],  # the gripper as before: left out
            [*still, 1.0],  # closes
            [*still, 1.0],  # goes on closing, commands nothing new: left out
            [*still, -1.0],  # opens
        ],
        dtype=np.float32,
    )
    np.testing.assert_array_equal(without_idle_steps(actions), actions[[1, 3, 5]])
    assert without_idle_steps(actions[:1]).shape == (0, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.full((3, 7), np.nan)}, "a value in the actions of demo_0 that is not finite"),
        ({"actions": np.zeros((3, 6))}, r"actions of shape \(3, 6\) in demo_0 where \(3, 7\) is needed"),
        ({"obs/agentview_rgb": np.zeros((2, 4, 4, 3), np.uint8)}, r"images of shape \(2, 4, 4, 3\)"),
        ({"obs/ee_states": None}, "damaged or not a LIBERO demonstration file"),
        ({"states": None}, "damaged or not a LIBERO demonstration file"),
        ({"convention": "sideways"}, "unknown convention 'sideways'"),
        ({"actions": np.zeros((1, 7))}, "1 actions in demo_0"),
    ],
)
def test_a_file_that_does_not_fit_is_one_message(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = small_file(tmp_path / "a_task_demo.hdf5", **changes)
    with pytest.raises(ReflexError, match=message) as caught:
        read_demonstration(path, "demo_0")
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_one_message(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a_task_demo.hdf5")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ReflexError, match="damaged or not a LIBERO demonstration file"):
        demonstration_names(path)
    with pytest.raises(ReflexError, match="no file"):
        demonstration_names(tmp_path / "gone_demo.hdf5")


def record(suite: LiberoSuite, folder: Path, task_id: int, states: list[int]) -> Path:
    """An expert's episodes as LIBERO's recorder stores them, from training states."""
    environment = suite.make(task_id)
    assert isinstance(environment, LiberoEnvironment)
    path = folder / f"{suite.task_name(task_id)}_demo.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["macros_image_convention"] = "opengl"
        for number, state in enumerate(states):
            environment.reset_to("train", state)
            expert = suite.make_expert(task_id, seed=0)
            expert.reset(environment)
            columns: dict[str, list[Any]] = {}
            done = False
            while not done:
                action = expert.act(environment)
                columns.setdefault("states", []).append(environment.scene.flattened_state())
                columns.setdefault("actions", []).append(np.asarray(action, np.float64))
                done = environment.advance(action).done
                seen = environment.render_observation()
                columns.setdefault("obs/agentview_rgb", []).append(seen["images"]["image"][::-1, ::-1])
                columns.setdefault("obs/eye_in_hand_rgb", []).append(seen["images"]["wrist_image"][::-1, ::-1])
                columns.setdefault("obs/ee_states", []).append(seen["state"][:6].astype(np.float64))
                columns.setdefault("obs/gripper_states", []).append(seen["state"][6:].astype(np.float64))
            group = data.create_group(f"demo_{number}")
            group.attrs["model_file"] = scene_xml(environment)
            for name, rows in columns.items():
                group.create_dataset(name, data=np.stack(rows))
    environment.close()
    return path


def scene_xml(environment: LiberoEnvironment) -> str:
    """What of a recorded scene is read: where its fixtures were."""
    bodies = []
    poses = environment.scene.fixture_poses()
    for body, pose in zip(environment.scene.definition.fixture_bodies, poses, strict=True):
        name = mujoco.mj_id2name(environment.scene.model, mujoco.mjtObj.mjOBJ_BODY, body)
        position, quaternion = (" ".join(f"{value:.6g}" for value in part) for part in (pose[:3], pose[3:]))
        bodies.append(f'<body name="{name}" pos="{position}" quat="{quaternion}"/>')
    return f"<mujoco><worldbody>{''.join(bodies)}</worldbody></mujoco>"


@pytest.mark.libero
def test_demonstrations_are_played_again_or_taken_as_recorded(spatial: LiberoSuite, tmp_path: Path) -> None:  # noqa: F811
    suite = LiberoSuite("libero_spatial_fast_plain", image_size=64)
    path = record(suite, tmp_path, task_id=0, states=[0, 1])
    with h5py.File(path, "a") as file:  # one that reaches nothing when it is played again
        file["data"].copy("demo_0", "demo_2")
        file["data/demo_2/actions"][:, :6] *= -1.0
    replayed = ImportConfig(str(tmp_path), suite.name, str(tmp_path / "replayed"), image_size=64, num_workers=1)
    dataset = LeRobotDataset(import_demonstrations(replayed))
    assert dataset.num_episodes == 2
    recorded = ImportConfig(
        str(path), suite.name, str(tmp_path / "recorded"), pictures="recorded", episodes_per_task=2, num_workers=1
    )
    other = LeRobotDataset(import_demonstrations(recorded))
    assert other.num_episodes == 2
    for index in range(2):
        first, second = dataset.episode(index), other.episode(index)
        assert first.success and first.task_id == 0 and first.policy_id == "demonstration"
        assert first.instruction == suite.instruction(0)
        assert first.progress[-1] == 1.0
        # The same scene: arm and pictures differ by the ten steps of settling, not by where things are.
        np.testing.assert_allclose(first.states[0, :3], second.states[0, :3], atol=0.02)
        assert np.abs(first.images["image"][0].astype(int) - second.images["image"][0].astype(int)).mean() < 3.0
    wrong = ImportConfig(str(path), "libero_goal", str(tmp_path / "wrong"))
    with pytest.raises(ReflexError, match="demonstrates no task of libero_goal"):
        import_demonstrations(wrong)
    with pytest.raises(ReflexError, match="no demonstration of task 3 of"):
        import_demonstrations(ImportConfig(str(path), suite.name, str(tmp_path / "wrong"), tasks=[0, 3]))
    assert not (tmp_path / "wrong").exists()
