"""Fine-tuning on datasets of robots that the base policy was not made for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim.embodiments import PANDA_EEF, Action, Camera, Embodiment, State
from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import small_policy
from vla.data.episode import Episode
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError
from vla.imitation.fine_tune import FineTuneConfig, fine_tune
from vla.imitation.samples import EpisodeSamples
from vla.policies import TinyPolicy, load_policy

JOINTS = ("shoulder", "elbow", "wrist", "gripper")
ARM = Embodiment(
    name="four_joints",
    cameras=(Camera("front", 24, 32), Camera("gripper_cam", 16, 16)),
    state=State(JOINTS),
    action=Action(JOINTS, "joint_position"),
    control_frequency=10,
)


def episode_of(robot: Embodiment, index: int, length: int = 6) -> Episode:
    """Random frames, and actions in the units of joint angles."""
    generator = np.random.default_rng([11, index])
    return dataclasses.replace(
        make_episode(index, length),
        embodiment=robot,
        actions=generator.uniform(-90, 90, (length, robot.action.size)).astype(np.float32),
        states=generator.uniform(-90, 90, (length, robot.state.size)).astype(np.float32),
        images={
            camera.name: generator.integers(0, 256, (length, camera.height, camera.width, 3), dtype=np.uint8)
            for camera in robot.cameras
        },
    )


def write(folder: Path, episodes: list[Episode]) -> Path:
    """A dataset of them."""
    writer = LeRobotWriter(folder, "fake", episodes[0].embodiment)
    for episode in episodes:
        writer.add_episode(episode)
    writer.finalize()
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the arm, and a base policy for the Panda."""
    folder = tmp_path_factory.mktemp("robots")
    write(folder / "arm", [episode_of(ARM, index) for index in range(3)])
    policy = small_policy()
    policy.set_normalisation(np.full(7, -0.9), np.full(7, 0.9), np.full(8, -1.0), np.full(8, 1.0))
    policy.save_pretrained(folder / "base")
    return folder


def config_of(workplace: Path, output: Path, **changes: Any) -> FineTuneConfig:
    values: dict[str, Any] = {
        "dataset": str(workplace / "arm"),
        "policy": str(workplace / "base"),
        "output": str(output),
        "steps": 4,
        "batch_size": 4,
        "warmup_steps": 1,
        "log_every": 1,
        "device": "cpu",
        "threads": 1,
    }
    return FineTuneConfig(**(values | changes))


def test_a_dataset_that_does_not_fit_is_one_error_with_both_sides_and_the_way_out(
    workplace: Path, tmp_path: Path
) -> None:
    with pytest.raises(ReflexError) as refused:
        fine_tune(config_of(workplace, tmp_path / "run"))
    for part in ("panda: image 16x16", "four_joints: front 24x32", "state of 4", "embodiment=dataset", "10 Hz"):
        assert part in str(refused.value), part


def test_embodiment_dataset_makes_the_policy_one_for_that_robot(workplace: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = config_of(workplace, tmp_path / "run", embodiment="dataset", chunk_horizon=3, execute_steps=2)
    summary = fine_tune(config, log=said.append)
    assert "fresh ones: action_head, action_queries, state_projector" in said[0] and "language_model" in said[0]
    policy = load_policy(summary["policy"])
    assert isinstance(policy, TinyPolicy)
    assert policy.spec.embodiment.describe() == ARM.with_image_size(16).describe()
    assert (policy.spec.chunk_horizon, policy.spec.execute_steps) == (3, 2)
    everything = np.concatenate([episode_of(ARM, index).actions for index in range(3)])
    np.testing.assert_allclose(policy.normalisation.action_q99, np.quantile(everything, 0.99, axis=0), rtol=1e-5)
    chunk = policy.select_action(
        {
            "observation.images.front": np.zeros((24, 32, 3), np.uint8),
            "observation.images.gripper_cam": np.zeros((16, 16, 3), np.uint8),
            "observation.state": np.zeros(4, np.float32),
            "task": "open the drawer",
        }
    )
    assert chunk.shape == (3, 4) and np.abs(chunk).max() > 2.0, "degrees, not shares of a largest step"
    again = fine_tune(dataclasses.replace(config, resume=True), log=said.append)
    assert again["policy"] == summary["policy"] and len(said) == 1, "a resumed run is not adapted again"


def test_scratch_is_a_policy_for_the_dataset_s_robot(workplace: Path, tmp_path: Path) -> None:
    summary = fine_tune(config_of(workplace, tmp_path / "run", policy="scratch", steps=1, batch_size=1))
    assert load_policy(summary["policy"]).spec.embodiment.camera_names == ("front", "gripper_cam")


def test_a_feature_map_is_applied_and_kept(workplace: Path, tmp_path: Path) -> None:
    """The same robot, whose cameras are called and whose state is ordered otherwise."""
    order = [7, 6, 5, 4, 3, 2, 1, 0]
    other = dataclasses.replace(
        PANDA_EEF,
        cameras=(Camera("b", 16, 16), Camera("a", 16, 16)),
        state=State(tuple(PANDA_EEF.state.names[place] for place in order)),
    )
    plain = [make_episode(index) for index in range(3)]
    turned = [
        dataclasses.replace(
            episode,
            embodiment=other,
            images={"b": episode.images["wrist_image"], "a": episode.images["image"]},
            states=episode.states[:, order],
        )
        for episode in plain
    ]
    dataset = write(tmp_path / "turned", turned)
    names = {"cameras": {"image": "a", "wrist_image": "b"}}
    with pytest.raises(ReflexError, match=r"feature_map\.cameras"):
        fine_tune(config_of(workplace, tmp_path / "run", dataset=str(dataset)))
    base = write(tmp_path / "plain", plain)
    policies = []
    for name, source, chosen in (("turned", dataset, names), ("plain", base, {})):
        summary = fine_tune(config_of(workplace, tmp_path / f"{name}_run", dataset=str(source), feature_map=chosen))
        policies.append(load_policy(summary["policy"]))
    assert policies[0].feature_map.camera("image") == "a"
    for (name, one), (_, two) in zip(policies[0].named_parameters(), policies[1].named_parameters(), strict=True):
        assert torch.equal(one, two), name


def test_actions_are_taken_in_the_policy_s_order() -> None:
    policy = small_policy()
    reverse = list(range(7))[::-1]
    other = dataclasses.replace(
        PANDA_EEF, action=dataclasses.replace(
            PANDA_EEF.action, names=tuple(PANDA_EEF.action.names[place] for place in reverse), gripper=0
        )
    )  # fmt: skip
    plain = make_episode(0)
    turned = dataclasses.replace(plain, embodiment=other, actions=plain.actions[:, reverse])
    rows = np.array([1, 4])
    np.testing.assert_array_equal(
        EpisodeSamples(policy, [turned]).batch(rows)[1], EpisodeSamples(policy, [plain]).batch(rows)[1]
    )


def test_actions_in_other_units_are_refused_before_a_step(workplace: Path, tmp_path: Path) -> None:
    zero_and_one = [
        dataclasses.replace(episode, actions=np.concatenate([episode.actions[:, :6], np.zeros((6, 1), "f4")], axis=1))
        for episode in (make_episode(0), make_episode(1))
    ]
    dataset = write(tmp_path / "units", zero_and_one)
    with pytest.raises(ReflexError, match="gripper"):
        fine_tune(config_of(workplace, tmp_path / "run", dataset=str(dataset)))
