"""The scripts of `examples/` run, and do what their pages say."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from examples import own_picture_policy, own_policy, run_an_episode
from examples.fine_tune_on_a_dataset import main as fine_tune_on_a_dataset
from examples.own_environment import CentreSuite
from sim.suites import get_suite
from vla.check.policy import check_policy
from vla.check.suite import check_suite
from vla.policies import load_policy
from vla.rollout.collect import CollectConfig, collect


def test_an_episode_is_run_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_an_episode.main(str(tmp_path / "episode.png"))
    assert "pick up the red cube: done" in capsys.readouterr().out
    width, height = Image.open(tmp_path / "episode.png").size
    assert height == 64 and width % 64 == 0 and width > 64


def test_an_environment_of_one_s_own_keeps_the_contract() -> None:
    found = get_suite("examples.own_environment:CentreSuite")
    assert isinstance(found, CentreSuite)
    assert [finding for finding in check_suite(found, [0]) if finding.problem] == []


@pytest.mark.parametrize("example", [own_policy, own_picture_policy])
def test_a_policy_of_one_s_own_keeps_the_contract(example: ModuleType, tmp_path: Path) -> None:
    example.main(str(tmp_path / "own"))
    policy = load_policy(tmp_path / "own")
    assert type(policy).__module__ == example.__name__
    assert [finding for finding in check_policy(policy, get_suite("tabletop")) if finding.problem] == []


def test_keypoints_are_where_a_map_is_largest() -> None:
    maps = torch.full((1, 2, 3, 5), -100.0)
    maps[0, 0, 2, 1] = maps[0, 1, 1, 4] = 100.0  # rows are -1, 0, 1 and columns -1, -0.5, 0, 0.5, 1
    torch.testing.assert_close(own_picture_policy.keypoints(maps), torch.tensor([[1.0, 0.0, -0.5, 1.0]]))


def test_fine_tuning_on_a_dataset_of_another_robot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = "examples.own_environment:CentreSuite"
    collect(CollectConfig(suite=suite, episodes_per_task=2, num_workers=0, output=str(tmp_path / "demos")))
    shape = fine_tune_on_a_dataset(str(tmp_path / "demos"), steps=2, output=str(tmp_path / "run"))
    assert shape == (8, 2)
    assert "point: top 32x32; state of 2; action of 2 (velocity); 10 Hz" in capsys.readouterr().out


def test_stable_baselines3_trains() -> None:
    pytest.importorskip("stable_baselines3")
    from examples.train_with_stable_baselines3 import main

    assert main(32) == 32
