"""`vla data report` on data sets on disk: whole, broken, without pictures, compared with another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vla.data.samples import make_episode, sample_episodes, write_dataset
from vla.data.episode import Episode
from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.data_report.command import DataReportConfig, data_report


def report(dataset: Path, output: Path, **settings: Any) -> dict[str, Any]:
    page = data_report(DataReportConfig(dataset=str(dataset), output=str(output), **settings))
    assert page == output / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "http" not in text.replace("http://www.w3.org", ""), "self-contained"
    card: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert f"Learn with {card['recommendation']['method']}" in text
    return card


def mixed() -> list[Episode]:
    """Of task 0 a quick and a slow success by the expert; of task 1 a failure at random."""
    return [
        make_episode(0, length=11),
        make_episode(1, length=21),
        replace(make_episode(2, length=31, task_id=1, success=False), policy_id="random"),
    ]


def test_the_numbers_are_those_of_the_episodes(tmp_path: Path) -> None:
    card = report(write_dataset(tmp_path / "data", mixed()), tmp_path / "out", discount=0.9)
    quick, slow = 0.9**10, 0.9**20
    best = (quick + slow) / 2
    assert (card["size"]["episodes"], card["size"]["steps"]) == (3, 63)
    assert (card["success"]["successes"], card["success"]["rate"]) == (2, 2 / 3)
    assert card["return"]["mean"] == pytest.approx((quick + slow) / 3)
    assert card["return"]["scale"] == {
        "worst": 0.0,
        "best": pytest.approx(best),
        "worst_from": "mean of the random episodes",
        "best_from": "mean of the expert's episodes",
    }
    assert card["trajectory_quality"] == pytest.approx(2 / 3)
    mean = (quick + slow) / 3
    assert card["positive_sided_variance"] == pytest.approx((quick - mean) ** 2 / 3)
    assert card["normalised_positive_variance"] == pytest.approx((quick - mean) ** 2 / 3 / best**2)
    assert [(row["name"], row["successes"], row["episodes"]) for row in card["tasks"]] == [
        ("fill gauge 0", 2, 2),
        ("fill gauge 1", 0, 1),
    ]
    assert [(row["key"], row["mean_length"], row["trajectory_quality"]) for row in card["policies"]] == [
        ("expert", 16.0, pytest.approx(1.0)),
        ("random", 31.0, 0.0),
    ]
    assert [row["name"] for row in card["actions"]][-1] == "gripper" and len(card["actions"]) == 7
    assert all(sum(row["histogram"]) == 63 for row in card["actions"])
    assert sum(map(sum, card["coverage"]["grid"])) == 63
    assert card["state_action_coverage"] == card["different_pairs"] == 1.0
    assert card["broken"] == [] and card["episodes_with_checked_pictures"] == 3
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 3, "a strip of each episode"


def test_returns_can_be_compared_with_given_ones_and_coverage_with_another_data_set(tmp_path: Path) -> None:
    data, wide = write_dataset(tmp_path / "data", mixed()[:1]), write_dataset(tmp_path / "wide", mixed())
    card = report(data, tmp_path / "out", worst_return=-1.0, best_return=1.0, discount=1.0, reference=str(wide))
    assert card["trajectory_quality"] == 1.0
    assert card["return"]["scale"]["worst_from"] == "worst_return"
    assert card["state_action_coverage"] == pytest.approx(11 / 63)


def spoil(dataset: Path, episode: int) -> None:
    """Put a NaN into an action, as broken recorders do."""
    (path,) = (dataset / "data").rglob("*.parquet")
    table = pq.read_table(path)
    actions = [list(row) for row in table["action"].to_pylist()]
    actions[table["episode_index"].to_pylist().index(episode)][0] = float("nan")
    column = pa.array(actions, type=table.schema.field("action").type)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)


def test_broken_episodes_are_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    episodes = [make_episode(seed, length=20) for seed in range(5)]
    frozen = {camera: np.repeat(frames[:1], 20, axis=0) for camera, frames in episodes[2].images.items()}
    episodes[2] = replace(episodes[2], images=frozen)
    episodes[3] = replace(episodes[3], actions=episodes[3].actions * 3)
    episodes[4] = replace(make_episode(0, length=20), init_state_id=4)
    data = write_dataset(tmp_path / "data", episodes)
    spoil(data, 1)
    with pytest.raises(ReflexError, match="not finite"):
        LeRobotDataset(data).episode(0)
    card = report(data, tmp_path / "out")
    found = {row["episode"]: "; ".join(row["problems"]) for row in card["broken"]}
    assert set(found) == {1, 2, 3}
    assert found[1] == "action is not finite in 1 of 20 steps, first in step 0"
    assert "camera image shows the same picture for 19 steps" in found[2] and "camera wrist_image" in found[2]
    assert found[3].startswith("action out of range in ")
    assert card["duplicates"] == [{"episode": 4, "same_as": 0}]
    assert (card["size"]["episodes"], card["size"]["measured_episodes"], card["success"]["episodes"]) == (5, 4, 4)
    assert any(text.startswith("broken episodes: 3") for text in card["recommendation"]["warnings"])


def test_pictures_that_cannot_be_read_are_a_problem_of_their_episode(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", mixed())
    video = sorted((data / "videos").rglob("*.mp4"))[1]
    video.write_bytes(b"no video")
    card = report(data, tmp_path / "out")
    assert [row["episode"] for row in card["broken"]] == [1]
    assert "pictures cannot be read" in card["broken"][0]["problems"][0]


def test_pictures_are_looked_through_only_as_far_as_asked(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    assert report(data, tmp_path / "none", checked_pictures=0)["episodes_with_checked_pictures"] == 0
    assert report(data, tmp_path / "two", checked_pictures=2)["episodes_with_checked_pictures"] == 2


def test_a_data_set_that_does_not_say_who_succeeded(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", sample_episodes())
    (data / "meta" / "reflex_episodes.parquet").unlink()
    info = json.loads((data / "meta" / "info.json").read_text(encoding="utf-8"))
    del info["features"]["next.success"]
    (data / "meta" / "info.json").write_text(json.dumps(info), encoding="utf-8")
    assert not LeRobotDataset(data).says_success
    assert any("does not say which" in text for text in report(data, tmp_path / "out")["recommendation"]["warnings"])


def test_an_output_that_holds_a_report_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    report(data, tmp_path / "out")
    with pytest.raises(ReflexError, match="already holds a report"):
        report(data, tmp_path / "out")


def test_a_reference_of_another_robot_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    episode = make_episode(0)
    robot = episode.embodiment
    narrow = replace(robot, state=replace(robot.state, names=("x",), units=("m",)))
    other = write_dataset(tmp_path / "other", [replace(episode, embodiment=narrow, states=episode.states[:, :1])])
    with pytest.raises(ReflexError, match="is of another robot"):
        report(data, tmp_path / "out", reference=str(other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.1}, r"discount is 1.1; it must lie in \[0, 1\]"),
        ({"bins": 1}, "bins is 1; it must be at least 2"),
        ({"checked_pictures": -1}, "checked_pictures is -1; it must be at least 0"),
        ({"worst_return": 1.0, "best_return": 1.0}, "best_return=1.0 must be above worst_return=1.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        DataReportConfig(dataset="d", **settings)
