"""The three tasks and where things start: stored results stand on them."""

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError, Split
from sim.registration import NAMED
from sim.so101.tasks import APART, BEARINGS, NUM_INIT_STATES, PAN_AXIS, RADII, TASKS, Layout, get_task, initial_layout
from sim.suites import get_suite

SPLITS: tuple[Split, Split] = ("train", "eval")

# Task -> numbers of training state 3 and evaluation state 7, each weighted by its place (1, 2, ...) and summed up.
# Generator and order of draws may never change, or results stop being comparable.
STORED = [(1.978811775679, 0.964381395181), (0.54528056428, 1.003550875898), (2.442034082303, 0.145474347009)]


def numbers(layout: Layout) -> np.ndarray:
    return np.concatenate([layout.block, layout.target, layout.joint_noise])


def test_initial_states_are_the_stored_ones() -> None:
    for task_id, expected in enumerate(STORED):
        layouts = [numbers(initial_layout(task_id, "train", 3)), numbers(initial_layout(task_id, "eval", 7))]
        assert [float(one @ np.arange(1, 11)) for one in layouts] == pytest.approx(expected, abs=1e-10)
    assert len(STORED) == len(TASKS) and NUM_INIT_STATES == 50


def test_no_state_is_drawn_twice() -> None:
    every = {
        numbers(initial_layout(task_id, split, index)).tobytes()
        for task_id in range(len(TASKS))
        for split in SPLITS
        for index in range(NUM_INIT_STATES)
    }
    assert len(every) == len(TASKS) * 2 * NUM_INIT_STATES


@pytest.mark.parametrize("split", SPLITS)
def test_everything_lies_on_the_ring(split: Split) -> None:
    for layout in [initial_layout(2, split, index) for index in range(NUM_INIT_STATES)]:
        for place in (layout.block[:2], layout.target):
            offset = place - PAN_AXIS
            assert RADII[0] <= np.linalg.norm(offset) <= RADII[1]
            assert BEARINGS[0] <= np.arctan2(offset[1], offset[0]) <= BEARINGS[1]
        assert np.linalg.norm(layout.block[:2] - layout.target) >= APART
        assert abs(layout.block[2]) <= 0.35 and np.abs(layout.joint_noise).max() <= 0.03


@pytest.mark.parametrize("task_id", [-1, 3, True, "0", 0.0])
def test_unknown_tasks_are_refused(task_id: object) -> None:
    with pytest.raises(EnvironmentRequestError, match="0 reach_red, 1 lift_red, 2 place_blue"):
        get_task(task_id)  # type: ignore[arg-type]


def test_unknown_states_are_refused() -> None:
    for index in (-1, 50):
        with pytest.raises(EnvironmentRequestError, match=rf"\(0 to 49\), not number {index}"):
            initial_layout(0, "eval", index)
    with pytest.raises(EnvironmentRequestError, match="'train' or 'eval', not 'test'"):
        initial_layout(0, "test", 0)  # type: ignore[arg-type]


def test_the_suite_says_what_its_tasks_are() -> None:
    suite = get_suite("so101")
    assert tuple(suite.task_name(task_id) for task_id in suite.task_ids) == NAMED["so101"]
    assert [suite.horizon(task_id) for task_id in suite.task_ids] == [60, 100, 150]
    assert suite.instruction(2) == "put the red block on the blue target"
    assert [suite.tasks_of_same_scene(task_id) for task_id in suite.task_ids] == [(1,), (0,), ()]
    assert suite.num_init_states(0, "train") == suite.num_init_states(2, "eval") == 50
    assert get_suite("so101", 96).embodiment.camera("wrist").width == 96
