"""Both sides of the thresholds of robosuite's conditions, on bodies that are put where a test wants them."""

from typing import Any

import mujoco
import numpy as np
import pytest

from sim.robosuite.goals import InBins, Lifted, OnPegs, Opened, Stacked, Wiped, released

SCENE = """
<mujoco>
  <option gravity="0 0 0"/>
  <worldbody>
    <body name="cube" pos="0 0 1"><freejoint/><geom name="cube" type="box" size="0.02 0.02 0.02"/></body>
    <body name="other" pos="0 0 3"><freejoint/><geom name="other" type="box" size="0.02 0.02 0.02"/></body>
    <body name="peg" pos="0.2 0.1 0"><geom name="peg" size="0.01" contype="0" conaffinity="0"/></body>
    <body name="left"><geom name="left" size="0.01" pos="5 5 5"/></body>
    <body name="right" pos="9 9 9"><freejoint/><geom name="right" size="0.01"/></body>
    <body name="door" pos="-3 0 0"><joint name="door" axis="0 0 1"/><geom size="0.01"/></body>
    <site name="hand" pos="0 0 5"/>
  </worldbody>
</mujoco>
"""
HAIR = 1e-6
TABLE = 0.8


class Small:
    """The scene, with bodies put at places."""

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)

    def put(self, **places: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
        for name, place in places.items():
            address = self.model.jnt_qposadr[self.model.body(name).jntadr[0]]
            self.data.qpos[address : address + np.size(place)] = place
        mujoco.mj_forward(self.model, self.data)
        return self.model, self.data

    def body(self, name: str) -> int:
        return int(self.model.body(name).id)


@pytest.fixture
def small() -> Small:
    return Small()


@pytest.mark.parametrize(("height", "expected"), [(0.04, False), (0.04 + HAIR, True)])
def test_a_cube_is_lifted_four_centimetres(small: Small, height: float, expected: bool) -> None:
    assert Lifted(small.body("cube"), TABLE).conditions(*small.put(cube=(0, 0, TABLE + height))) == [expected]


@pytest.mark.parametrize(("angle", "expected"), [(0.3, False), (0.3 + HAIR, True), (-0.5, False)])
def test_a_door_is_open_one_way(small: Small, angle: float, expected: bool) -> None:
    goal = Opened(int(small.model.joint("door").qposadr[0]))
    assert goal.conditions(*small.put(door=angle)) == [expected]


def test_stacked_is_lifted_on_the_other_and_let_go(small: Small) -> None:
    geoms = {name: (int(small.model.geom(name).id),) for name in ("cube", "other", "left", "right")}
    goal = Stacked(small.body("cube"), TABLE, geoms["cube"], geoms["other"], (geoms["right"], geoms["right"]))
    on_it = {"cube": (0, 0, TABLE + 0.0605), "other": (0, 0, TABLE + 0.021)}
    assert goal.conditions(*small.put(**on_it)) == [True, True]
    assert goal.conditions(*small.put(right=(0.029, 0, TABLE + 0.07))) == [True, False], "held"
    half = Stacked(small.body("cube"), TABLE, geoms["cube"], geoms["other"], (geoms["left"], geoms["right"]))
    assert half.conditions(*small.put()) == [True, True], "one finger alone does not hold it"
    small.put(right=(9, 9, 9))
    assert goal.conditions(*small.put(cube=(0, 0, TABLE + 0.1))) == [True, False], "over it"
    lower = {"cube": (0, 0, TABLE + 0.0399), "other": (0, 0, TABLE)}
    assert goal.conditions(*small.put(**lower)) == [False, False]


def test_released_is_about_four_centimetres() -> None:
    reach = float(np.arctanh(0.4)) / 10
    assert 0.04 < reach < 0.045
    for way in (np.eye(3)[0], -np.eye(3)[2]):
        assert not released(np.ones(3), np.ones(3) + (reach - HAIR) * way)
        assert released(np.ones(3), np.ones(3) + (reach + HAIR) * way)


def test_a_nut_is_around_its_peg_low_and_let_go(small: Small) -> None:
    goal = OnPegs((small.body("cube"),), (small.body("peg"),), TABLE, int(small.model.site("hand").id))
    peg = np.array([0.2, 0.1, TABLE])
    for way, expected in [
        ((0.0, 0.0, 0.02), True),
        ((0.03 - HAIR, -0.03 + HAIR, 0.0), True),
        ((0.03 + HAIR, 0.0, 0.0), False),
        ((0.0, -0.03 - HAIR, 0.0), False),
        ((0.0, 0.0, 0.05 - HAIR), True),
        ((0.0, 0.0, 0.05 + HAIR), False),
    ]:
        assert goal.conditions(*small.put(cube=peg + np.array(way))) == [expected], way
    small.model.site_pos[0] = peg
    assert goal.conditions(*small.put(cube=peg)) == [False], "the hand is still there"


def test_a_thing_is_within_all_walls_of_its_bin(small: Small) -> None:
    bodies = (small.body("cube"), small.body("other"))
    low, high = (0.0, -0.1, 0.8), (0.2, 0.1, 0.9)
    goal = InBins(bodies, (low, (5.0, 5.0, 5.0)), (high, (6.0, 6.0, 6.0)), int(small.model.site("hand").id))
    assert goal.conditions(*small.put(cube=(0.1, 0.0, 0.85), other=(5.5, 5.5, 5.5))) == [True, True]
    assert goal.conditions(*small.put(cube=(5.5, 5.5, 5.5), other=(0.1, 0.0, 0.85))) == [False, False]
    for axis in range(3):
        for wall, beyond in ((low[axis], -HAIR), (high[axis], HAIR)):
            for side, expected in ((-1, True), (1, False)):
                place = [0.1, 0.0, 0.85]
                place[axis] = wall + side * beyond
                assert goal.conditions(*small.put(cube=place))[0] is expected, (axis, place)
    small.model.site_pos[0] = (0.1, 0.0, 0.85)
    assert goal.conditions(*small.put(cube=(0.1, 0.0, 0.85))) == [False, False]


@pytest.mark.parametrize(
    ("place", "unsafe"), [(0.11, False), (0.09, True), (1.89, False), (1.91, True), (-0.5, True), (2.5, True)]
)
def test_nothing_is_wiped_within_a_tenth_radian_of_a_joints_limit(small: Small, place: float, unsafe: bool) -> None:
    door = int(small.model.joint("door").qposadr[0])
    _, data = small.put(door=place)
    arm = (int(small.model.geom("left").id),)
    assert Wiped((), (), (0, 0, 0, 0), arm, (door,), ((0.0, 2.0),))._unsafe(data) is unsafe
    assert not Wiped((), (), (0, 0, 0, 0), arm, (door,), ((0.0, 0.0),))._unsafe(data), "a joint without limits"


def test_nothing_is_wiped_while_the_arm_touches_something(small: Small) -> None:
    arm = (int(small.model.geom("left").id),)
    door = int(small.model.joint("door").qposadr[0])
    wiped = Wiped((), (), (0, 0, 0, 0), arm, (door,), ((-2.0, 2.0),))
    assert wiped._unsafe(small.put(cube=(5.0, 5.0, 5.02))[1])
    assert not wiped._unsafe(small.put(cube=(0, 0, 1.0))[1])
