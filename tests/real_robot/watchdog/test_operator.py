"""Keys of a terminal (a real pty), lines of a pipe, and the pulse that two processes share."""

from __future__ import annotations

import os
import pty
import termios
from pathlib import Path

import pytest

from real_robot.watchdog.operator import Keyboard, Lines, switch_says_stop
from real_robot.watchdog.process import Watchdog
from real_robot.watchdog.pulse import Order, Phase, SharedPulse, WatchdogState
from real_robot.watchdog.settings import ArmSpec, WatchdogSettings, alone_with_arm
from vla.errors import ReflexError
from vla.run.jsonl import read_lines


def test_keys_are_read_one_by_one_and_the_terminal_is_put_back() -> None:
    theirs, ours = pty.openpty()
    before = termios.tcgetattr(ours)
    keyboard = Keyboard(ours)
    assert not termios.tcgetattr(ours)[3] & termios.ICANON, "no Enter is needed"
    os.write(theirs, b"xq s")
    assert keyboard.orders() == [Order.END_EPISODE, Order.STOP, Order.SUCCESS]
    keyboard.close()
    assert termios.tcgetattr(ours) == before
    os.close(ours)
    assert keyboard.orders() is None, "the terminal is gone"
    os.close(theirs)


def test_tab_changes_hands_to_and_fro_and_keys_are_counted(tmp_path: Path) -> None:
    pulse = SharedPulse(tmp_path / "pulse", create=True)
    paths = (tmp_path / "pulse", tmp_path / "watchdog.jsonl", tmp_path / "latch")
    watchdog = Watchdog(WatchdogSettings(None, os.getpid(), *paths))
    theirs, ours = pty.openpty()
    keyboard = Keyboard(ours)
    os.write(theirs, b"\tee")
    assert watchdog._listen(keyboard) is None and pulse.person_drives
    os.write(theirs, b"\td")
    assert watchdog._listen(keyboard) is None and not pulse.person_drives
    assert pulse.presses[0] == 1 and pulse.order is Order.NONE, "the loop is asked nothing"
    assert [line["order"] for line in read_lines(paths[1])] == ["take_over", "give_back"]
    os.write(theirs, b"e ")
    assert "pressed stop" in str(watchdog._listen(keyboard))
    keyboard.close()
    pulse.close()


def test_lines_may_come_in_pieces_and_the_pipe_outlives_its_writers(tmp_path: Path) -> None:
    lines = Lines.of_named_pipe(tmp_path / "operator")
    assert lines.orders() == []
    with (tmp_path / "operator").open("w") as writer:
        writer.write("suc")
    assert lines.orders() == []
    (tmp_path / "operator").write_text("cess\n STOP \nwhatever\n")
    assert lines.orders() == [Order.SUCCESS, Order.STOP]
    lines.close()


def test_a_switch_stops_at_its_value_and_when_it_cannot_be_read(tmp_path: Path) -> None:
    switch = tmp_path / "value"
    switch.write_text("0\n")
    assert switch_says_stop(switch, "1") is None
    switch.write_text("1\n")
    assert "reads '1'" in str(switch_says_stop(switch, "1"))
    switch.unlink()
    assert "cannot be read" in str(switch_says_stop(switch, "1"))


def test_both_sides_of_a_pulse_see_the_same(tmp_path: Path) -> None:
    ours = SharedPulse(tmp_path / "pulse", create=True)
    theirs = SharedPulse(tmp_path / "pulse")
    assert theirs.phase is Phase.STARTING and theirs.order is Order.NONE and theirs.last_beat == 0.0
    ours.beat(7)
    ours.phase = Phase.ARMED
    theirs.order = Order.SUCCESS
    theirs.state = WatchdogState.READY
    theirs.alive()
    assert (theirs.step, theirs.phase, ours.order, ours.state) == (7, Phase.ARMED, Order.SUCCESS, WatchdogState.READY)
    assert theirs.last_beat == ours.last_beat > 0 and ours.last_alive > 0
    ours.close()
    theirs.close()


def test_settings_survive_the_way_between_the_processes() -> None:
    settings = WatchdogSettings(
        ArmSpec("a.b:c", {"port": "/dev/x"}), 12, Path("p"), Path("l"), Path("t"), "torque_off", pipe=Path("o")
    )
    assert WatchdogSettings.from_json(settings.to_json()) == settings


def test_an_arm_has_one_driver_at_a_time(tmp_path: Path) -> None:
    latch = tmp_path / "state" / "stopped.json"
    refused = pytest.raises(ReflexError, match="another command drives this arm")
    with alone_with_arm(latch), refused, alone_with_arm(latch):
        raise AssertionError
    with alone_with_arm(latch):
        pass
