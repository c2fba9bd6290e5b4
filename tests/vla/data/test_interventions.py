"""Which steps of a dataset a person made: written, refused and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.vla.data.samples import make_episode, write_dataset
from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError


def test_what_a_person_did_is_a_column_of_its_own_where_it_was_recorded(tmp_path: Path) -> None:
    flags = [np.arange(7) >= 4, np.zeros(4, bool)]
    episodes = [replace(make_episode(seed, len(steps)), interventions=steps) for seed, steps in enumerate(flags)]
    folder = write_dataset(tmp_path / "demos", episodes)
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["features"]["intervention"] == {"dtype": "bool", "shape": [1], "names": None}
    rows = pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pylist()
    assert [row["intervention"] for row in rows] == [*flags[0].tolist(), *flags[1].tolist()]
    dataset = LeRobotDataset(folder)
    for index, steps in enumerate(flags):
        found = dataset.episode(index, cameras=()).interventions
        assert found is not None and found.dtype == np.bool_
        np.testing.assert_array_equal(found, steps)
    without = write_dataset(tmp_path / "without", [make_episode(0)])
    assert "intervention" not in json.loads((without / "meta/info.json").read_text())["features"]
    assert LeRobotDataset(without).episode(0, cameras=()).interventions is None


def test_one_dataset_knows_what_a_person_did_in_all_its_episodes_or_in_none(tmp_path: Path) -> None:
    episodes = [make_episode(0), replace(make_episode(1), interventions=np.ones(7, bool))]
    with pytest.raises(ReflexError, match="says which actions a person made, other than the episodes before"):
        write_dataset(tmp_path / "mixed", episodes)
    with pytest.raises(ReflexError, match=r"interventions of shape \(3,\)"):
        write_dataset(tmp_path / "wrong", [replace(make_episode(1), interventions=np.ones(3, bool))])


def test_interventions_are_read_as_others_write_them(tmp_path: Path) -> None:
    """Numbers, 1 for a person, by the name that human-in-the-loop recorders on LeRobot give them."""
    folder = write_dataset(tmp_path / "demos", [replace(make_episode(0), interventions=np.arange(7) >= 4)])
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    column = table["intervention"].cast("float32")
    table = table.drop_columns(["intervention"]).append_column("complementary_info.is_intervention", column)
    pq.write_table(table, path)
    found = LeRobotDataset(folder).episode(0, cameras=()).interventions
    assert found is not None
    np.testing.assert_array_equal(found, np.arange(7) >= 4)
