"""The whole of `vla demo`, as small as it gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla import demo
from vla.demo import DemoConfig, run_demo
from vla.errors import ReflexError
from vla.rl.config import AlgoConfig
from vla.rollout.collect import CollectConfig


def small(output: Path) -> DemoConfig:
    return DemoConfig(
        output=str(output),
        tasks=[0],
        demonstrations_per_task=1,
        fine_tune_steps=2,
        train_minutes=0.15,
        target_success=None,
        evaluation_episodes_per_task=2,
        algo=AlgoConfig(reward="binary", group_size=2, groups_per_iteration=1),
        num_workers=1,
    )


@pytest.mark.slow
def test_it_goes_from_demonstrations_to_a_report_and_knows_how_long_it_took(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    summary = run_demo(small(output))
    assert json.loads((output / "summary.json").read_text()) == summary
    for part in ("sft", "srpo"):
        assert set(summary[part]) == {"success_rate", "episodes", "wilson_low", "wilson_high"}
        assert summary[part]["episodes"] == 2
    assert "<html" in (output / "report.html").read_text()
    # What a killed run does not write down is its own clock; what its last checkpoint knows still counts.
    (output / "clock.json").unlink()
    again = run_demo(small(output))
    assert again["sft"] == summary["sft"] and again["iterations"] >= summary["iterations"]
    trained = json.loads((output / "srpo" / "checkpoints" / "last" / "progress.json").read_text())
    assert again["wall_seconds"] >= trained["seconds"] > 0.5


def test_another_suite_goes_into_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collected, trained and evaluated at the same size; LIBERO's experts keep their own pace."""
    seen: list[tuple[str, int | None, float | None, int | None]] = []

    def collected(config: CollectConfig) -> None:
        seen.append((config.suite, config.image_size, config.pace, config.num_workers))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "collect", collected)
    config = DemoConfig(
        output=str(tmp_path / "demo"),
        suite="libero_spatial_fast_plain",
        image_size=64,
        demonstration_pace=None,
        threads=3,
        num_workers=0,
        device="cuda:7",
    )
    with pytest.raises(KeyboardInterrupt):
        run_demo(config)
    assert seen == [("libero_spatial_fast_plain", 64, None, 0)]
    training = demo.train_config(config, tmp_path, tmp_path, tmp_path)
    assert (training.suite, training.image_size) == ("libero_spatial_fast_plain", 64)
    tuning = demo.fine_tune_config(config, tmp_path, tmp_path)
    assert tuning.threads == training.threads == 3 and training.num_workers == 0
    assert tuning.device == training.device == "cuda:7"


def test_a_demo_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"tasks is \[\]; it must name at least one task"):
        DemoConfig(output=str(tmp_path), tasks=[])
    with pytest.raises(ReflexError, match="fine_tune_steps is 0"):
        DemoConfig(output=str(tmp_path), fine_tune_steps=0)
