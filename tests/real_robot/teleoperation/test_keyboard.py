"""Keys move joints: from a real terminal through the watchdog's counts to what is wanted."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import numpy as np
import pytest

from real_robot.arms.simulated import SimulatedArm
from real_robot.teleoperation.keyboard import Keyboard, KeyboardSettings, key_table
from real_robot.teleoperation.teleoperator import make_teleoperator
from real_robot.watchdog.operator import Keyboard as Terminal
from real_robot.watchdog.operator import Lines, Press
from real_robot.watchdog.pulse import Order, SharedPulse
from vla.errors import ReflexError


@pytest.fixture(scope="module")
def arm() -> SimulatedArm:
    return SimulatedArm()


def test_a_press_moves_its_joint_by_a_share_of_its_range_and_no_further_than_its_limit(arm: SimulatedArm) -> None:
    keyboard = Keyboard(KeyboardSettings(step=0.02))
    keyboard.connect(arm)
    presses = np.array([5.0, 0, 0, 0, 0, 0, 9.0])
    here = np.array([100.0, 0.0, 0.0, 0.0, 0.0, 50.0])
    keyboard.start(here, presses)
    assert keyboard.wish(presses).positions.tolist() == here.tolist(), "what was pressed before counts no more"
    presses[[0, 5]] += [1.0, -2.0]
    wish = keyboard.wish(presses)
    assert wish.positions.tolist() == pytest.approx([104.4, 0, 0, 0, 0, 46.0])
    presses[0] += 10.0
    assert keyboard.wish(presses).positions[0] == 110.0
    presses[0] -= 1.0
    assert keyboard.wish(presses).positions[0] == pytest.approx(105.6), "at once, however often it was pressed"


def test_keys_of_a_terminal_and_lines_of_a_pipe_are_the_same(tmp_path: Path) -> None:
    theirs, ours = pty.openpty()
    terminal = Terminal(ours)
    os.write(theirs, b"edr\ty")
    expected = [Press(0, 1), Press(0, -1), Press(1, 1), Order.CHANGE_HANDS, Press(6, 1)]
    assert terminal.orders() == expected
    terminal.close()
    os.close(ours)
    os.close(theirs)
    lines = Lines.of_named_pipe(tmp_path / "operator")
    (tmp_path / "operator").write_text("e\nd\ntake_over\ngive_back\nE?\n")
    assert lines.orders() == [Press(0, 1), Press(0, -1), Order.TAKE_OVER, Order.GIVE_BACK, Press(0, 1)][:4]
    lines.close()


def test_presses_are_counted_where_both_processes_see_them(tmp_path: Path) -> None:
    ours, theirs = SharedPulse(tmp_path / "pulse", create=True), SharedPulse(tmp_path / "pulse")
    for joint, direction in ((0, 1), (0, 1), (6, -1)):
        theirs.press(joint, direction)
    theirs.person_drives = True
    assert ours.presses.tolist() == [2, 0, 0, 0, 0, 0, -1] and ours.person_drives
    assert ours.order is Order.NONE and ours.last_beat == 0.0, "beside what was there"
    ours.close()
    theirs.close()


def test_the_table_names_every_joint_with_its_keys(arm: SimulatedArm) -> None:
    assert key_table(arm.limits.names).startswith("shoulder_pan e/d, shoulder_lift r/f")
    assert key_table(arm.limits.names).endswith("gripper o/l")


def test_wrong_names_and_settings_are_refused() -> None:
    with pytest.raises(ReflexError, match=r"teleoperator is 'keybord' \(did you mean 'keyboard'"):
        make_teleoperator("keybord", {})
    with pytest.raises(ReflexError, match=r"step is 0\.5; it must lie in \[0, 0\.1\]"):
        make_teleoperator("keyboard", {"step": 0.5})
    with pytest.raises(ReflexError, match="which is none: it lacks connect, start"):
        make_teleoperator("pathlib:Path", {})
