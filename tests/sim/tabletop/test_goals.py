"""Goals and progress, on worlds worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sim.tabletop.goals import (
    ButtonPressed,
    DrawerOpened,
    DrawerShut,
    InDrawer,
    Lifted,
    PlacedOn,
    Pushed,
    WorldState,
    task_progress,
)
from sim.tabletop.scene import HALF_SIZE, PLATE_HALF_HEIGHT, Scene
from sim.tabletop.tasks import Task

CUBE = np.array([0.1, 0.0, HALF_SIZE])
WORLD = WorldState(
    gripper=np.array([0.0, 0.0, 0.2]),
    gripper_opening=0.08,
    objects={"red cube": CUBE, "blue cube": np.array([-0.1, 0.1, HALF_SIZE])},
    initial_objects={"red cube": CUBE, "blue cube": np.array([-0.1, 0.1, HALF_SIZE])},
    plates={"white plate": np.array([0.0, -0.1, PLATE_HALF_HEIGHT])},
    drawer_position=np.array([0.0, 0.34, 0.0]),
    button=np.array([0.1, 0.1, 0.045]),
)


def _with(position: list[float], gripper: list[float] | None = None, opening: float = 0.08) -> WorldState:
    objects = {**WORLD.objects, "red cube": np.array(position)}
    return replace(WORLD, objects=objects, gripper=np.array(gripper or [0.0, 0.0, 0.2]), gripper_opening=opening)


def test_lifted_needs_height_and_the_gripper() -> None:
    goal = Lifted("red cube")
    assert not goal.holds(WORLD)
    assert goal.holds(_with([0.1, 0.0, 0.12], [0.1, 0.0, 0.12], 0.04))
    assert not goal.holds(_with([0.1, 0.0, 0.12], [0.1, 0.0, 0.2], 0.04)), "an object in the air but not in the gripper"


def test_placed_on_a_plate_needs_release() -> None:
    goal = PlacedOn("red cube", "white plate")
    resting = [0.01, -0.11, 2 * PLATE_HALF_HEIGHT + HALF_SIZE]
    assert goal.holds(_with(resting))
    assert not goal.holds(_with(resting, resting, 0.04)), "still held"
    assert not goal.holds(_with([0.08, -0.1, HALF_SIZE])), "beside the plate"


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


def test_drawer_goals() -> None:
    assert DrawerOpened().holds(replace(WORLD, drawer_slide=0.1))
    assert not DrawerOpened().holds(WORLD)
    assert DrawerShut().holds(WORLD)
    out = replace(_with([0.0, 0.2, 0.03]), drawer_position=np.array([0.0, 0.22, 0.0]), drawer_slide=0.12)
    assert InDrawer("red cube").holds(out)
    assert not InDrawer("red cube").holds(WORLD)


def test_button_goal_is_latched() -> None:
    assert ButtonPressed().holds(replace(WORLD, button_latched=True))
    assert not ButtonPressed().holds(WORLD)


def test_progress_counts_finished_stages() -> None:
    goals = (ButtonPressed(), Lifted("red cube"))
    assert task_progress(goals, WORLD) < 0.5
    pressed = replace(WORLD, button_latched=True)
    assert 0.5 <= task_progress(goals, pressed) < 1.0
    done = replace(_with([0.1, 0.0, 0.12], [0.1, 0.0, 0.12], 0.04), button_latched=True)
    assert task_progress(goals, done) == pytest.approx(1.0)


def test_progress_of_pushing_by_hand() -> None:
    # Half the distance pushed (0.05 of 0.10 m), gripper at the object: 0.3 + 0.7 / 2.
    world = _with([0.1, -0.05, HALF_SIZE], [0.1, -0.05, HALF_SIZE])
    assert Pushed("red cube", (0.0, -1.0)).progress(world) == pytest.approx(0.65)


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
