"""Which folder a run takes, and which it gives back: a failed first try binds nothing, a user's own is left alone."""

from __future__ import annotations

from datetime import datetime, tzinfo
from pathlib import Path

import pytest

import vla.run.run_folder
from tests.vla.run.test_run_folder import weights
from vla.errors import ReflexError
from vla.evaluation.runner import EvaluationConfig
from vla.rl.config import TrainConfig
from vla.run.run_folder import RunFolder, dated_folder


@pytest.mark.parametrize("existed", [False, True])
def test_a_run_that_fails_before_it_recorded_anything_takes_its_folder_back(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "run"
    if existed:
        path.mkdir()
    for resume in (False, True):
        with pytest.raises(ZeroDivisionError), RunFolder(path, resume=resume) as run:
            run.write_config({"seed": 0})
            run.write_protocol({"hash": "ab"})
            run.save_checkpoint(0, weights("where it began"))
            (path / "encoder").mkdir()
            raise ZeroDivisionError
        assert not path.exists()
    RunFolder(path)


@pytest.mark.parametrize("recorded", ["metrics", "episodes", "checkpoint"])
def test_a_run_that_fails_later_stays(tmp_path: Path, recorded: str) -> None:
    path = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), RunFolder(path) as run:
        if recorded == "metrics":
            run.append_metrics(0, {"a": 1})
        elif recorded == "episodes":
            run.append_episodes([{"success": True}], step=0)
        else:
            run.save_checkpoint(1, weights("1"))
        raise ZeroDivisionError
    assert path.is_dir()
    with pytest.raises(ZeroDivisionError), RunFolder(path, resume=True) as run:
        run.write_config({"seed": 0})
        raise ZeroDivisionError
    assert (path / "config.yaml").exists(), "it was there before this try"


def test_an_interrupted_run_and_files_of_others_stay(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "run") as run:
        run.write_config({"seed": 0})
        raise KeyboardInterrupt
    assert (tmp_path / "run" / "config.yaml").exists()
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "other") as run:
        run.write_config({"seed": 0})
        (tmp_path / "other" / "notes.txt").write_text("mine")
        raise ZeroDivisionError
    assert [entry.name for entry in (tmp_path / "other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(ReflexError, match="holds something else than a run; choose another output folder"):
        RunFolder(tmp_path, resume=resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_ones_own_has_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls(2026, 11, 27, 14, 3, 5)

    monkeypatch.setattr(vla.run.run_folder, "datetime", Clock)
    assert dated_folder("train") == "runs/train_2026-11-27_14-03-05"
    assert TrainConfig().output == "runs/train_2026-11-27_14-03-05"
    assert EvaluationConfig().output == "runs/eval_2026-11-27_14-03-05"
