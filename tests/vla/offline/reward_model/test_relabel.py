"""`vla relabel`: one column more, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.vla.data.foreign import Foreign, write_foreign
from tests.vla.offline.reward_model.recorded import write_bars, write_labels
from vla.data import lerobot_columns
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.labels.audit import Gate
from vla.offline.labels.files import AUDIT, read_labels
from vla.offline.reward_model.command import RewardConfig, fit_reward
from vla.offline.reward_model.fit import FitSettings
from vla.offline.reward_model.relabel import PROVENANCE_PATH, RelabelConfig, relabel
from vla.rewards.models.model import load_reward_model, model_hash
from vla.run.files import read_json_object, write_json

COLUMN = "next.reward.bars"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of two tasks, and a model fitted to it."""
    folder = tmp_path_factory.mktemp("bars")
    dataset = write_bars(folder / "dataset", episodes=8, tasks=2)
    labels = write_labels(folder / "labels", dataset)
    settings = FitSettings(hidden=16, max_epochs=5, learning_rate=3e-3)
    fit_reward(
        RewardConfig(
            str(dataset.root), str(labels), output=str(folder / "reward"), fit=settings, device="cpu", threads=1
        )
    )
    return dataset.root, folder / "reward"


@pytest.fixture
def dataset(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "dataset"))


def config(dataset: Path, reward: Path | str, **changes: Any) -> RelabelConfig:
    return replace(RelabelConfig(str(dataset), str(reward), "bars", device="cpu", threads=1), **changes)


def rows(dataset: Path) -> Any:
    return pq.read_table(next((dataset / "data").rglob("*.parquet")), partitioning=None)


def test_a_column_is_added_and_no_other_changes(dataset: Path, made: tuple[Path, Path]) -> None:
    before, statistics = rows(dataset), read_json_object(dataset / "meta/stats.json")
    relabel(config(dataset, made[1]))
    after = rows(dataset)
    assert after.column_names == [*before.column_names, COLUMN]
    assert after.select(before.column_names).equals(before)
    values = after[COLUMN].to_numpy()
    assert values.min() == pytest.approx(-1)
    assert values.max() == pytest.approx(0)
    now = read_json_object(dataset / "meta/stats.json")
    assert {name: now[name] for name in statistics} == statistics
    assert now[COLUMN]["mean"][0] == pytest.approx(values.mean())
    assert read_json_object(dataset / "meta/info.json")["features"][COLUMN]["shape"] == [1]
    assert LeRobotDataset(dataset).episode(3).length == 12
    assert sorted(path.name for path in dataset.iterdir()) == ["data", "meta", "videos"]


def test_a_transition_has_the_score_of_its_next_picture(dataset: Path, made: tuple[Path, Path]) -> None:
    relabel(config(dataset, made[1], scale="none"))
    table, model = rows(dataset), load_reward_model(made[1], "cpu")
    for index in (0, 5):
        episode = LeRobotDataset(dataset).episode(index)
        scores = model.score(np.asarray(episode.images["image"]), episode.instruction, episode.states)
        found = table[COLUMN].to_numpy()[table["episode_index"].to_numpy() == index]
        assert np.allclose(found, [*scores[1:], scores[-1]], atol=1e-5)


def test_the_provenance_says_how_it_was_made(dataset: Path, made: tuple[Path, Path]) -> None:
    relabel(config(dataset, made[1], terminal="best"))
    known = read_json_object(dataset / PROVENANCE_PATH)[COLUMN]
    assert known["model_sha256"] == model_hash(made[1])
    assert known["labels"]["prompt_version"] == "oracle"
    assert len(known["labels"]["sha256"]) == 64
    assert known["gate"] is None
    table, affine = rows(dataset), known["affine"]["0"]
    raw = config(dataset, made[1], name="raw", scale="none")
    relabel(raw)
    expected = affine["factor"] * rows(dataset)["next.reward.raw"].to_numpy() + affine["offset"]
    ends = table["next.success"].to_numpy(zero_copy_only=False)
    assert ends.sum() == 4
    assert np.allclose(table[COLUMN].to_numpy()[~ends], expected[~ends], atol=1e-5)
    assert (table[COLUMN].to_numpy()[ends] == 0).all()
    assert set(read_json_object(dataset / PROVENANCE_PATH)) == {COLUMN, "next.reward.raw"}


def test_the_same_command_again_changes_nothing(
    dataset: Path, made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    relabel(config(dataset, made[1]))
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()}
    relabel(config(dataset, made[1]))
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()} == before


def _relabel_and_die(settings: RelabelConfig, module: Any, name: str, after: int) -> None:
    """Relabel in a process that ends when a function is called for the n-th time, as by a kill."""
    wrapped, calls = getattr(module, name), []

    def dying(*arguments: Any, **named: Any) -> Any:
        calls.append(0)
        if len(calls) > after:
            os._exit(9)
        return wrapped(*arguments, **named)

    setattr(module, name, dying)
    relabel(settings)


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        ("vla.offline.reward_model.relabel", "append_lines", 3),
        ("vla.data.lerobot_columns", "_write_with_column", 0),
        ("vla.data.lerobot_columns", "_describe", 0),
        ("vla.data.lerobot_columns", "write_json", 2),
    ],
)
def test_a_killed_relabelling_is_finished_by_the_next(
    dataset: Path, made: tuple[Path, Path], tmp_path: Path, module: str, name: str, after: int
) -> None:
    whole = Path(shutil.copytree(dataset, tmp_path / "whole"))
    relabel(config(whole, made[1]))
    target = __import__(module, fromlist=["x"])
    process = multiprocessing.get_context("fork").Process(
        target=_relabel_and_die, args=(config(dataset, made[1]), target, name, after)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert LeRobotDataset(dataset).episode(2).length == 12  # readable all the time
    relabel(config(dataset, made[1]))
    assert rows(dataset).equals(rows(whole))
    for place in ("meta/info.json", "meta/stats.json"):
        assert (dataset / place).read_text() == (whole / place).read_text()
    assert not list(dataset.glob(f"{lerobot_columns.STAGE_PREFIX}*"))


def test_a_column_of_another_model_is_replaced_only_by_force(dataset: Path, made: tuple[Path, Path]) -> None:
    relabel(config(dataset, made[1]))
    other = config(dataset, made[1], form="difference", scale="none")
    with pytest.raises(ReflexError, match=r"already, of .* with other settings"):
        relabel(other)
    relabel(replace(other, force=True))
    assert abs(rows(dataset)[COLUMN].to_numpy()[11]) == 0  # the last transition's difference
    assert rows(dataset).column_names.count(COLUMN) == 1
    (dataset / PROVENANCE_PATH).unlink()
    with pytest.raises(ReflexError, match="of something else"):
        relabel(config(dataset, made[1]))


def test_an_audit_that_says_no_is_heeded(dataset: Path, made: tuple[Path, Path]) -> None:
    audit = made[1].with_name("labels") / AUDIT
    try:
        labels = read_labels(audit.parent)
        gate = Gate(False, 0.61, 0.52, 0.69, 120, 0.75, 0.2, labels.sha256)
        write_json(audit, {"gate": asdict(gate)})
        with pytest.raises(ReflexError, match=r"accuracy is 61.0% .* the gate is 75.0%\); label better"):
            relabel(config(dataset, made[1]))
        assert COLUMN not in rows(dataset).column_names
        relabel(config(dataset, made[1], force=True))
        known = read_json_object(dataset / PROVENANCE_PATH)[COLUMN]
        assert known["forced"]
        assert not known["gate"]["passed"]
    finally:
        audit.unlink()


class Brightness:
    """A reward model of a user's own."""

    def score(self, frames: np.ndarray, instruction: str, states: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(frames.mean(axis=(1, 2, 3), dtype=np.float32))


@pytest.mark.parametrize("codec", ["libx264", "png"])
def test_datasets_of_others_with_a_model_of_ones_own(tmp_path: Path, codec: str) -> None:
    root = write_foreign(tmp_path / "foreign", Foreign(codec=codec))
    before = [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    relabel(config(root, f"{__name__}:Brightness"))
    after = [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    for old, new in zip(before, after, strict=True):
        assert new.select(old.column_names).equals(old)
    values = np.concatenate([table[COLUMN].to_numpy() for table in after])
    assert (values.min(), values.max()) == (-1, 0)


def test_what_cannot_be_relabelled_is_refused(dataset: Path, made: tuple[Path, Path]) -> None:
    with pytest.raises(ReflexError, match="is no folder"):
        relabel(config(Path("someone/dataset"), made[1]))
    with pytest.raises(ReflexError, match="letters, digits"):
        config(dataset, made[1], name="a.b")
    with pytest.raises(ReflexError, match="terminal=best"):
        config(dataset, made[1], scale="none", terminal="best")
