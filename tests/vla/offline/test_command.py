"""`vla offline`: a run folder that resumes exactly, evaluation in a suite, and settings that are refused by name."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vla.data.samples import make_episode, write_dataset
from vla.errors import ReflexError
from vla.offline.command import OfflineConfig, train_from_logs
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.model_based.training import ReplayAndImagined
from vla.policies.gaussian import GaussianPolicy
from vla.policies.registry import load_policy
from vla.run.run_folder import RunFolder, comparable_metrics


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six episodes, every second of which failed."""
    episodes = [make_episode(seed, length=6, success=seed % 2 == 0) for seed in range(6)]
    return str(write_dataset(tmp_path_factory.mktemp("written") / "demos", episodes))


def config(dataset: str, output: Path, **changes: Any) -> OfflineConfig:
    """Of twelve small updates."""
    given: dict[str, Any] = {
        "updates": 12, "batch_size": 8, "hidden": [8, 8], "log_every": 3, "checkpoint_every": 6, "threads": 1,
        "device": "cpu", "precision": "float32",
    }  # fmt: skip
    return OfflineConfig(dataset=dataset, output=str(output), **(given | changes))


def test_a_run_leaves_a_policy_and_a_summary(dataset: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def evaluate(policy: GaussianPolicy) -> dict[str, float]:
        seen.append(len(seen))
        return {"eval/success_rate": 0.1 * len(seen), "eval/episodes": 5.0}

    run = tmp_path / "run"
    wanted = config(dataset, run, suite="tabletop", evaluate_every=6, episode_weighting="success")
    summary = train_from_logs(wanted, on_evaluate=evaluate)
    assert summary == json.loads((run / "summary.json").read_text())
    assert (summary["episodes"], summary["successful_episodes"], summary["transitions"]) == (6, 3, 3 * 6 + 3 * 5)
    assert summary["success_rate"] == pytest.approx(0.2) and summary["eval_episodes"] == 5
    assert summary["weighting"] == "success"
    policy = load_policy(run)
    assert policy.policy_id == "run"
    assert load_policy(summary["policy"]).spec == policy.spec
    steps = [line["step"] for line in RunFolder(run, resume=True).read_metrics()]
    assert steps == [3, 6, 6, 9, 12, 12]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(dataset: str, tmp_path: Path) -> None:
    train_from_logs(config(dataset, tmp_path / "whole"))
    stopped = config(dataset, tmp_path / "stopped", suite="tabletop", evaluate_every=8)

    def interrupt(policy: GaussianPolicy) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from_logs(stopped, on_evaluate=interrupt)
    assert not (tmp_path / "stopped" / "summary.json").exists()
    again = config(dataset, tmp_path / "stopped", suite="tabletop", evaluate_every=8, resume=True)
    train_from_logs(again, on_evaluate=lambda policy: {"eval/success_rate": 0.0})
    lines = {}
    for name in ("whole", "stopped"):
        with RunFolder(tmp_path / name, resume=True) as run:
            lines[name] = [line for line in comparable_metrics(run.read_metrics()) if "train/loss/policy" in line]
    assert lines["whole"] == lines["stopped"]
    first, second = (load_policy(tmp_path / name).state_dict() for name in ("whole", "stopped"))  # type: ignore[attr-defined]
    for name, value in first.items():
        np.testing.assert_array_equal(value.numpy(), second[name].numpy())


def test_a_resumed_run_keeps_its_settings(dataset: str, tmp_path: Path) -> None:
    train_from_logs(config(dataset, tmp_path / "run"))
    with pytest.raises(ReflexError, match=r"started with other settings \(batch_size\)"):
        train_from_logs(config(dataset, tmp_path / "run", batch_size=9, resume=True))


def test_a_policy_plays_in_a_suite_without_being_shown_pictures(dataset: str, tmp_path: Path) -> None:
    wanted = config(
        dataset, tmp_path / "run", suite="tests.vla.data.point_suite:PointSuite", evaluation_tasks=[0],
        evaluation_episodes_per_task=2, num_workers=0, updates=3,
    )  # fmt: skip
    summary = train_from_logs(wanted)
    assert 0 <= summary["success_rate"] <= 1 and summary["eval_episodes"] == 2


def _imagine_and_die(settings: OfflineConfig) -> None:
    """Run in a process that ends once it has imagined, and before it has learnt anything, as by a kill."""
    ReplayAndImagined.__init__ = lambda *_: os._exit(9)  # type: ignore[method-assign]
    train_from_logs(settings)


def test_a_run_that_fails_after_it_imagined_can_be_corrected_or_resumed(dataset: str, tmp_path: Path) -> None:
    imagine = ImagineSettings(share=0.5, members=3, hidden=[4], updates=5, rollouts=10, horizon=2)
    run = tmp_path / "run"
    with pytest.raises(ReflexError, match="do not fit"):
        train_from_logs(config(dataset, run, suite="so101", imagine=imagine))
    assert not run.exists()

    process = multiprocessing.get_context("fork").Process(
        target=_imagine_and_die, args=(config(dataset, run, imagine=imagine),)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    kept = (run / "imagined" / "imagined.safetensors").read_bytes()
    other = replace(imagine, rollouts=11)
    with pytest.raises(ReflexError, match=r"started with other settings \(imagine\)"):
        train_from_logs(config(dataset, run, imagine=other, resume=True))
    train_from_logs(config(dataset, run, imagine=imagine, resume=True))
    assert (run / "imagined" / "imagined.safetensors").read_bytes() == kept


def test_controls_stand_beside_the_result_and_are_trained_once(dataset: str, tmp_path: Path) -> None:
    judged: list[GaussianPolicy] = []

    def evaluate(policy: GaussianPolicy) -> dict[str, float]:
        judged.append(policy)
        return {"eval/success_rate": 0.1 * len(judged), "eval/episodes": 5.0}

    run = tmp_path / "run"
    first = train_from_logs(config(dataset, run, suite="tabletop", controls=["zero", "bc_10"]), on_evaluate=evaluate)
    assert first["controls"] == pytest.approx({"zero": 0.2, "bc_10": 0.3}) and first["success_rate"] == pytest.approx(
        0.1
    )
    more = config(dataset, run, suite="tabletop", controls=["zero", "true"], true_reward="next.progress", resume=True)
    again = train_from_logs(more, on_evaluate=evaluate)
    assert again["controls"] == pytest.approx({"zero": 0.2, "bc_10": 0.3, "true": 0.4})
    assert json.loads((run / "controls.json").read_text())["true"]["eval/episodes"] == 5
    weights = [policy.state_dict() for policy in judged]
    assert len(weights) == 4 and any((weights[0][name] != weights[1][name]).any() for name in weights[0])


def test_imagined_rollouts_are_kept_and_compared_with_replay(dataset: str, tmp_path: Path) -> None:
    imagine = ImagineSettings(share=0.5, members=3, hidden=[4], updates=5, rollouts=10, horizon=2)
    judged: list[GaussianPolicy] = []

    def evaluate(policy: GaussianPolicy) -> dict[str, float]:
        judged.append(policy)
        return {"eval/success_rate": 0.1 * len(judged), "eval/episodes": 5.0}

    run = tmp_path / "run"
    wanted = config(dataset, run, suite="tabletop", imagine=imagine, controls=["replay"])
    assert train_from_logs(wanted, on_evaluate=evaluate)["controls"] == pytest.approx({"replay": 0.2})
    report = json.loads((run / "imagined" / "report.json").read_text())
    assert report["kept"] == 1.0 and report["change_error"] > 0
    train_from_logs(config(dataset, tmp_path / "plain", suite="tabletop"), on_evaluate=evaluate)
    imagining, replay, plain = (policy.state_dict() for policy in judged)
    assert all((value == plain[name]).all() for name, value in replay.items())
    assert any((value != plain[name]).any() for name, value in imagining.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": ["null"]}, r"controls has 'null'; there are zero, constant, shuffled, true, bc, bc_10"),
        ({"controls": ["zero"]}, "no suite is named"),
        ({"controls": ["replay"]}, "controls has 'replay'"),
        ({"algo": "mbrcsl", "ends": "absorbing"}, "ends=absorbing takes the end of a recording for a state"),
        ({"algo": "qil"}, r"algo is 'qil' \(did you mean 'iql'\?\)"),
        ({"settings": {"iql": {"expectile": 2.0}}}, r"settings\.iql\.expectile is 2\.0; it must lie in \[0, 1\]"),
        ({"settings": {"iql": {"expectil": 0.5}}}, r"settings\.iql\.expectil does not exist \(did you mean"),
        ({"settings": {"bc": {}}}, r"settings\.bc has no use: algo is iql"),
        ({"evaluate_every": 5}, "no suite is named"),
        ({"log_every": 0}, "log_every is 0"),
        ({"reward_scale": "big"}, "reward_scale is 'big'; it must be one of"),
    ],
)
def test_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=message):
        config("nowhere", tmp_path / "run", **changes)
