"""Goals and progress, worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sim.so101.goals import FAR, LIFT_HEIGHT, MOST_UNFINISHED, Lifted, Placed, Reached, WorldState, task_progress
from sim.so101.scene import HALF_SIZE, TARGET_RADIUS

BLOCK = np.array([0.20, 0.0, HALF_SIZE])
WORLD = WorldState(
    grip=BLOCK + np.array([0.0, 0.0, 0.1]),
    block=BLOCK,
    block_yaw=0.0,
    initial_block=BLOCK,
    target=np.array([0.20, 0.10]),
    touched=False,
    gripped=False,
)


def at(grip: tuple[float, float, float] = (0, 0, 0), block: tuple[float, float, float] = (0, 0, 0)) -> WorldState:
    """The block moved by `block`, the grip point `grip` away from it."""
    place = BLOCK + np.array(block)
    return replace(WORLD, grip=place + np.array(grip), block=place)


def test_reach_is_nearness() -> None:
    assert not Reached().holds(WORLD) and task_progress(Reached(), WORLD) == pytest.approx(1 - 0.1 / FAR)
    assert task_progress(Reached(), at((0.021, 0, 0))) == pytest.approx(1 - 0.021 / FAR)
    assert task_progress(Reached(), at((0.019, 0, 0))) == 1.0
    assert task_progress(Reached(), at((FAR + 0.1, 0, 0))) == 0.0


def test_progress_before_the_goal_is_capped() -> None:
    held = replace(at(block=(0, 0, LIFT_HEIGHT + 0.01)), gripped=True)
    assert task_progress(Lifted(), held) == 1.0
    assert task_progress(Lifted(), replace(held, gripped=False)) == MOST_UNFINISHED, "high and near, and not held"


def test_lifting_is_half_reaching_half_height() -> None:
    assert task_progress(Lifted(), WORLD) == pytest.approx(0.5 * (1 - 0.1 / FAR))
    half = replace(at(block=(0, 0, LIFT_HEIGHT / 2)), gripped=True)
    assert not Lifted().holds(half) and task_progress(Lifted(), half) == pytest.approx(0.75)


def test_placing_needs_rest_and_release() -> None:
    there = at((0, 0, 0.05), block=(0, 0.1, 0))
    assert Placed().holds(there) and task_progress(Placed(), there) == 1.0
    assert not Placed().holds(replace(there, touched=True))
    assert not Placed().holds(at((0, 0, 0.05), block=(0, 0.1, 0.01))), "still in the air"
    assert not Placed().holds(at((0, 0, 0.05), block=(0, 0.1 - TARGET_RADIUS - 0.001, 0)))
    assert Placed().holds(at((0, 0, 0.05), block=(0, 0.1 - TARGET_RADIUS + 0.001, 0)))


def test_placing_counts_how_far_the_block_came() -> None:
    assert task_progress(Placed(), at()) == pytest.approx(0.25)
    halfway = at(block=(0, 0.05, 0.03))
    assert task_progress(Placed(), halfway) == pytest.approx(0.25 + 0.7 * 0.5)
    assert task_progress(Placed(), at(block=(0, -0.05, 0))) == pytest.approx(0.25), "the wrong way is no progress"
