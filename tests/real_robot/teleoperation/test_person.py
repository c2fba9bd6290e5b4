"""Taking over and giving back, without an arm: who drives, what is dropped, and that nothing jumps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from real_robot.arms.arm import Arm
from real_robot.control.schedulers import NO_WISH, Chunk, Timing, make_scheduler
from real_robot.teleoperation.person import TAKEN_OVER, HandOver, Person, TakeOver
from real_robot.teleoperation.teleoperator import Wish

FREQUENCY = 30.0
TIMING = Timing(FREQUENCY, execute_steps=4, max_chunk_age=1.0, max_action_delay=0.1)


@dataclass
class Pointer:
    """A teleoperator of one's own: it wants the arm where a test says."""

    place: NDArray[np.float64] | None
    started: list[NDArray[np.float64]] = field(default_factory=list)

    def connect(self, arm: Arm) -> None: ...

    def start(self, commanded: NDArray[np.float64], presses: NDArray[np.float64]) -> None:
        self.started.append(commanded)

    def prepare(self) -> None: ...

    def wish(self, presses: NDArray[np.float64]) -> Wish | None:
        return None if self.place is None else Wish(self.place.copy(), 0.0)

    def disconnect(self) -> None: ...


@dataclass
class Hands:
    person_drives: bool = False
    presses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(7))


@dataclass
class Desk:
    """A policy's strategy and a person with a pointer, and where the commands stand."""

    pointer: Pointer
    hands: Hands = field(default_factory=Hands)
    commanded: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def __post_init__(self) -> None:
        self.person = Person(self.pointer, self.hands, lambda: self.commanded, [10.0, 10.0], 0.1, 1 / FREQUENCY)
        self.both = TakeOver(make_scheduler("async", TIMING, 0, 0.01), self.person, self.hands)


def chunk(number: int, observed: float, value: float = 1.0) -> Chunk:
    return Chunk(number, observed, np.full((16, 2), value))


@given(
    st.lists(st.floats(-300, 300), min_size=1, max_size=7),
    st.floats(1.0, 300.0),
    st.lists(st.floats(0.0, 30.0), min_size=2, max_size=50),
)
@settings(max_examples=200, deadline=None)
def test_a_hand_over_begins_where_the_commands_stand_ends_at_the_wish_and_keeps_its_speed(
    distance: list[float], velocity: float, moments: list[float]
) -> None:
    here = np.array(distance)
    over = HandOver.between(here, np.zeros(len(here)), np.full(len(here), velocity), now=0.0)
    np.testing.assert_allclose(over.left(0.0), here if over.seconds else 0.0 * here)
    assert not over.left(over.seconds).any() and over.is_over(over.seconds)
    times = np.array(sorted(moments))
    left = np.array([over.left(time) for time in times])
    steps, spans = np.abs(np.diff(left, axis=0)), np.diff(times)[:, None]
    assert (steps <= velocity * spans * (1 + 1e-9) + 1e-9).all()
    assert (np.diff(np.abs(left), axis=0) <= 1e-9).all(), "it never goes back"


def test_a_hand_over_by_hand() -> None:
    over = HandOver.between(np.array([8.0, 0.0]), np.array([0.0, 1.0]), [10.0, 1.0], now=5.0)
    assert over.seconds == pytest.approx(1.875), "the second joint is the slower one: 1.875 * 1 / 1"
    assert over.left(5.0 + 1.875 / 2).tolist() == pytest.approx([4.0, -0.5]), "half is done half-way"


def test_the_arm_follows_a_person_who_moves_meanwhile_and_the_source_says_so() -> None:
    desk = Desk(Pointer(np.array([5.0, 0.0])))
    desk.hands.person_drives = True
    actions, sources = [], []
    for step in range(45):
        desk.pointer.place = np.array([5.0, 0.1 * step])
        planned = desk.both.due(step / FREQUENCY)
        assert planned is not None and planned.chunk is None
        desk.commanded = planned.action
        actions.append(planned.action)
        sources.append(str(desk.both.source))
    assert sources[:3] == ["hand_over"] * 3 and sources[-1] == "person"
    assert sources == sorted(sources), "first the one, then the other"
    assert actions[0].tolist() == pytest.approx([0.0, 0.0]) and actions[-1].tolist() == pytest.approx([5.0, 4.4])
    assert np.abs(np.diff([action[0] for action in actions])).max() <= 10.0 / FREQUENCY + 1e-9
    assert len(desk.pointer.started) == 1


def test_control_steps_that_were_missed_in_a_hand_over_are_not_made_up_for() -> None:
    desk = Desk(Pointer(np.array([20.0, 0.0])))
    moments = [step / FREQUENCY for step in (0, 1, 2, 3, 4, 5, 25, 26, 27, 28)]
    actions = []
    for moment in moments:
        planned = desk.person.due(moment)
        assert planned is not None
        desk.commanded = planned.action
        actions.append(planned.action[0])
    assert max(np.diff(actions)) <= 10.0 / FREQUENCY + 1e-9


def test_a_person_who_is_where_the_arm_is_has_it_at_once() -> None:
    desk = Desk(Pointer(np.zeros(2)))
    planned = desk.person.due(0.0)
    assert planned is not None and desk.person.source == "person"


def test_who_is_not_heard_holds_the_arm_and_is_approached_anew() -> None:
    desk = Desk(Pointer(np.zeros(2)))
    assert desk.person.due(0.0) is not None
    desk.pointer.place = None
    assert desk.person.due(1.0) is None and desk.person.problem == NO_WISH
    assert desk.person.source != "person", "nobody drives"
    desk.person.held()
    desk.pointer.place = np.array([5.0, 0.0])
    planned = desk.person.due(2.0)
    assert planned is not None and desk.person.source == "hand_over" and planned.action.tolist() == [0.0, 0.0]
    assert len(desk.pointer.started) == 2, "keys are counted from where the arm is"


def test_the_policy_drives_until_a_person_takes_over_and_again_when_it_is_given_back() -> None:
    desk = Desk(Pointer(np.full(2, 7.0)))
    both = desk.both
    both.reset(0)
    assert both.wants(0.0) and both.add(chunk(0, 0.0), 0.1) is None
    planned = both.due(0.1)
    assert planned is not None and both.source == "policy" and planned.action.tolist() == [1.0, 1.0]
    desk.hands.person_drives = True
    assert not both.wants(0.2)
    planned = both.due(0.2)
    assert planned is not None and str(both.source) == "hand_over"
    assert both.add(chunk(1, 0.1), 0.3) == TAKEN_OVER, "it was asked for before the take-over"
    desk.hands.person_drives = False
    assert both.wants(0.4), "it asks anew"
    assert both.due(0.4) is None and both.problem == "no_action", "the chunk of before is not used"
    assert both.add(chunk(2, 0.3), 0.45) == TAKEN_OVER, "it was observed while the person drove"
    assert both.due(0.45) is None
    assert both.add(chunk(3, 0.4, 2.0), 0.5) is None
    planned = both.due(0.5)
    assert planned is not None and both.source == "policy" and planned.action.tolist() == [2.0, 2.0]
    assert both.rejected == {TAKEN_OVER: 2}


def test_an_episode_begins_with_the_policy() -> None:
    desk = Desk(Pointer(np.zeros(2)))
    desk.hands.person_drives = True
    desk.both.due(0.0)
    desk.both.reset(5)
    assert not desk.hands.person_drives and desk.both.wants(1.0)
    assert desk.both.add(chunk(5, 1.0), 1.1) is None
