"""Goals and progress, on worlds worked by hand: both sides of every threshold, and the way from 0 to 1."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from sim.tabletop.goals import (
    LIFT_HEIGHT,
    PUSH_DISTANCE,
    RELEASE_DISTANCE,
    ButtonPressed,
    DrawerOpened,
    DrawerShut,
    Goal,
    InDrawer,
    Lifted,
    PlacedOn,
    Pushed,
    WorldState,
    task_progress,
)
from sim.tabletop.scene import (
    DRAWER_CLOSED,
    DRAWER_HANDLE,
    DRAWER_OPEN,
    DRAWER_TRAVEL,
    HALF_SIZE,
    PLATE_HALF_HEIGHT,
    PLATE_RADIUS,
    Scene,
)
from sim.tabletop.tasks import Task

CUBE = np.array([0.1, 0.0, HALF_SIZE])
PLATE = np.array([0.0, -0.1, PLATE_HALF_HEIGHT])
DRAWER = np.array([0.0, 0.34, 0.0])
BUTTON = np.array([0.1, 0.1, 0.045])
WORLD = WorldState(
    gripper=np.array([0.0, 0.0, 0.2]),
    gripper_opening=0.08,
    objects={"red cube": CUBE, "blue cube": np.array([-0.1, 0.1, HALF_SIZE])},
    initial_objects={"red cube": CUBE, "blue cube": np.array([-0.1, 0.1, HALF_SIZE])},
    plates={"white plate": PLATE},
    drawer_position=DRAWER,
    button=BUTTON,
)
GOALS: tuple[Goal, ...] = (
    Lifted("red cube"),
    PlacedOn("red cube", "white plate"),
    PlacedOn("red cube", "blue cube"),
    Pushed("red cube", (0.0, -1.0)),
    DrawerOpened(),
    DrawerShut(),
    InDrawer("red cube"),
    ButtonPressed(),
)
AWAY = [9.0, 9.0, 9.0]
"""A gripper that is far from everything."""
A_HAIR = 1e-6


def _with(position: ArrayLike, gripper: ArrayLike = (0.0, 0.0, 0.2), opening: float = 0.08) -> WorldState:
    objects = {**WORLD.objects, "red cube": np.array(position)}
    return replace(WORLD, objects=objects, gripper=np.array(gripper), gripper_opening=opening)


def _moved(start: np.ndarray, way: ArrayLike) -> np.ndarray:
    return start + np.array(way)


# ---- what holds ------------------------------------------------------------------------------------------------------


def test_lifted_needs_height_and_the_gripper() -> None:
    goal = Lifted("red cube")
    assert not goal.holds(WORLD)
    assert goal.holds(_with([0.1, 0.0, 0.12], [0.1, 0.0, 0.12], 0.04))
    assert not goal.holds(_with([0.1, 0.0, 0.12], [0.1, 0.0, 0.2], 0.04)), "an object in the air but not in the gripper"
    assert goal.holds(_with([0.0, 0.0, LIFT_HEIGHT + A_HAIR], [0.0, 0.0, LIFT_HEIGHT]))
    assert not goal.holds(_with([0.0, 0.0, LIFT_HEIGHT], [0.0, 0.0, LIFT_HEIGHT]))
    assert goal.holds(_with([0.05 - A_HAIR, 0.0, 0.1], [0.0, 0.0, 0.1]))
    assert not goal.holds(_with([0.05, 0.0, 0.1], [0.0, 0.0, 0.1])), "five centimetres from the gripper"
    assert LIFT_HEIGHT == 0.08


RESTING = PLATE_HALF_HEIGHT + HALF_SIZE
"""Height of an object's centre over the centre of the plate that it lies on."""
ON_CUBE = 2 * HALF_SIZE


def test_placed_on_a_plate_needs_release() -> None:
    goal = PlacedOn("red cube", "white plate")
    resting = [0.01, -0.11, 2 * PLATE_HALF_HEIGHT + HALF_SIZE]
    assert goal.holds(_with(resting))
    assert not goal.holds(_with(resting, resting, 0.04)), "still held"
    assert not goal.holds(_with([0.08, -0.1, HALF_SIZE])), "beside the plate"


@pytest.mark.parametrize(
    ("target", "place", "height", "radius"),
    [("white plate", PLATE, RESTING, PLATE_RADIUS), ("blue cube", WORLD.objects["blue cube"], ON_CUBE, HALF_SIZE)],
)
def test_placed_is_centred_and_at_rest(target: str, place: np.ndarray, height: float, radius: float) -> None:
    goal = PlacedOn("red cube", target)
    for way, expected in [
        ([0.0, 0.0, height], True),
        ([radius - A_HAIR, 0.0, height], True),
        ([0.0, -(radius - A_HAIR), height], True),
        ([radius + A_HAIR, 0.0, height], False),
        ([0.0, -(radius + A_HAIR), height], False),
        ([0.0, 0.0, height + 0.008 - A_HAIR], True),
        ([0.0, 0.0, height - 0.008 + A_HAIR], True),
        ([0.0, 0.0, height + 0.008 + A_HAIR], False),
        ([0.0, 0.0, height - 0.008 - A_HAIR], False),
    ]:
        assert goal.holds(_with(_moved(place, way), AWAY)) is expected, way
    exactly = replace(WORLD, plates={"white plate": np.zeros(3)})
    on_the_edge = {**WORLD.objects, "red cube": np.array([PLATE_RADIUS, 0.0, RESTING])}
    assert not PlacedOn("red cube", "white plate").holds(replace(exactly, objects=on_the_edge))


@pytest.mark.parametrize(
    ("opening", "distance", "released"),
    [
        (0.055 + A_HAIR, 0.0, True),
        (0.055, 0.0, False),
        (0.0, RELEASE_DISTANCE + A_HAIR, True),
        (0.0, RELEASE_DISTANCE, False),
    ],
)
def test_an_object_is_released_by_an_open_gripper_or_one_that_left(
    opening: float, distance: float, released: bool
) -> None:
    world = replace(WORLD, drawer_position=np.array([0.0, 0.0, 0.0]), plates={"white plate": -np.eye(3)[2] * RESTING})
    there = replace(
        world,
        objects={**WORLD.objects, "red cube": np.zeros(3)},
        gripper=np.array([0.0, distance, 0.0]),
        gripper_opening=opening,
    )
    assert PlacedOn("red cube", "white plate").holds(there) is released
    assert InDrawer("red cube").holds(there) is released
    assert RELEASE_DISTANCE == 0.045


def test_stacked_needs_the_upper_on_the_lower() -> None:
    goal = PlacedOn("red cube", "blue cube")
    assert goal.holds(_with([-0.1, 0.105, 3 * HALF_SIZE]))
    assert not goal.holds(_with([-0.1, 0.13, 3 * HALF_SIZE]))
    assert not goal.holds(_with([-0.1, 0.105, HALF_SIZE]))


def test_pushed_counts_travel_in_its_direction_only() -> None:
    goal = Pushed("red cube", (0.0, -1.0))
    assert goal.holds(_with([0.1, -0.11, HALF_SIZE]))
    assert not goal.holds(_with([0.1, 0.11, HALF_SIZE])), "pushed the other way"
    assert not goal.holds(_with([0.1, -0.11, 0.1])), "carried, not pushed"
    assert not goal.holds(_with([0.2, -0.11, HALF_SIZE])), "mostly sideways"
    for way, expected in [
        ([0.0, -PUSH_DISTANCE, 0.0], False),
        ([0.0, -PUSH_DISTANCE - A_HAIR, 0.0], True),
        ([0.08 - A_HAIR, -0.11, 0.0], True),
        ([-0.08 - A_HAIR, -0.11, 0.0], False),
        ([0.0, -0.11, 0.01 - A_HAIR], True),
        ([0.0, -0.11, 0.01], False),
    ]:
        assert goal.holds(_with(_moved(CUBE, way))) is expected, way
    assert PUSH_DISTANCE == 0.10
    from_the_middle = replace(WORLD, initial_objects={"red cube": np.zeros(3)})
    assert not goal.holds(replace(from_the_middle, objects={"red cube": np.array([0.08, -0.11, 0.0])})), "8 cm sideways"


def test_a_slanting_push_is_measured_along_its_direction() -> None:
    goal = Pushed("red cube", (0.6, 0.8))
    assert goal.holds(_with(_moved(CUBE, [0.066, 0.088, 0.0])))
    assert not goal.holds(_with(_moved(CUBE, [0.066 - 0.072, 0.088 + 0.054, 0.0]))), "11 cm along, 9 cm across"
    assert not goal.holds(_with(_moved(CUBE, [-0.066, -0.088, 0.0])))


def test_a_drawer_is_open_or_shut_or_between() -> None:
    assert DrawerOpened().holds(replace(WORLD, drawer_slide=0.1))
    assert not DrawerOpened().holds(WORLD)
    assert DrawerShut().holds(WORLD)
    states = [
        (DrawerOpened().holds(world), DrawerShut().holds(world))
        for slide in (0.0, DRAWER_CLOSED - A_HAIR, DRAWER_CLOSED, 0.05, DRAWER_OPEN, DRAWER_OPEN + A_HAIR, 0.14)
        for world in [replace(WORLD, drawer_slide=slide)]
    ]
    shut, between, opened = (False, True), (False, False), (True, False)
    assert states == [shut, shut, between, between, between, opened, opened]


def test_in_the_drawer_is_between_its_walls_and_low() -> None:
    out = replace(_with([0.0, 0.2, 0.03]), drawer_position=np.array([0.0, 0.22, 0.0]), drawer_slide=0.12)
    assert InDrawer("red cube").holds(out)
    assert not InDrawer("red cube").holds(WORLD)
    at_origin = replace(WORLD, drawer_position=np.zeros(3))
    for way, expected in [
        ([0.06 - A_HAIR, 0.0, 0.0], True),
        ([-0.06 + A_HAIR, 0.0, 0.0], True),
        ([0.06, 0.0, 0.0], False),
        ([-0.06, 0.0, 0.0], False),
        ([0.0, 0.096 - A_HAIR, 0.0], True),
        ([0.0, 0.096, 0.0], False),
        ([0.0, -0.08 + A_HAIR, 0.0], True),
        ([0.0, -0.08, 0.0], False),
        ([0.0, 0.0, 0.045 - A_HAIR], True),
        ([0.0, 0.0, 0.045], False),
    ]:
        world = replace(at_origin, objects={"red cube": np.array(way)})
        assert InDrawer("red cube").holds(world) is expected, way


def test_button_goal_is_latched() -> None:
    assert ButtonPressed().holds(replace(WORLD, button_latched=True))
    assert not ButtonPressed().holds(WORLD)


# ---- progress by hand ------------------------------------------------------------------------------------------------


def test_progress_of_lifting_by_hand() -> None:
    """Half for the gripper's nearness over 30 cm, half for the height over the table."""
    goal = Lifted("red cube")
    assert goal.progress(_with(CUBE, AWAY)) == 0.0
    assert goal.progress(_with(CUBE, CUBE)) == 0.5
    assert goal.progress(_with(CUBE, _moved(CUBE, [0.0, 0.0, 0.15]))) == pytest.approx(0.25)
    assert goal.progress(_with(CUBE, _moved(CUBE, [0.18, 0.24, 0.0]))) == pytest.approx(0.0, abs=1e-12)
    halfway = [0.1, 0.0, HALF_SIZE + (LIFT_HEIGHT - HALF_SIZE) / 2]
    assert goal.progress(_with(halfway, AWAY)) == pytest.approx(0.25)
    assert goal.progress(_with([0.1, 0.0, 0.3], AWAY)) == 0.5
    assert goal.progress(_with([0.1, 0.0, 0.0], AWAY)) == 0.0, "pressed into the table"


@pytest.mark.parametrize("target", ["white plate", "blue cube"])
def test_progress_of_placing_by_hand(target: str) -> None:
    """A quarter for the gripper's nearness, 0.65 for the share of the way, all when it is there and released."""
    goal = PlacedOn("red cube", target)
    place = PLATE if target == "white plate" else WORLD.objects["blue cube"]
    at = {share: _moved(CUBE, [*(share * (place - CUBE)[:2]), 0.2]) for share in (-0.5, 0.0, 0.5, 0.9, 1.0)}
    assert goal.progress(_with(at[0.0], AWAY)) == pytest.approx(0.0, abs=1e-12)
    assert goal.progress(_with(at[0.5], AWAY)) == pytest.approx(0.325)
    assert goal.progress(_with(at[0.9], at[0.9])) == pytest.approx(0.25 + 0.65 * 0.9)
    assert goal.progress(_with(at[1.0], at[1.0])) == pytest.approx(0.9), "over it, not released"
    assert goal.progress(_with(at[-0.5], AWAY)) == 0.0, "carried away from it"
    assert goal.progress(_with(at[0.0], _moved(at[0.0], [0.0, 0.15, 0.0]))) == pytest.approx(0.125)
    height = RESTING if target == "white plate" else ON_CUBE
    assert goal.progress(_with(_moved(place, [0.0, 0.0, height]))) == 1.0


def test_progress_of_placing_what_starts_near_counts_five_centimetres() -> None:
    start = PLATE + np.array([0.02, 0.0, 0.1])
    near = replace(_with(start, AWAY), initial_objects={"red cube": start})
    assert PlacedOn("red cube", "white plate").progress(near) == pytest.approx(0.65 * (1 - 0.02 / 0.05))


def test_progress_of_pushing_by_hand() -> None:
    # Half the distance pushed (0.05 of 0.10 m), gripper at the object: 0.3 + 0.7 / 2.
    goal = Pushed("red cube", (0.0, -1.0))
    world = _with([0.1, -0.05, HALF_SIZE], [0.1, -0.05, HALF_SIZE])
    assert goal.progress(world) == pytest.approx(0.65)
    assert goal.progress(_with([0.1, -0.05, HALF_SIZE], AWAY)) == pytest.approx(0.35)
    assert goal.progress(_with([0.1, -0.5, HALF_SIZE], AWAY)) == pytest.approx(0.7), "further than asked"
    assert goal.progress(_with([0.1, 0.05, HALF_SIZE], AWAY)) == 0.0, "the other way"
    assert goal.progress(_with(CUBE, _moved(CUBE, [0.0, 0.15, 0.0]))) == pytest.approx(0.15)


def test_progress_of_drawers_by_hand() -> None:
    """Opening counts from shut to `DRAWER_OPEN`, shutting from the stop at `DRAWER_TRAVEL` to `DRAWER_CLOSED`."""
    handle = DRAWER + DRAWER_HANDLE
    away, near = (replace(WORLD, gripper=np.array(place)) for place in (AWAY, handle))
    opening, shutting = DrawerOpened().progress, DrawerShut().progress
    assert (opening(away), opening(near)) == (0.0, 0.3)
    assert opening(replace(near, gripper=_moved(handle, [0.0, 0.0, 0.15]))) == pytest.approx(0.15)
    assert opening(replace(away, drawer_slide=DRAWER_OPEN / 2)) == pytest.approx(0.35)
    assert opening(replace(near, drawer_slide=DRAWER_TRAVEL)) == 1.0
    assert opening(replace(away, drawer_slide=-0.01)) == 0.0
    assert shutting(replace(away, drawer_slide=DRAWER_TRAVEL)) == 0.0
    assert shutting(replace(away, drawer_slide=0.11)) == pytest.approx(0.25)
    assert shutting(replace(away, drawer_slide=DRAWER_CLOSED)) == pytest.approx(1.0)
    assert shutting(replace(away, drawer_slide=0.0)) == 1.0
    assert shutting(replace(away, drawer_slide=0.2)) == 0.0


def test_progress_of_putting_in_the_drawer_by_hand() -> None:
    """A quarter for the gripper, 0.65 for nearness over 35 cm to the middle of the drawer, 3 cm behind its front."""
    goal = InDrawer("red cube")
    middle = DRAWER + np.array([0.0, -0.03, 0.3])
    assert goal.progress(_with(middle, AWAY)) == pytest.approx(0.65)
    assert goal.progress(_with(middle, middle)) == pytest.approx(0.9)
    assert goal.progress(_with(_moved(middle, [0.105, -0.14, 0.0]), AWAY)) == pytest.approx(0.325)
    assert goal.progress(_with(_moved(middle, [0.21, -0.28, 0.0]), AWAY)) == pytest.approx(0.0, abs=1e-12)
    assert goal.progress(_with(_moved(middle, [1.0, 0.0, 0.0]), AWAY)) == 0.0
    held = _moved(middle, [1.0, 0.0, 0.0])
    assert goal.progress(_with(held, _moved(held, [0.0, 0.0, 0.15]))) == pytest.approx(0.125)
    assert goal.progress(_with(_moved(DRAWER, [0.0, 0.0, 0.03]))) == 1.0


def test_progress_to_the_button_by_hand() -> None:
    goal = ButtonPressed()
    assert goal.progress(replace(WORLD, gripper=BUTTON)) == 0.9
    assert goal.progress(replace(WORLD, gripper=_moved(BUTTON, [0.105, 0.0, 0.14]))) == pytest.approx(0.45)
    assert goal.progress(replace(WORLD, gripper=_moved(BUTTON, [0.21, 0.28, 0.0]))) == pytest.approx(0.0, abs=1e-12)
    assert goal.progress(replace(WORLD, gripper=np.array(AWAY))) == 0.0
    assert goal.progress(replace(WORLD, gripper=np.array(AWAY), button_latched=True)) == 1.0


# ---- progress of whole tasks -----------------------------------------------------------------------------------------


def test_progress_counts_finished_stages() -> None:
    goals = (ButtonPressed(), Lifted("red cube"))
    assert task_progress(goals, WORLD) < 0.5
    pressed = replace(WORLD, button_latched=True)
    assert 0.5 <= task_progress(goals, pressed) < 1.0
    done = replace(_with([0.1, 0.0, 0.12], [0.1, 0.0, 0.12], 0.04), button_latched=True)
    assert task_progress(goals, done) == pytest.approx(1.0)


def test_a_stage_counts_less_than_one_until_its_goal_holds() -> None:
    """At the object and at the height asked for, to the last digit: all of its progress, and it does not hold."""
    almost = _with([0.1, 0.0, LIFT_HEIGHT], [0.1, 0.0, LIFT_HEIGHT], 0.04)
    lifted, opened = Lifted("red cube"), DrawerOpened()
    assert lifted.progress(almost) == 1.0 and not lifted.holds(almost)
    assert task_progress((lifted,), almost) == 0.95
    assert task_progress((lifted, opened), almost) == 0.475
    assert task_progress((opened, lifted), almost) == opened.progress(almost) / 2, "what comes later counts later"
    assert task_progress((opened, lifted), almost, any_order=True) == 0.475, "the one furthest along"
    shut_too = (DrawerShut(), opened, lifted)
    assert task_progress(shut_too, almost) == pytest.approx((1 + opened.progress(almost)) / 3)
    assert task_progress(shut_too, almost, any_order=True) == pytest.approx(1.95 / 3)


def test_goals_that_name_no_order_are_shown_from_left_to_right_and_count_in_either_order() -> None:
    # The blue cube starts at y = 0.1, the red one at 0: left is towards -y.
    red, blue = PlacedOn("red cube", "white plate"), PlacedOn("blue cube", "white plate")
    both = Task("both", "put both cubes on the white plate", Scene(), (blue, red), 64, any_order=True)
    named = replace(both, any_order=False)
    assert both.ordered_goals(WORLD) == (red, blue)
    assert named.ordered_goals(WORLD) == (blue, red)
    red_placed = _with([0.01, -0.11, 2 * PLATE_HALF_HEIGHT + HALF_SIZE])
    assert both.ordered_goals(red_placed) == (red, blue), "where things started, not where they are"
    assert both.progress(red_placed) == pytest.approx(0.5 + blue.progress(red_placed) / 2)
    assert named.progress(red_placed) == pytest.approx(blue.progress(red_placed) / 2)


# ---- progress anywhere -----------------------------------------------------------------------------------------------

_POINT = st.tuples(*[st.floats(-0.6, 0.6)] * 3).map(np.array)
_SHARES = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(sorted)


@given(_POINT, _POINT, _POINT, st.floats(0.0, 0.08), st.floats(-0.01, 0.15), st.booleans())
def test_progress_is_a_share_and_whole_only_at_success(
    gripper: np.ndarray, cube: np.ndarray, start: np.ndarray, opening: float, slide: float, latched: bool
) -> None:
    world = replace(
        WORLD,
        gripper=gripper,
        gripper_opening=opening,
        objects={**WORLD.objects, "red cube": cube},
        initial_objects={**WORLD.initial_objects, "red cube": start},
        drawer_slide=slide,
        button_latched=latched,
    )
    for goal in GOALS:
        assert 0.0 <= goal.progress(world) <= 1.0, goal
        whole = task_progress((goal,), world)
        assert whole == 1.0 if goal.holds(world) else 0.0 <= whole <= 0.95, goal
    assert 0.0 <= task_progress(GOALS, world) <= task_progress(GOALS, world, any_order=True) <= 1.0


@given(_POINT, _SHARES)
def test_a_gripper_that_approaches_in_a_straight_line_makes_progress(start: np.ndarray, shares: list[float]) -> None:
    for goal, place in [
        *((goal, CUBE) for goal in GOALS[:4]),
        (DrawerOpened(), DRAWER + DRAWER_HANDLE),
        (InDrawer("red cube"), CUBE),
        (ButtonPressed(), BUTTON),
    ]:
        before, after = (goal.progress(replace(WORLD, gripper=start + share * (place - start))) for share in shares)
        assert after >= before - 1e-12, goal


@given(_POINT, _SHARES)
def test_an_object_that_is_brought_in_a_straight_line_makes_progress(start: np.ndarray, shares: list[float]) -> None:
    """In closed fingers, from anywhere on the table to over where it belongs."""
    start = np.array([*start[:2], HALF_SIZE])
    for goal, end in [
        (Lifted("red cube"), _moved(start, [0.0, 0.0, 0.1])),
        (PlacedOn("red cube", "white plate"), _moved(PLATE, [0.0, 0.0, RESTING])),
        (PlacedOn("red cube", "blue cube"), _moved(WORLD.objects["blue cube"], [0.0, 0.0, ON_CUBE])),
        (Pushed("red cube", (0.0, -1.0)), _moved(start, [0.0, -0.2, 0.0])),
        (InDrawer("red cube"), _moved(DRAWER, [0.0, -0.03, 0.03])),
    ]:
        places = [start + share * (end - start) for share in shares]
        before, after = (
            goal.progress(
                replace(
                    WORLD,
                    gripper=place,
                    gripper_opening=0.04,
                    objects={**WORLD.objects, "red cube": place},
                    initial_objects={**WORLD.initial_objects, "red cube": start},
                )
            )
            for place in places
        )
        assert after >= before - 1e-12, goal


@given(_SHARES)
def test_a_drawer_that_slides_makes_progress(shares: list[float]) -> None:
    worlds = [replace(WORLD, gripper=np.array(AWAY), drawer_slide=share * DRAWER_TRAVEL) for share in shares]
    assert DrawerOpened().progress(worlds[0]) <= DrawerOpened().progress(worlds[1])
    assert DrawerShut().progress(worlds[0]) >= DrawerShut().progress(worlds[1])
