"""A leader arm: an emulated SO-101 of its own, whose joints a test moves by the hand."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from real_robot.arms.arm import ArmError
from real_robot.emulators.so101 import SO101Emulator
from real_robot.teleoperation.leader import Leader, LeaderSettings
from real_robot.teleoperation.teleoperator import connected
from sim.so101.embodiment import SO101
from tests.real_robot.control.simulated import LIMITS
from tests.real_robot.emulators.test_so101 import wait_for
from vla.errors import ReflexError

RAISED = [10.0, -30.0, 20.0, 40.0, 5.0, 50.0]
NO_KEYS = np.zeros(7)
FOLLOWER: Any = SimpleNamespace(embodiment=SO101, limits=LIMITS)


@pytest.fixture(scope="module")
def hand() -> Iterator[SO101Emulator]:
    """The leader: no cameras, and nothing else happens to it."""
    with SO101Emulator(frames_per_second=0) as emulator:
        yield emulator


@pytest.fixture
def leader(hand: SO101Emulator) -> Iterator[Leader]:
    hand.set_faults()
    hand.reset(0)
    hand.guide(RAISED)
    made = Leader(LeaderSettings(hand.port, str(hand.calibration_file), timeout=0.1, max_age=0.3))
    made.connect(FOLLOWER)
    yield made
    made.disconnect()


def positions(leader: Leader) -> NDArray[np.float64] | None:
    """What a control step would get."""
    leader.prepare()
    time.sleep(1.0 / 30.0)
    wish = leader.wish(NO_KEYS)
    return None if wish is None else wish.positions


def is_at(leader: Leader, place: list[float]) -> bool:
    found = positions(leader)
    return found is not None and bool(np.abs(found - place).max() < 3.0)


def test_a_leader_is_limp_and_says_where_the_hand_leads_it(hand: SO101Emulator, leader: Leader) -> None:
    assert hand.status()["torque"] == [False] * 6
    assert wait_for(lambda: is_at(leader, RAISED))
    elsewhere = [-20.0, -50.0, 30.0, 60.0, -15.0, 20.0]
    hand.guide(elsewhere)
    assert wait_for(lambda: is_at(leader, elsewhere))
    leader.disconnect()
    leader.disconnect()
    assert hand.status()["torque"] == [False] * 6


def test_a_silent_leader_is_no_wish_soon_and_one_again_when_it_is_back(hand: SO101Emulator, leader: Leader) -> None:
    assert wait_for(lambda: is_at(leader, RAISED))
    hand.set_faults(silent=True)
    began = time.monotonic()
    assert wait_for(lambda: positions(leader) is None)
    assert time.monotonic() - began < 2.0
    hand.set_faults()
    assert wait_for(lambda: is_at(leader, RAISED))


def test_an_encoder_that_misreads_once_is_asked_again(hand: SO101Emulator, leader: Leader) -> None:
    assert wait_for(lambda: is_at(leader, RAISED))
    for _ in range(3):
        hand.set_faults(spike=1024, packets=1, joints=["elbow_flex"])
        assert all(is_at(leader, RAISED) for _ in range(4))


def test_a_leader_is_read_only_when_a_control_step_begins(hand: SO101Emulator, leader: Leader) -> None:
    assert wait_for(lambda: is_at(leader, RAISED))
    time.sleep(0.35)
    assert leader.wish(NO_KEYS) is None, "nobody asked for so long"
    before = hand.status()["bus"]["instructions"]
    for _ in range(10):
        assert positions(leader) is not None
    assert 10 <= hand.status()["bus"]["instructions"] - before <= 14


def test_a_leader_of_other_joints_or_that_is_not_there_is_refused(hand: SO101Emulator) -> None:
    settings = {"port": hand.port, "calibration": str(hand.calibration_file)}
    other: Any = SimpleNamespace(embodiment=SO101, limits=dataclasses.replace(LIMITS, units=("rad",) * 6))
    with pytest.raises(ReflexError, match="the leader's joints are"), connected("leader", settings, other):
        pass
    gone = settings | {"port": "/dev/nowhere"}
    refused = pytest.raises(ReflexError, match="teleoperator=leader: the leader arm on /dev/nowhere: cannot open")
    with refused, connected("leader", gone, FOLLOWER):
        pass
    wrong = settings | {"calibration": "no.json"}
    with pytest.raises(ReflexError, match=r"there is no calibration at no\.json"), connected("leader", wrong, FOLLOWER):
        pass
    with pytest.raises(ArmError):
        Leader(LeaderSettings(hand.port, "no.json"))
