"""An episode for the Rerun viewer, read back with Rerun's own reader."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from real_robot.control.schedulers import Planned
from real_robot.recording.recorder import EpisodeBuffer
from real_robot.recording.replay import ReplayConfig
from real_robot.recording.rerun_export import export_episode, joint_curves, remarks
from sim.so101.embodiment import SO101
from tests.real_robot.recording.test_recorder import label, step
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.safety.decision import Decision, Filtered
from vla.safety.log import Row


def recorded() -> tuple[Episode, list[Row]]:
    """Twelve steps: eight held, then four of a person."""
    buffer = EpisodeBuffer(SO101, label(0), 20)
    rows = []
    for number in range(12):
        made = step(number)
        if number >= 8:
            planned = Planned(np.full(6, 50.0 + number), None, 0, 0.0, 1.0)
            made = replace(
                made, planned=planned, problem=None, filtered=Filtered(made.sent, Decision.PASS, ()), source="person"
            )
        buffer.add(made)
        rows.append(made.log_row())
    return buffer.build(success=True), rows


def test_curves_and_remarks() -> None:
    episode, rows = recorded()
    curves = joint_curves(episode, rows)
    assert len(curves) == 18
    np.testing.assert_array_equal(curves["elbow_flex/sent"], np.arange(12) / 3.0)
    assert np.isnan(curves["gripper/asked"][:8]).all() and curves["gripper/asked"][8:].tolist() == [58, 59, 60, 61]
    assert remarks(rows) == {
        "filter": {0: "hold no_action shape:[]", 8: "pass"},
        "driver": {0: "policy", 8: "person"},
    }


@pytest.mark.skipif(find_spec("rerun") is None, reason="the extra rerun is not installed")
def test_the_file_has_everything_on_one_time_line(tmp_path: Path) -> None:
    from rerun.chunk import RrdReader

    export_episode(*recorded(), tmp_path / "new" / "out.rrd")
    rows: dict[str, int] = {}
    for chunk in RrdReader(str(tmp_path / "new" / "out.rrd")).stream():
        if not chunk.entity_path.startswith("/__"):
            assert list(chunk.timeline_names) == ["time"]
            rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
    assert rows["/cameras/front"] == rows["/cameras/wrist"] == rows["/joints/gripper/sent"] == 12
    assert rows["/joints/gripper/asked"] == 4 and rows["/filter"] == rows["/driver"] == 2
    assert len(rows) == 2 + 18 + 2


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReflexError, match=r"ends in \.rrd, and needs dry=true"):
        ReplayConfig(dataset="d", rerun="out.mp4")
    with pytest.raises(ReflexError, match=r"ends in \.rrd, and needs dry=true"):
        ReplayConfig(dataset="d", rerun="out.rrd", dry=False)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ReflexError, match=r"pip install 'reflex-vla\[rerun\]'"):
        export_episode(*recorded(), tmp_path / "out.rrd")
