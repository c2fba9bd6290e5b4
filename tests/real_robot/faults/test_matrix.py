"""The fault matrix: its rows, its policy, its command, and two rows on the emulated arm."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from real_robot.faults.command import FaultsConfig, run_matrix
from real_robot.faults.rows import ROWS, Row
from real_robot.faults.swing import AMPLITUDE, HORIZON, LAG, RATE, SwingPolicy
from real_robot.faults.verdict import never_struck
from sim.contract import ObservationBatch
from sim.so101.embodiment import SO101
from vla.cli import main
from vla.errors import ReflexError
from vla.policies.registry import load_policy

CENTRE = [0.0, -40.0, 20.0, 90.0, 95.0, 50.0]


def test_rows_have_names_of_their_own_and_the_page_lists_them_all() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    page = (Path(__file__).parents[3] / "docs" / "faults.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == names
    for row in ROWS:
        re.compile(row.because)
        assert (row.end == "goes_on") == (not row.because), "what ends or holds has to say why"


@pytest.mark.parametrize("rows", [[], ["none", "none"]])
def test_rows_that_make_no_sense_are_refused(rows: list[str]) -> None:
    with pytest.raises(ReflexError, match="rows is"):
        FaultsConfig(rows=rows)


def test_an_unknown_row_and_a_folder_in_use_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="there is no 'earthquake'; they are none, packets_lost"):
        run_matrix(FaultsConfig(rows=["earthquake"], output=str(tmp_path / "new")))
    (tmp_path / "something").touch()
    with pytest.raises(ReflexError, match="holds something already"):
        run_matrix(FaultsConfig(rows=["none"], output=str(tmp_path)))


def observation(state: np.ndarray) -> ObservationBatch:
    images = {name: np.zeros((1, 64, 64, 3), np.uint8) for name in SO101.camera_names}
    return ObservationBatch(images=images, state=state[None].astype(np.float32), instruction=["swing"])


def test_the_policy_begins_where_the_arm_says_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("real_robot.faults.swing.time.monotonic", lambda: LAG)
    SwingPolicy(SO101, CENTRE, str(tmp_path / "poison")).save_pretrained(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    wrong = np.array(CENTRE)
    wrong[0] = 80.0  # at the time of its reading it should be at the centre
    chunk = policy.act(observation(wrong)).actions[0]
    due = CENTRE[0] + AMPLITUDE[0] * np.sin(2 * np.pi * RATE * (LAG + np.arange(HORIZON) / 30.0))
    np.testing.assert_allclose(chunk[:, 0], due + 80.0 * 0.85 ** np.arange(HORIZON), rtol=1e-4)
    assert np.isfinite(chunk).all()
    (tmp_path / "poison").touch()
    assert np.isnan(policy.act(observation(wrong)).actions).sum() == 1


def test_the_clock_of_a_command_jumps(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    code = "import runpy, sys, time; sys.argv = ['x', {!r}, 'vla.cli', '--version']\n"
    code += "try: runpy.run_module('real_robot.faults.jumping_clock', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "from pathlib import Path; before = time.time(), time.monotonic(); Path({!r}).write_text('3600')\n"
    code += "print(time.time() - before[0], time.time_ns() / 1e9 - before[0], time.monotonic() - before[1])"
    said = subprocess.run(
        [sys.executable, "-c", code.format(str(clock), str(clock))], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    wall, nanoseconds, monotonic = map(float, said.split())
    assert 3600.0 <= wall < 3605.0 and 3600.0 <= nanoseconds < 3605.0 and monotonic < 5.0


def test_a_row_that_does_not_hold_is_the_command_s_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scservo_sdk")

    def fails(row: Row, *others: object) -> dict[str, object]:
        return never_struck(row, ReflexError("it fell over"))

    monkeypatch.setattr("real_robot.faults.command.strike", fails)
    output = tmp_path / "faults"
    assert main(["robot", "faults", "rows=[none,brown_out]", f"output={output}"]) == 1
    found = json.loads((output / "faults.json").read_text())["rows"]
    assert [row["failures"] for row in found] == [["it fell over"]] * 2


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small disk needs unshare")
def test_two_rows_on_the_emulated_arm(tmp_path: Path) -> None:
    """A watchdog that cannot write still stops the arm; and a policy that is waited for costs no recording.

    The watchdog's time is longer than usual: a machine that tests share may well stop for a quarter of a second.
    """
    pytest.importorskip("scservo_sdk")
    rows = ["server_killed", "disk_full_killed"]
    run_matrix(FaultsConfig(rows=rows, watchdog_timeout=2.0, output=str(tmp_path / "faults")))
    found = json.loads((tmp_path / "faults" / "faults.json").read_text())["rows"]
    assert [row["row"] for row in found] == rows and not any(row["failures"] for row in found)
    assert [row["end"] for row in found] == ["holds", "stops"] and "no_action" in found[0]["reason"]
    assert all(row["recorded"] > 30 and row["replayed"] >= row["recorded"] for row in found)
    assert not list((tmp_path / "faults" / "rows").iterdir()), "what holds is not kept"
