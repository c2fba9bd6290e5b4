"""Fine-tuning from a dataset on disk, killed and resumed."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim.contract import Suite
from sim.embodiments import PANDA_EEF
from sim.pool import EnvironmentPool
from tests.fake_suite import FakeSuite
from tests.fake_wandb import FakeWandb
from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import make_observations, small_policy
from vla.data.advantages import ADVANTAGES_FILE, Advantages
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError
from vla.evaluation.results import EvaluationResult
from vla.evaluation.runner import evaluate
from vla.imitation.fine_tune import _MAY_CHANGE, FineTuneConfig, fine_tune
from vla.policies import TinyPolicy, load_policy
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.policy import FlowPolicy
from vla.run.run_folder import RunFolder, comparable_metrics


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four episodes and a base policy."""
    folder = tmp_path_factory.mktemp("sft")
    writer = LeRobotWriter(folder / "dataset", "fake", PANDA_EEF.with_image_size(16))
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
        "threads": 1,  # more would wait for one another where tests share cores
    }
    return FineTuneConfig(**(values | overrides))


def probe(policy: TinyPolicy, step: int) -> dict[str, float]:
    """Stands for an evaluation: a number that depends on every weight of the head."""
    return {"eval/success_rate": float(policy.action_head.weight.detach().abs().mean())}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("weighting", ["none", "progress"])
def test_killed_and_resumed_equals_uninterrupted(workplace: Path, tmp_path: Path, weighting: str) -> None:
    whole = fine_tune(make_config(workplace, tmp_path / "whole", weighting=weighting), probe)

    def die_at_eight(policy: TinyPolicy, step: int) -> dict[str, float]:
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
    def interrupt(policy: TinyPolicy, step: int) -> dict[str, float]:
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
    named = fine_tune(make_config(workplace, tmp_path / "my_run", steps=1, evaluate_every=0))
    assert load_policy(named["policy"]).policy_id == "my_run"
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


def test_normalisation_by_mean_and_deviation(workplace: Path, tmp_path: Path) -> None:
    config = make_config(
        workplace, tmp_path / "run", steps=1, evaluate_every=0, tasks=[1], episodes_per_task=1,
        normalisation="dataset", normalisation_scale="mean_std",
    )  # fmt: skip
    fine_tune(config)
    actions = make_episode(1).actions.astype(np.float64)
    expected = actions.mean(axis=0) + 2.3263 * actions.std(axis=0)
    np.testing.assert_allclose(load_policy(tmp_path / "run").normalisation.action_q99, expected, atol=1e-3)


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
    with pytest.raises(ReflexError, match="weighting is 'best'; it must be one of none, success, progress, advantage"):
        make_config(workplace, tmp_path, weighting="best")
    with pytest.raises(ReflexError, match="weighting_temperature is 0"):
        make_config(workplace, tmp_path, weighting="progress", weighting_temperature=0)
    with pytest.raises(ReflexError, match="normalisation"):
        make_config(workplace, tmp_path, normalisation="guess")
    with pytest.raises(ReflexError, match="log_every"):
        make_config(workplace, tmp_path, log_every=0)
    with pytest.raises(ReflexError, match="threads is 0"):
        make_config(workplace, tmp_path, threads=0)


def test_an_evaluation_is_the_one_that_the_settings_ask_for(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, on the small suite, in this process; what it was asked for is written down on the way."""
    asked: dict[str, Any] = {}

    class RecordingPool(EnvironmentPool):
        def __init__(self, suite: str, num_slots: int, num_workers: int) -> None:
            asked.update(suite=suite, num_slots=num_slots, num_workers=num_workers)
            super().__init__("fake", num_slots, num_workers, factory="tests.fake_suite:get_suite")

    def make_suite(name: str) -> Suite:
        asked["made"] = name
        return FakeSuite()

    def recording(policy: TinyPolicy, suite: Suite, pool: EnvironmentPool, **options: Any) -> EvaluationResult:
        asked.update(options, precision=policy(policy.prepare(make_observations(1))).dtype)
        return evaluate(policy, suite, pool, **options)

    monkeypatch.setattr("sim.pool.EnvironmentPool", RecordingPool)
    monkeypatch.setattr("sim.suites.get_suite", make_suite)
    monkeypatch.setattr("vla.evaluation.runner.evaluate", recording)
    settings: dict[str, Any] = {
        "steps": 2,
        "evaluate_every": 2,
        "evaluation_suite": "another",
        "evaluation_episodes_per_task": 2,
        "evaluation_split": "train",
        "num_workers": 0,
        "seed": 5,
        "precision": "bfloat16",
    }
    summary = fine_tune(make_config(workplace, tmp_path / "run", **settings))
    assert asked == {
        "suite": "another",
        "made": "another",
        "num_slots": 4,
        "num_workers": 0,
        "tasks": [0, 1],
        "episodes_per_task": 2,
        "split": "train",
        "seed": 5,
        "precision": torch.float32,
    }
    assert summary["eval_episodes"] == 4 and 0 <= summary["success_rate"] <= 1
    (line,) = [line for line in RunFolder(tmp_path / "run", resume=True).read_metrics() if "eval/episodes" in line]
    assert line["step"] == 2 and line["eval/episodes"] == 4

    asked.clear()
    fine_tune(make_config(workplace, tmp_path / "other", **(settings | {"evaluation_suite": None, "num_workers": 1})))
    assert (asked["suite"], asked["made"], asked["num_workers"]) == ("fake", "fake", 1), "null is the dataset's suite"


def test_checkpoints_and_lines_are_as_far_apart_as_the_settings_say(workplace: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 9, "evaluate_every": 0, "checkpoint_every": 2, "log_every": 4}
    kept: dict[int | None, list[str]] = {}
    for keep in (1, 3, None):
        run = tmp_path / str(keep)
        fine_tune(make_config(workplace, run, keep_checkpoints=keep, **settings))
        kept[keep] = sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
        assert [line["step"] for line in RunFolder(run, resume=True).read_metrics()] == [4, 8, 9]
    assert kept == {1: ["9"], 3: ["6", "8", "9"], None: ["2", "4", "6", "8", "9"]}


def learnt(workplace: Path, output: Path, **changes: Any) -> torch.Tensor:
    """The head after four steps."""
    fine_tune(make_config(workplace, output, steps=4, evaluate_every=0, **changes))
    return load_policy(output).action_head.weight.detach()


def test_weighting_and_its_temperature_change_what_is_learnt(workplace: Path, tmp_path: Path) -> None:
    progress = {"weighting": "progress", "weighting_temperature": 1.0}
    variants: list[dict[str, Any]] = [{}, progress, progress | {"weighting_temperature": 0.3}]
    heads = [learnt(workplace, tmp_path / str(number), **variant) for number, variant in enumerate(variants)]
    assert torch.equal(learnt(workplace, tmp_path / "again"), heads[0])
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])


def test_the_advantages_of_critics_change_what_is_learnt(workplace: Path, tmp_path: Path) -> None:
    numbers = np.arange(12)
    values = np.where(numbers % 6 < 3, 1.0, -1.0).astype(np.float32)
    Advantages(numbers // 6, numbers % 6, values).write(tmp_path / ADVANTAGES_FILE)
    weighed = {"weighting": "advantage", "advantages": str(tmp_path), "episodes_per_task": 1}
    first, second = (
        learnt(workplace, tmp_path / str(number), **changes)
        for number, changes in enumerate(({"episodes_per_task": 1}, weighed))
    )
    assert not torch.equal(first, second)
    for half in ({"weighting": "advantage"}, {"advantages": str(tmp_path)}):
        with pytest.raises(ReflexError, match="weighting=advantage needs advantages="):
            fine_tune(make_config(workplace, tmp_path / "half", **half))


def test_scratch_is_a_tiny_policy_whose_weights_the_seed_decides(workplace: Path, tmp_path: Path) -> None:
    opened = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        config = make_config(workplace, tmp_path / name, policy="scratch", steps=1, evaluate_every=0, seed=seed)
        fine_tune(dataclasses.replace(config, batch_size=1))
        opened.append(load_policy(tmp_path / name))
    embeddings = [policy.language_model.embed_tokens.weight.detach() for policy in opened]
    assert torch.equal(embeddings[0], embeddings[1])
    assert (embeddings[0] - embeddings[2]).abs().max() > 0.1, "far more than what a step changes"
    assert opened[0].has_normalisation, "a policy without any takes the dataset's"


def test_a_device_that_is_not_there_is_refused(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="device"):
        fine_tune(make_config(workplace, tmp_path / "run", device="cuda:99"))
    assert not (tmp_path / "run").exists()


def test_every_setting_that_may_change_on_resume_exists_and_changes_no_result(workplace: Path, tmp_path: Path) -> None:
    assert {field.name for field in dataclasses.fields(FineTuneConfig)} >= _MAY_CHANGE
    first = make_config(workplace, tmp_path / "run", steps=2, evaluate_every=0)
    fine_tune(first)
    changes: dict[str, Any] = {"checkpoint_every": 1, "keep_checkpoints": 1, "log_every": 2, "num_workers": 0}
    fine_tune(dataclasses.replace(first, resume=True, **changes))
    refused = {field.name for field in dataclasses.fields(FineTuneConfig)} - _MAY_CHANGE
    assert {"dataset", "policy", "policy_id", "tasks", "weighting", "seed", "steps", "augmentation"} <= refused


def test_metrics_go_to_the_logger_that_is_named(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    fine_tune(make_config(workplace, tmp_path / "run", steps=2, evaluate_every=0, log_every=1, logger="wandb"))
    assert [step for step, _ in fake.logged] == [1, 2]


def test_a_flow_head_is_made_learns_and_resumes_exactly(workplace: Path, tmp_path: Path) -> None:
    """Its loss draws noise and times, which a resumed run must draw again."""
    flow = FlowConfig(denoising_steps=2, width=16, layers=1, attention_heads=2, loss_draws=2)
    options: dict[str, Any] = {"decision": "flow", "flow": flow, "policy_id": "mine", "evaluate_every": 0}
    fine_tune(make_config(workplace, tmp_path / "whole", **options))
    fine_tune(make_config(workplace, tmp_path / "parts", **options, steps=8, checkpoint_every=4))
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "8")
    fine_tune(make_config(workplace, tmp_path / "parts", **options, checkpoint_every=4, resume=True))
    whole, parts = (load_policy(tmp_path / name) for name in ("whole", "parts"))
    assert isinstance(whole, FlowPolicy) and isinstance(parts, FlowPolicy)
    assert whole.config == dataclasses.replace(flow, policy_id="mine")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    fresh = FlowPolicy.on(small_policy(), flow)
    assert not torch.equal(whole.head.velocity_out.weight, fresh.head.velocity_out.weight)


def test_a_flow_policy_can_go_back_to_tokens(workplace: Path, tmp_path: Path) -> None:
    FlowPolicy.on(small_policy()).save_pretrained(tmp_path / "flow")
    fine_tune(
        make_config(
            workplace, tmp_path / "run", policy=str(tmp_path / "flow"), decision="tokens", steps=1, evaluate_every=0
        )
    )
    assert isinstance(load_policy(tmp_path / "run"), TinyPolicy)
