"""`vla bench reward`: what each measure says of models that are known to be right, wrong or silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vla.data.foreign import Foreign, write_foreign
from tests.vla.offline.reward_model.recorded import write_bars, write_labels
from vla.errors import ReflexError
from vla.offline.reward_model.bench import BenchRewardConfig, Known, bench_reward, measure
from vla.offline.reward_model.command import RewardConfig, fit_reward
from vla.offline.reward_model.fit import FitSettings
from vla.offline.reward_model.outcomes import OutcomeSettings
from vla.run.files import read_json_object

FEW = OutcomeSettings(draws=400)
PROGRESS = np.array([0, 0.5, 1, 0, 0.1, 0.2, 0, 0.6, 1, 0, 0.2, 0.4], np.float32)
KNOWN = Known(PROGRESS, np.repeat(np.arange(4), 3), np.array([2, 5, 8, 11]), np.array([True, False, True, False]))


def values(members: np.ndarray, labelled: tuple[np.ndarray, np.ndarray] | None = None) -> dict[str, float | None]:
    found = measure(members.astype(np.float32), KNOWN, labelled, pairs=200, resamples=3, seed=0)
    return {name: estimate["value"] for name, estimate in found.items()}


def test_the_truth_is_right_in_everything_and_its_opposite_in_nothing() -> None:
    labelled = (np.array([[0, 2], [5, 3], [1, 2]]), np.array([1, 0, 2]))
    right = values(PROGRESS[None], labelled)
    assert right == {
        "pairs": 1, "labels": 1, "rank": 1, "tau": pytest.approx(1), "final": pytest.approx(1), "success": 1, "time": 1,
        "spread": None,
    }  # fmt: skip
    wrong = values(-PROGRESS[None], labelled)
    assert (wrong["pairs"], wrong["labels"], wrong["success"], wrong["time"]) == (0, 0, 0, -1)
    assert wrong["rank"] == pytest.approx(-1)


def test_a_constant_says_nothing() -> None:
    silent = values(np.zeros((2, 12)))
    assert (silent["pairs"], silent["success"], silent["rank"], silent["final"]) == (0.5, 0.5, 0, 0)
    assert silent["spread"] is None


def test_spread_is_that_of_the_members() -> None:
    assert values(np.stack([PROGRESS, PROGRESS]))["spread"] == 0
    # Members at mean -1 and +1 of it: a deviation of 1 everywhere.
    assert values(np.stack([PROGRESS - 1, PROGRESS + 1]))["spread"] == pytest.approx(1 / PROGRESS.std(), rel=1e-5)


def test_models_of_every_kind_on_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_bars(tmp_path / "dataset", episodes=10)
    labels = write_labels(tmp_path / "labels", dataset)
    fit = FitSettings(hidden=16, max_epochs=10, learning_rate=3e-3)
    models = ["true_progress"]
    for method in ("preferences", "value", "contrastive", "distance"):
        output = tmp_path / method
        given = str(labels) if method == "preferences" else None
        settings = {"output": str(output), "fit": fit, "outcome": FEW, "device": "cpu", "threads": 1}
        fit_reward(RewardConfig(str(dataset.root), given, method, **settings))  # type: ignore[arg-type]
        models.append(str(output))
    config = BenchRewardConfig(
        str(dataset.root), models, str(tmp_path / "bench"), str(labels), drawn_pairs=300, resamples=3, threads=1
    )
    bench_reward(replace(config, device="cpu"))
    found = read_json_object(tmp_path / "bench" / "reward_models.json")["models"]
    estimates = {Path(name).name: result["estimates"] for name, result in found.items()}
    assert estimates["true_progress"]["rank"]["value"] == pytest.approx(1)
    assert estimates["preferences"]["labels"]["value"] > 0.85
    assert estimates["preferences"]["spread"]["value"] > 0
    assert estimates["value"]["success"]["value"] == 1
    assert estimates["contrastive"]["time"]["value"] > 0.5
    assert estimates["distance"]["success"]["value"] == 1
    assert "true_progress" in capsys.readouterr().out


def test_a_dataset_without_true_progress_is_refused(tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "foreign", Foreign())
    with pytest.raises(ReflexError, match=r"no next\.progress"):
        bench_reward(BenchRewardConfig(str(root), ["true_progress"], str(tmp_path / "bench"), device="cpu"))
