"""Changing a setting of `vla collect` changes what it is about in the dataset, and nothing else is left as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from vla.data.episode import Episode
from vla.data.lerobot_reader import read_demonstrations
from vla.errors import ReflexError
from vla.rollout.behaviours import Mixture
from vla.rollout.collect import CollectConfig, collect

FACTORY = "tests.fake_suite:get_suite"
BASE: dict[str, Any] = {
    "suite": "fake",
    "policy": "expert",
    "behaviour": None,
    "mixture": Mixture(),
    "feature_map": {},
    "tasks": [2],
    "episodes_per_task": 2,
    "split": "train",
    "seed": 0,
    "image_size": 32,
    "pace": None,
    "action_noise": 0.0,
    "after_success": 0,
    "pixel_format": "yuv420p",
    "num_workers": 0,
}


def recorded(output: Path, **changes: Any) -> list[Episode]:
    return read_demonstrations(collect(CollectConfig(output=str(output), **(BASE | changes)), FACTORY))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    """What is recorded with `BASE`."""
    return recorded(tmp_path_factory.mktemp("collect") / "usual")


def test_every_setting_is_of_these_tests() -> None:
    assert {field.name for field in dataclasses.fields(CollectConfig)} == {*BASE, "output"}


def test_the_usual_episodes(usual: list[Episode]) -> None:
    assert [(one.task_id, one.init_state_id, one.split, one.policy_id) for one in usual] == [
        (2, 0, "train", "expert"),
        (2, 1, "train", "expert"),
    ]
    assert all(one.images["wrist_image"].shape[1:] == (32, 32, 3) and one.success for one in usual)


def test_tasks_and_how_many_of_each(tmp_path: Path) -> None:
    episodes = recorded(tmp_path / "demos", tasks=None, episodes_per_task=1)
    assert [one.task_id for one in episodes] == [0, 1, 2]


def test_the_suite_is_asked_for_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRequestError, match="unknown suite 'other'"):
        recorded(tmp_path / "demos", suite="other")


def test_the_feature_map_says_which_camera_a_policy_looks_through(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="no_such_camera"):
        recorded(tmp_path / "demos", policy="reflex-tiny", feature_map={"cameras": {"image": "no_such_camera"}})


def test_a_recording_goes_on_after_a_success(tmp_path: Path, usual: list[Episode]) -> None:
    longer = recorded(tmp_path / "demos", after_success=3)
    assert [one.length for one in longer] == [one.length + 3 for one in usual]
    with pytest.raises(ReflexError, match=r"after_success=3 needs policy=expert"):
        recorded(tmp_path / "random", after_success=3, policy="random")


def test_the_split_decides_where_episodes_start(tmp_path: Path, usual: list[Episode]) -> None:
    held_out = recorded(tmp_path / "demos", split="eval")
    assert {one.split for one in held_out} == {"eval"}
    assert not any(np.allclose(one.states[0], two.states[0]) for one, two in zip(usual, held_out, strict=True))


def test_the_image_size_is_that_of_the_frames(tmp_path: Path) -> None:
    assert recorded(tmp_path / "demos", image_size=48)[0].images["image"].shape[1:] == (48, 48, 3)


def test_the_seed_decides_the_noise_and_the_noise_where_the_arm_goes(tmp_path: Path, usual: list[Episode]) -> None:
    noisy = recorded(tmp_path / "noisy", action_noise=0.1)
    again = recorded(tmp_path / "again", action_noise=0.1)
    other = recorded(tmp_path / "other", action_noise=0.1, seed=1)
    for one, same, two, plain in zip(noisy, again, other, usual, strict=True):
        np.testing.assert_array_equal(one.states, same.states)
        assert one.seed == plain.seed != two.seed
        np.testing.assert_array_equal(one.states[0], two.states[0])  # where it starts is not random
        assert not np.allclose(one.states[1], two.states[1]) and not np.allclose(one.states[1], plain.states[1])


def test_the_pace_bounds_how_far_an_action_goes(tmp_path: Path, usual: list[Episode]) -> None:
    slow = recorded(tmp_path / "demos", pace=0.5)
    for one, plain in zip(slow, usual, strict=True):
        assert np.linalg.norm(one.actions[:, :3], axis=1).max() == pytest.approx(0.5, rel=1e-5)
        assert np.linalg.norm(plain.actions[:, :3], axis=1).max() > 0.9
        assert one.length > plain.length


def test_the_pixel_format_is_that_of_the_videos(tmp_path: Path) -> None:
    for pixel_format in ("yuv420p", "yuv444p"):
        recorded(tmp_path / pixel_format, episodes_per_task=1, pixel_format=pixel_format)
        text = (tmp_path / pixel_format / "meta" / "info.json").read_text(encoding="utf-8")
        assert pixel_format in text


def test_random_actions_are_drawn_from_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        recorded(tmp_path / name, policy="random", seed=seed) for name, seed in (("one", 3), ("same", 3), ("other", 4))
    )
    np.testing.assert_array_equal(one[0].actions, same[0].actions)
    assert not np.allclose(one[0].actions[0], other[0].actions[0])
    assert not np.allclose(one[0].actions[0], one[1].actions[0])
    assert {episode.policy_id for episode in one} == {"random"}


def test_the_behaviour_decides_who_acts_and_the_mixture_how_often(tmp_path: Path) -> None:
    (one, two), mixed = (
        recorded(tmp_path / "medium", behaviour="medium"),
        recorded(tmp_path / "mixed", behaviour="mixed", mixture=Mixture(0.0, 0.5, 0.5)),
    )
    assert one.policy_id.startswith("medium_") and two.policy_id.startswith("medium_")
    assert sorted(episode.policy_id.partition("_")[0] for episode in mixed) == ["expert", "medium"]


def test_worker_processes_record_the_same(tmp_path: Path, usual: list[Episode]) -> None:
    for one, two in zip(usual, recorded(tmp_path / "demos", num_workers=2), strict=True):
        np.testing.assert_array_equal(one.actions, two.actions)
        for camera in ("image", "wrist_image"):
            np.testing.assert_array_equal(one.images[camera], two.images[camera])
