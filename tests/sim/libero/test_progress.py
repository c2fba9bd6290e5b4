"""True progress towards LIBERO's goals, on a scene small enough to work out by hand."""

from types import SimpleNamespace
from typing import Any, cast

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.libero.goals import Predicate, Range, Thing
from sim.libero.progress import GoalProgress
from sim.libero.scene import LiberoScene

SCENE = """
<mujoco>
  <worldbody>
    <body name="cup" pos="0.3 0 0.4"><freejoint/><geom size="0.02"/></body>
    <body name="plate" pos="-0.1 0 0"><geom size="0.02" contype="0"/></body>
    <body name="cabinet" pos="0 0.5 0.2">
      <geom size="0.02"/>
      <site name="region" pos="0 0 0.1"/>
      <body name="upper"><joint type="slide" axis="0 -1 0"/><geom size="0.01" pos="0 0 0.2"/></body>
      <body name="lower" pos="0 0 -0.1"><joint type="slide" axis="0 -1 0"/><geom size="0.01" pos="0 0 -0.2"/></body>
    </body>
  </worldbody>
</mujoco>
"""
UPPER, LOWER = 7, 8
"""Addresses of the drawers' joints in qpos, behind the cup's free joint."""
AWAY = np.array([9.0, 9.0, 9.0])
RANGES = (
    ("open", Range(">", 0.1)),
    ("close", Range("<", 0.02)),
    ("turnon", Range(">=", 0.1)),
    ("turnoff", Range("<", 0.02)),
)
NAMES, STARTS = [name for name, _ in RANGES], [0.0, 0.1, 0.0, 0.1]


class SmallScene:
    """What progress asks of a scene, with a hand that is put anywhere."""

    def __init__(self, *words: tuple[str, ...]) -> None:
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self.hand = AWAY
        goal = tuple(Predicate(name, tuple(self.thing(thing) for thing in things)) for name, *things in words)
        self.definition = SimpleNamespace(goal=goal)
        self.put()

    def thing(self, name: str) -> Thing:
        if name == "region":
            return Thing(name, site=self.model.site(name).id, size=(0.1, 0.1, 0.1))
        joints = {"upper": (UPPER,), "lower": (LOWER,), "cabinet": (UPPER, LOWER)}.get(name, ())
        return Thing(name, body=self.model.body(name).id, joints=joints, ranges=RANGES if joints else ())

    def put(self, cup: Any = (0.3, 0.0, 0.4), upper: float = 0.0, lower: float = 0.0, hand: Any = AWAY) -> "SmallScene":
        self.data.qpos[:3], self.data.qpos[UPPER], self.data.qpos[LOWER] = cup, upper, lower
        self.hand = np.array(hand)
        mujoco.mj_forward(self.model, self.data)
        return self

    def end_effector_pose(self) -> tuple[np.ndarray, np.ndarray]:
        return self.hand.copy(), np.eye(3)

    def joint_at(self, address: int) -> int:
        return int(np.flatnonzero(self.model.jnt_qposadr == address)[0])

    def progress(self) -> GoalProgress:
        return GoalProgress(cast(LiberoScene, self))


@pytest.mark.parametrize("target", ["plate", "region"])
def test_placing_counts_the_hand_and_the_way(target: str) -> None:
    scene = SmallScene(("on" if target == "plate" else "in", "cup", target))
    progress = scene.progress()
    end = np.array([-0.1, 0.0]) if target == "plate" else np.array([0.0, 0.5])
    start = np.array([0.3, 0.0])
    halfway = [*(start + end) / 2, 0.7]
    assert progress([False]) == 0.0
    assert scene.put(hand=(0.3, 0.0, 0.4)) and progress([False]) == pytest.approx(0.25)
    assert scene.put(hand=(0.3, 0.0, 0.55)) and progress([False]) == pytest.approx(0.125)
    assert scene.put(cup=halfway) and progress([False]) == pytest.approx(0.325)
    assert scene.put(cup=[*end, 0.4], hand=[*end, 0.4]) and progress([False]) == pytest.approx(0.9)
    assert scene.put(cup=[*(2 * start - end), 0.4]) and progress([False]) == 0.0, "carried away"
    assert progress([True]) == 1.0
    near = scene.put(cup=(end[0] + 0.02, end[1], 0.4)).progress()
    assert near([False]) == pytest.approx(0.65 * (1 - 0.02 / 0.05)), "a way of five centimetres at least"


@pytest.mark.parametrize(
    ("name", "start", "half", "far"), [("open", 0.0, 0.05, 0.2), ("turnon", 0.0, 0.05, 0.2), ("close", 0.1, 0.06, -0.1)]
)
def test_moving_counts_how_far_the_joint_is(name: str, start: float, half: float, far: float) -> None:
    scene = SmallScene((name, "upper"))
    progress = scene.put(upper=start).progress()
    values = [scene.put(upper=place) and progress([False]) for place in (start, half, far, 2 * start - half)]
    assert values == pytest.approx([0.0, 0.325, 0.65, 0.0], abs=1e-9)
    assert scene.put(upper=start, hand=scene.data.xanchor[scene.joint_at(UPPER)]) and progress([False]) == 0.25


def test_of_two_drawers_one_opens_and_both_are_shut() -> None:
    scene = SmallScene(*((name, "cabinet") for name, _ in RANGES))
    starts = {name: scene.put(upper=start, lower=start).progress() for name, start in zip(NAMES, STARTS, strict=True)}
    scene.put(upper=0.02, lower=0.05)
    for name in ("open", "turnon"):
        assert starts[name]([other != name for other in NAMES]) == pytest.approx((3 + 0.325) / 4)
    scene.put(upper=0.06, lower=0.02)
    for name in ("close", "turnoff"):
        assert starts[name]([other != name for other in NAMES]) == pytest.approx((3 + 0.325) / 4)
    for joint in (UPPER, LOWER):  # at either of its handles the hand is there
        scene.put(upper=0.1, lower=0.1, hand=scene.data.xanchor[scene.joint_at(joint)])
        assert starts["close"]([name != "close" for name in NAMES]) == pytest.approx((3 + 0.25) / 4)


def test_a_joint_that_starts_at_its_threshold_has_no_way_to_go() -> None:
    scene = SmallScene(("open", "upper"))
    assert scene.put(upper=0.1).progress()([False]) == pytest.approx(0.65)


def test_lifting_counts_the_height_up_to_a_metre() -> None:
    scene = SmallScene(("up", "cup"))
    progress = scene.progress()
    heights = [scene.put(cup=(0.3, 0.0, height)) and progress([False]) for height in (0.4, 0.7, 1.0, 2.0, 0.1)]
    assert heights == pytest.approx([0.0, 0.325, 0.65, 0.65, 0.0], abs=1e-9)
    low = scene.put(cup=(0.3, 0.0, 0.99)).progress()
    assert scene.put(cup=(0.3, 0.0, 1.0)) and low([False]) == pytest.approx(0.65 * 0.01 / 0.05)


def test_conditions_that_hold_count_whole_and_the_furthest_other_a_share() -> None:
    scene = SmallScene(("on", "cup", "plate"), ("open", "upper"), ("false",))
    progress = scene.progress()
    scene.put(cup=(0.1, 0.0, 0.4), upper=0.02)  # half the way, and a fifth
    assert progress([False, False, False]) == pytest.approx(0.325 / 3)
    assert progress([True, False, False]) == pytest.approx((1 + 0.65 * 0.2) / 3)
    assert progress([True, True, False]) == pytest.approx(2 / 3)
    assert progress([True, True, True]) == 1.0


_POINT = st.tuples(*[st.floats(-1.2, 1.2)] * 3)
_SHARES = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(sorted)
EVERYTHING = SmallScene(
    ("on", "cup", "plate"),
    ("in", "cup", "region"),
    ("up", "cup"),
    *((name, thing) for name, _ in RANGES for thing in ("upper", "cabinet")),
)


@given(_POINT, _POINT, _POINT, st.floats(-0.1, 0.3), st.floats(-0.1, 0.3), st.sets(st.integers(0, 10)))
def test_progress_is_a_share_and_whole_only_at_success(
    start: Any, cup: Any, hand: Any, upper: float, lower: float, met: set[int]
) -> None:
    progress = EVERYTHING.put(cup=start, upper=lower, lower=upper).progress()
    EVERYTHING.put(cup=cup, upper=upper, lower=lower, hand=hand)
    holds = [index in met for index in range(len(EVERYTHING.definition.goal))]
    value = progress(holds)
    assert value == 1.0 if all(holds) else len(met) / 11 <= value <= (len(met) + 0.9) / 11 + 1e-9


@given(_POINT, _SHARES)
def test_a_thing_that_is_brought_in_a_straight_line_makes_progress(start: Any, shares: list[float]) -> None:
    for index, end in enumerate([(-0.1, 0.0, 0.05), (0.0, 0.5, 0.3), (start[0], start[1], 1.1)]):
        alone = [position != index for position in range(len(EVERYTHING.definition.goal))]
        progress = EVERYTHING.put(cup=start).progress()
        places = [np.array(start) + share * (np.array(end) - start) for share in shares]
        before, after = (EVERYTHING.put(cup=place, hand=place) and progress(alone) for place in places)
        assert after >= before - 1e-12
