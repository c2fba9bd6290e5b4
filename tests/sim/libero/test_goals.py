"""LIBERO's predicates on a scene small enough to work out by hand."""

import json
from dataclasses import replace

import mujoco
import pytest

from sim.contract import EnvironmentRequestError
from sim.core.robosuite_control import ArmIndices
from sim.libero.definition import SceneDefinition
from sim.libero.goals import Flame, Predicate, Range, Thing, show_flames, touching

SCENE = """
<mujoco>
  <worldbody>
    <geom name="table" type="box" size="1 1 0.1" pos="0 0 -0.1"/>
    <body name="cup" pos="0.2 0 0.05"><freejoint/><geom name="cup" type="box" size="0.05 0.05 0.05"/></body>
    <body name="plate" pos="0.2 0 0"><geom name="plate" type="box" size="0.1 0.1 0.001" contype="0"/></body>
    <body name="cabinet" pos="-0.5 0 0.2">
      <geom name="cabinet" type="box" size="0.1 0.1 0.2"/>
      <site name="inside" type="box" size="0.1 0.2 0.05" euler="0 0 90"/>
      <site name="top" type="box" size="0.1 0.1 0.01" pos="0 0 0.2"/>
      <site name="flame" rgba="1 0 0 0"/>
      <body name="drawer"><joint type="slide" axis="1 0 0"/><geom size="0.01" pos="0 0 1"/></body>
    </body>
  </worldbody>
</mujoco>
"""
SLIDE = 7
"""Address of the drawer's joint in qpos, behind the cup's free joint."""


@pytest.fixture
def scene() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def place_cup(scene: tuple[mujoco.MjModel, mujoco.MjData], x: float, y: float, z: float) -> None:
    model, data = scene
    data.qpos[:3] = (x, y, z)
    mujoco.mj_forward(model, data)


def body(model: mujoco.MjModel, name: str) -> Thing:
    return Thing(name, body=model.body(name).id, geoms=(model.geom(name).id,))


def region(model: mujoco.MjModel, name: str, **changes: object) -> Thing:
    site = model.site(name)
    thing = Thing(name, site=site.id, geoms=(model.geom("cabinet").id,), size=tuple(site.size), has_top=True)
    return replace(thing, **changes)  # type: ignore[arg-type]


def test_on_an_object_needs_height_contact_and_nearness(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    on = Predicate("on", (body(model, "cup"), body(model, "plate")))
    place_cup(scene, 0.2, 0.0, 0.0505)
    assert on.holds(model, data)
    place_cup(scene, 0.2 + 0.031, 0.0, 0.0505)  # 3.1 cm beside the plate's centre
    assert not on.holds(model, data)
    place_cup(scene, 0.2, 0.0, 0.06)  # 9 mm over the plate: no contact
    assert not on.holds(model, data)
    upside_down = Predicate("on", (body(model, "plate"), body(model, "cup")))
    place_cup(scene, 0.2, 0.0, 0.0505)
    assert not upside_down.holds(model, data)


def test_in_a_region_is_its_turned_box_and_a_centimetre_below(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    """Turned by 90 degrees, the region reaches 0.2 along x and 0.1 along y, 0.05 up and 0.06 down from z = 0.2."""
    model, data = scene
    inside = Predicate("in", (body(model, "cup"), region(model, "inside")))
    for position, expected in [
        ((-0.5, 0.0, 0.2), True),
        ((-0.5 + 0.19, 0.0, 0.2), True),
        ((-0.5 + 0.21, 0.0, 0.2), False),
        ((-0.5, 0.11, 0.2), False),
        ((-0.5, 0.0, 0.249), True),
        ((-0.5, 0.0, 0.251), False),
        ((-0.5, 0.0, 0.141), True),
        ((-0.5, 0.0, 0.139), False),
    ]:
        place_cup(scene, *position)
        assert inside.holds(model, data) is expected, position
    with pytest.raises(EnvironmentRequestError, match=r"\(in cup plate\).*is no region"):
        Predicate("in", (body(model, "cup"), body(model, "plate"))).holds(model, data)


def test_on_a_region_is_the_space_over_it(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    """The region's centre is at z = 0.4 and it is 1 cm thick on each side: from 0.405 to 0.51 counts."""
    model, data = scene
    top = region(model, "top")
    on = Predicate("on", (body(model, "cup"), top))
    for position, expected in [
        ((-0.5, 0.0, 0.42), True),
        ((-0.5, 0.0, 0.404), False),
        ((-0.5, 0.0, 0.509), True),
        ((-0.5, 0.0, 0.511), False),
        ((-0.5 + 0.101, 0.0, 0.42), False),
    ]:
        place_cup(scene, *position)
        assert on.holds(model, data) is expected, position
    of_cabinet = Predicate("on", (body(model, "cup"), replace(top, region_of_object=True)))
    place_cup(scene, -0.5, 0.0, 0.4495)  # the cup's lower face is half a millimetre inside the cabinet's top
    assert of_cabinet.holds(model, data)
    place_cup(scene, -0.5, 0.0, 0.46)
    assert on.holds(model, data) and not of_cabinet.holds(model, data)
    place_cup(scene, 0.7, 0.7, 0.05)
    anywhere = Predicate("on", (body(model, "cup"), replace(top, has_top=False)))
    assert anywhere.holds(model, data)  # LIBERO's target zones do not know what is on them


def test_up_is_a_metre(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    up = Predicate("up", (body(model, "cup"),))
    place_cup(scene, 0.0, 0.0, 0.999)
    assert not up.holds(model, data)
    place_cup(scene, 0.0, 0.0, 1.0)
    assert up.holds(model, data)


def test_open_and_turnon_ask_for_one_joint_close_and_turnoff_for_all(
    scene: tuple[mujoco.MjModel, mujoco.MjData],
) -> None:
    model, data = scene
    ranges = (("open", Range(">", 0.1)), ("close", Range("<", 0.1)), ("turnon", Range(">=", 0.1)))
    drawer = Thing("drawer", body=model.body("drawer").id, joints=(SLIDE, 0), ranges=ranges)
    data.qpos[0] = 0.0
    holds = {}
    for position in (0.05, 0.1, 0.2):
        data.qpos[SLIDE] = position
        holds[position] = [Predicate(name, (drawer,)).holds(model, data) for name in ("open", "close", "turnon")]
    assert holds == {0.05: [False, True, False], 0.1: [False, False, True], 0.2: [True, False, True]}
    with pytest.raises(EnvironmentRequestError, match=r"\(turnoff drawer\) cannot be judged"):
        Predicate("turnoff", (drawer,)).holds(model, data)
    with pytest.raises(EnvironmentRequestError, match=r"\(folded cup\).*predicates are in, on, up"):
        Predicate("folded", (body(model, "cup"),)).holds(model, data)


@pytest.mark.parametrize(
    ("side", "below", "at", "above"),
    [("<", True, False, False), ("<=", True, True, False), (">", False, False, True), (">=", False, True, True)],
)
def test_ranges(side: str, below: bool, at: bool, above: bool) -> None:
    limits = Range(side, 0.5)  # type: ignore[arg-type]
    assert [limits.holds(value) for value in (0.4, 0.5, 0.6)] == [below, at, above]


def test_a_flame_follows_its_knob(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    flame = Flame(model.site("flame").id, (SLIDE,), Range(">=", 0.5))
    seen = []
    for knob in (0.0, 0.5, 0.6, 0.4):
        data.qpos[SLIDE] = knob
        show_flames([flame], model, data)
        seen.append(float(model.site_rgba[flame.site, 3]))
    assert seen == [0.0, 1.0, 1.0, 0.0]


def test_touching_asks_both_ways(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    table, cup, cabinet = (model.geom(name).id for name in ("table", "cup", "cabinet"))
    place_cup(scene, 0.6, 0.0, 0.0495)
    assert touching([table], [cup], model, data) and touching([cup], [table], model, data)
    assert not touching([cabinet], [cup], model, data)
    assert not touching([], [cup], model, data)
    place_cup(scene, 0.6, 0.0, 0.5)
    assert not touching([table], [cup], model, data)


def test_a_definition_survives_json() -> None:
    ranges = (("open", Range("<", -0.14)), ("close", Range(">", 0.0)))
    size = (0.1, 0.2, 0.3)
    drawer = Thing(
        "drawer", site=3, geoms=(4, 5), region_of_object=True, has_top=True, size=size, joints=(6,), ranges=ranges
    )
    definition = SceneDefinition(
        arm=ArmIndices(0, [0, 1], [2, 3], [4, 5], [6, 7]),
        end_effector_body=8,
        fingers=(9, 10),
        substeps=25,
        bodies={"bowl": 11},
        fixture_bodies=(12,),
        goal=(Predicate("open", (drawer,)), Predicate("on", (Thing("bowl", body=11, joints=(1,)), drawer))),
        flames=(Flame(13, (14,), Range(">=", 0.5)),),
    )
    assert SceneDefinition.from_json(json.loads(json.dumps(definition.as_json()))) == definition
