"""A suite of a user's own, named by its import path, through every command that takes a suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla.cli import main
from vla.data.lerobot_reader import LeRobotDataset
from vla.policies import load_policy

SUITE = """
from tests.fake_suite import FakeExpert, FakeSuite


class Mine(FakeSuite):
    def __init__(self, image_size=None):
        super().__init__("mine", image_size or 64)


class Clumsy(Mine):
    def make_expert(self, task_id, seed):
        return Stuck()


class Stuck(FakeExpert):
    def act(self, environment):
        raise ZeroDivisionError("no way out")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"table_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SUITE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_recorded_learnt_improved_and_evaluated(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = f"suite={module}:Mine"
    assert main(["collect", suite, "tasks=0", "episodes_per_task=2", "num_workers=2", f"output={tmp_path}/ds"]) == 0
    assert LeRobotDataset(tmp_path / "ds").episode(0).suite == "mine"
    assert main(
        ["sft", f"dataset={tmp_path}/ds", "steps=1", "batch_size=2", f"output={tmp_path}/sft", "evaluate_every=1",
         "embodiment=dataset",  # its gripper never moves, which is refused as the Panda's

         f"evaluation_suite={module}:Mine", "evaluation_episodes_per_task=1", "num_workers=1"]
    ) == 0  # fmt: skip
    assert main(
        ["train", suite, "algo=grpo", "tasks=0", f"policy={tmp_path}/sft", "iterations=1", "algo.group_size=2",
         "algo.groups_per_iteration=1", "algo.max_sampling_rounds=1", "num_workers=1", "evaluate_every=0",
         "videos_per_task=0", f"output={tmp_path}/rl"]
    ) == 0  # fmt: skip
    for policy, output in ((f"{tmp_path}/rl", "eval"), ("expert", "expert")):
        assert main(
            ["eval", suite, f"policy={policy}", "tasks=0", "episodes_per_task=1", "num_workers=1", "videos_per_task=0",
             f"output={tmp_path}/{output}"]
        ) == 0  # fmt: skip
    records = [json.loads(line) for line in (tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()]
    assert [(record["suite"], record["task_id"]) for record in records] == [("mine", 0)]
    # What was trained is called by its run, not by what it came from.
    assert [record["policy_id"] for record in records] == ["rl"]
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["policy"] == "rl"
    assert load_policy(tmp_path / "sft").policy_id == "sft"
    assert json.loads((tmp_path / "expert" / "summary.json").read_text())["success_rate"] == 1.0
    capsys.readouterr()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_exception_of_its_own_is_one_line_with_the_file(
    module: str, tmp_path: Path, num_workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = SUITE.splitlines().index('        raise ZeroDivisionError("no way out")') + 1
    arguments = ["collect", f"suite={module}:Clumsy", "tasks=0", f"num_workers={num_workers}", f"output={tmp_path}/ds"]
    assert main(arguments) == 1
    place = f"{tmp_path / module}.py, line {line}"
    assert capsys.readouterr().err == f"vla: ZeroDivisionError: no way out, in {place} (the whole traceback: --debug)\n"
    with pytest.raises(ZeroDivisionError):
        main([*arguments, "--debug"])
    assert not (tmp_path / "ds.partial").exists()
