"""Fine-tuning from a dataset on disk, killed and resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import small_policy
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError
from vla.imitation.fine_tune import FineTuneConfig, fine_tune
from vla.policies import PrismaticPolicy, load_policy
from vla.run.run_folder import RunFolder, comparable_metrics


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four episodes and a base policy."""
    folder = tmp_path_factory.mktemp("sft")
    writer = LeRobotWriter(folder / "dataset", suite="fake", image_size=16)
    for index in range(4):
        writer.add_episode(make_episode(index))
    writer.finalize()
    policy = small_policy()
    policy.set_normalisation(np.full(7, -0.9), np.full(7, 0.9), np.full(8, -1.0), np.full(8, 1.0))
    policy.save_pretrained(folder / "base")
    return folder


def make_config(workplace: Path, output: Path, **overrides: Any) -> FineTuneConfig:
    values: dict[str, Any] = {
        "dataset": str(workplace / "dataset"),
        "policy": str(workplace / "base"),
        "output": str(output),
        "steps": 8,
        "batch_size": 4,
        "warmup_steps": 2,
        "checkpoint_every": 3,
        "log_every": 1,
        "evaluate_every": 4,
        "device": "cpu",
    }
    return FineTuneConfig(**(values | overrides))


def probe(policy: PrismaticPolicy, step: int) -> dict[str, float]:
    """Stands for an evaluation: a number that depends on every weight of the head."""
    return {"eval/success_rate": float(policy.action_head.weight.detach().abs().mean())}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("weighting", ["none", "progress"])
def test_killed_and_resumed_equals_uninterrupted(workplace: Path, tmp_path: Path, weighting: str) -> None:
    whole = fine_tune(make_config(workplace, tmp_path / "whole", weighting=weighting), probe)

    def die_at_eight(policy: PrismaticPolicy, step: int) -> dict[str, float]:
        if step == 8:
            raise Killed
        return probe(policy, step)

    with pytest.raises(Killed):  # after step 8 was logged, with the last checkpoint at 6
        fine_tune(make_config(workplace, tmp_path / "cut", weighting=weighting), die_at_eight)
    resumed = fine_tune(make_config(workplace, tmp_path / "cut", weighting=weighting, resume=True), probe)

    assert {**resumed, "policy": ""} == {**whole, "policy": ""}
    lines = [comparable_metrics(RunFolder(tmp_path / name, resume=True).read_metrics()) for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    first, second = load_policy(whole["policy"]), load_policy(resumed["policy"])
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_ctrl_c_leaves_a_checkpoint_of_the_last_step(workplace: Path, tmp_path: Path) -> None:
    def interrupt(policy: PrismaticPolicy, step: int) -> dict[str, float]:
        raise KeyboardInterrupt

    config = make_config(workplace, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(config, interrupt)
    last = RunFolder(tmp_path / "run", resume=True).last_checkpoint()
    assert last is not None and last[0] == 4
    fine_tune(dataclasses.replace(config, resume=True), probe)
    lines = RunFolder(tmp_path / "run", resume=True).read_metrics()
    assert [line["step"] for line in lines if "eval/success_rate" in line] == [4, 8]


def test_result_learns_keeps_the_action_space_and_takes_its_name(workplace: Path, tmp_path: Path) -> None:
    config = make_config(workplace, tmp_path / "run", steps=30, evaluate_every=0, policy_id="tuned", learning_rate=5e-3)
    summary = fine_tune(config)
    lines = RunFolder(tmp_path / "run", resume=True).read_metrics()
    assert lines[-1]["train/loss"] < 0.8 * lines[0]["train/loss"]
    assert summary["episodes"] == 4 and summary["samples"] == 24
    policy = load_policy(tmp_path / "run")
    assert policy.policy_id == "tuned"
    assert policy.normalisation.action_q01.tolist() == pytest.approx([-0.9] * 7)


def test_dataset_normalisation_and_selection(workplace: Path, tmp_path: Path) -> None:
    config = make_config(
        workplace, tmp_path / "run", steps=1, evaluate_every=0, normalisation="dataset", tasks=[1], episodes_per_task=1
    )
    summary = fine_tune(config)
    assert summary["episodes"] == 1 and summary["samples"] == 6
    actions = make_episode(1).actions
    expected = np.quantile(actions, 0.01, axis=0)
    np.testing.assert_allclose(load_policy(tmp_path / "run").normalisation.action_q01, expected, atol=1e-5)


def test_a_run_takes_the_threads_it_is_given_and_says_how_many(workplace: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            config = make_config(workplace, tmp_path / str(threads), steps=1, evaluate_every=0, threads=threads)
            assert fine_tune(config)["threads"] == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_other_settings_cannot_continue_a_run(workplace: Path, tmp_path: Path) -> None:
    fine_tune(make_config(workplace, tmp_path / "run", steps=1, evaluate_every=0))
    with pytest.raises(ReflexError, match="other settings \\(learning_rate\\)"):
        fine_tune(make_config(workplace, tmp_path / "run", steps=1, evaluate_every=0, learning_rate=1e-5, resume=True))
    with pytest.raises(ReflexError, match="already holds a run"):
        fine_tune(make_config(workplace, tmp_path / "run"))


def test_missing_base_policy_and_bad_settings_are_named(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="no policy 'nowhere'"):
        fine_tune(make_config(workplace, tmp_path / "run", policy="nowhere"))
    with pytest.raises(ReflexError, match="weighting is 'best'; it must be one of none, success, progress"):
        make_config(workplace, tmp_path, weighting="best")
    with pytest.raises(ReflexError, match="weighting_temperature is 0"):
        make_config(workplace, tmp_path, weighting="progress", weighting_temperature=0)
    with pytest.raises(ReflexError, match="normalisation"):
        make_config(workplace, tmp_path, normalisation="guess")
    with pytest.raises(ReflexError, match="log_every"):
        make_config(workplace, tmp_path, log_every=0)
    with pytest.raises(ReflexError, match="threads is 0"):
        make_config(workplace, tmp_path, threads=0)
