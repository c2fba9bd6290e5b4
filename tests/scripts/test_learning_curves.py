"""The script that compares algorithms over seeds: what it keeps of an earlier study, and what it says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def curve(episodes: list[float], success: list[float]) -> dict[str, list[float]]:
    return {"episodes": episodes, "success": success}


def earlier_study(folder: Path) -> None:
    arms = {
        "grpo": {
            "settings": ["algo=grpo"],
            "curves": {"0": curve([0, 1000, 2000], [0.2, 0.6, 0.8]), "1": curve([0, 2000], [0.2, 0.6])},
        },
        "rloo": {
            "settings": ["algo=grpo", "algo.advantage=rloo"],
            "curves": {"0": curve([0, 1000], [0.2, 0.7])},
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "curves.json").write_text(json.dumps({"arms": arms}), encoding="utf-8")


def script(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.learning_curves", str(folder), "--policy", "none", "--target", "0.7"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def summary(folder: Path) -> Any:
    return json.loads((folder / "curves.json").read_text(encoding="utf-8"))


def test_a_study_goes_on_from_its_curves_alone(tmp_path: Path) -> None:
    earlier_study(tmp_path)
    done = script(tmp_path, "--arms", "grpo", "--seeds", "2")  # both are known: nothing is run
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path)
    assert found["arms"]["grpo"]["curves"]["1"] == curve([0, 2000], [0.2, 0.6])
    assert found["arms"]["rloo"]["curves"]["0"] == curve([0, 1000], [0.2, 0.7])  # not asked for, and not lost
    assert (tmp_path / "curves.svg").exists()


def test_equal_episodes_are_those_that_every_run_has(tmp_path: Path) -> None:
    earlier_study(tmp_path)
    printed = script(tmp_path, "--arms", "grpo", "rloo", "--finished").stdout
    assert "at 1000 episodes" in printed
    assert "60.0, 40.0" in printed
    found = summary(tmp_path)
    assert found["equal_episodes"] == 1000
    assert found["arms"]["grpo"]["at_equal_episodes"] == pytest.approx({"0": 0.6, "1": 0.4})
    assert found["arms"]["rloo"]["at_equal_episodes"] == pytest.approx({"0": 0.7})
    # 70 %: half-way between 1,000 and 2,000 episodes, and at 1,000
    assert found["arms"]["rloo"]["ratio_to_grpo"] == pytest.approx([1000 / 1500])


def test_a_seed_that_never_arrives_is_a_bound_and_not_left_out(tmp_path: Path) -> None:
    """At 70 %: `grpo` needs 1,500 episodes with seed 0 and more than 2,000 with seed 1; `rloo` 1,000 with both."""
    earlier_study(tmp_path)
    path = tmp_path / "curves.json"
    study = json.loads(path.read_text(encoding="utf-8"))
    study["arms"]["rloo"]["curves"]["1"] = curve([0, 1000], [0.2, 0.7])
    path.write_text(json.dumps(study), encoding="utf-8")
    printed = " ".join(script(tmp_path, "--arms", "grpo", "rloo", "--finished").stdout.split())
    arms = summary(tmp_path)["arms"]
    assert arms["rloo"]["ratio_to_grpo"] == [pytest.approx(1000 / 1500), {"at_most": 0.5}]
    assert arms["rloo"]["ratio_mean"] == {"at_most": pytest.approx((1000 / 1500 * 0.5) ** 0.5)}
    assert arms["grpo"]["ratio_to_grpo"] == [1.0, None]
    assert arms["grpo"]["ratio_mean"] is None
    assert arms["grpo"]["episodes_to_target"] == {"0": pytest.approx(1500), "1": None}
    assert "0.67, <= 0.50 (mean <= 0.58)" in printed
    assert "1.00, not reached (mean not reached)" in printed


def test_the_same_curves_are_drawn_as_the_same_file(tmp_path: Path) -> None:
    earlier_study(tmp_path)
    pictures = []
    for _ in range(2):
        script(tmp_path, "--arms", "grpo", "--finished")
        pictures.append((tmp_path / "curves.svg").read_text(encoding="utf-8"))
    assert pictures[0] == pictures[1]
    assert "grpo (2 seeds)" in pictures[0]


def test_what_a_run_says_when_it_fails_is_shown_and_the_study_kept(tmp_path: Path) -> None:
    earlier_study(tmp_path)
    failed = script(tmp_path, "--arms", "grpo", "pacs", "--seeds", "1", "--iterations", "1", "--", "suite=nothing")
    assert failed.returncode != 0
    assert "nothing" in failed.stderr + failed.stdout
    assert summary(tmp_path)["arms"]["grpo"]["curves"]["0"]["success"] == [0.2, 0.6, 0.8]


def test_more_runs_at_once_than_cores_are_refused(tmp_path: Path) -> None:
    earlier_study(tmp_path)
    refused = script(tmp_path, "--arms", "pacs", "--at-once", "100000")
    assert refused.returncode != 0
    assert "--at-once must be between 1 and" in refused.stderr


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    earlier_study(tmp_path)
    path = tmp_path / "curves.json"
    path.write_text(path.read_text(encoding="utf-8").replace("algo.advantage=rloo", "algo.advantage=raft"))
    refused = script(tmp_path, "--arms", "rloo", "--finished")
    assert refused.returncode != 0
    assert "rloo" in refused.stderr
    assert "use another OUTPUT" in refused.stderr
