"""The folder beside a dataset in which a recording waits: only what the writer made is used or removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vla.data.point_suite import FACTORY
from tests.vla.data.samples import ROBOT
from vla.data.lerobot_writer import LeRobotWriter, check_same_settings
from vla.errors import ReflexError
from vla.rollout.collect import CollectConfig, collect


def settings(output: Path, **changes: object) -> CollectConfig:
    return CollectConfig(**({"suite": "point", "output": str(output), "tasks": [0], "episodes_per_task": 1} | changes))  # type: ignore[arg-type]


def test_a_folder_of_the_users_in_its_place_is_neither_used_nor_removed(tmp_path: Path) -> None:
    theirs = tmp_path / "demos.partial"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("do not lose me")
    with pytest.raises(ReflexError, match=r"demos\.partial.* holds something else; choose another output folder"):
        collect(settings(tmp_path / "demos"), FACTORY)
    assert [entry.name for entry in theirs.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "demos").exists()


@pytest.mark.parametrize(
    "wrong", [{"policy": "/nowhere"}, {"tasks": [0, 1], "image_size": 2048 * 2 - 2}, {"policy": "no-such-policy"}]
)
def test_a_try_that_failed_before_its_first_episode_binds_nothing(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ReflexError):
        collect(settings(tmp_path / "demos", **wrong), FACTORY)
    assert list(tmp_path.iterdir()) == []
    assert collect(settings(tmp_path / "demos"), FACTORY) == tmp_path / "demos"
    assert [entry.name for entry in tmp_path.iterdir()] == ["demos"]


def test_neither_does_one_that_was_killed_then(tmp_path: Path) -> None:
    """What a kill leaves: settings and failed attempts, and no episode."""
    writer = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    check_same_settings(writer.staging / "collect.json", {"policy": "another"})
    (writer.staging / "attempts.jsonl").write_text('{"task_id": 0, "attempt": 0}\n')
    writer._lock.close()
    assert writer.staging.is_dir()
    collect(settings(tmp_path / "demos"), FACTORY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["demos"]


def test_two_recordings_do_not_share_a_folder_that_has_no_episode_yet(tmp_path: Path) -> None:
    first = LeRobotWriter(tmp_path / "demos", "point", ROBOT)
    check_same_settings(first.staging / "collect.json", {"policy": "one"})
    with pytest.raises(ReflexError, match="another process is recording"):
        LeRobotWriter(tmp_path / "demos", "point", ROBOT, resume=True)
    assert (first.staging / "collect.json").exists()
    first.close()
    assert list(tmp_path.iterdir()) == []
