"""MetaWorld's scripted policies, asked once where they were written to be asked four times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.metaworld.expert import MetaWorldExpert
from sim.metaworld.suite import MetaWorldSuite
from sim.metaworld.tasks import TASKS, Task
from sim.suites import get_suite

pytest.importorskip("metaworld")

NUMBERS = {task.name: number for number, task in enumerate(TASKS)}


def successes(task: Task, states: range) -> list[int]:
    """Control steps of the episodes that succeed."""
    environment, expert, steps = MetaWorldSuite("metaworld_state").make(NUMBERS[task.name]), MetaWorldExpert(task), []
    for state in states:
        environment.reset_to("train", state)
        expert.reset(environment)
        outcome, count = environment.advance(expert.act(environment)), 1
        while not outcome.done:
            outcome, count = environment.advance(expert.act(environment)), count + 1
        if outcome.success:
            assert outcome.progress == 1.0 and not outcome.truncated
            steps.append(count)
    return steps


@pytest.mark.parametrize("name", ["button-press-topdown", "drawer-close", "bin-picking", "hand-insert", "shelf-place"])
def test_experts_succeed(name: str) -> None:
    steps = successes(TASKS[NUMBERS[name]], range(3))
    assert len(steps) == 3 and max(steps) <= 60


def test_the_hand_waits_for_a_gripper_that_closes() -> None:
    task = TASKS[NUMBERS["bin-picking"]]
    assert not successes(dataclasses.replace(task, expert_pause=0), range(5, 7)), "it lifts before it holds anything"
    environment, expert = MetaWorldSuite("metaworld_state").make(NUMBERS[task.name]), MetaWorldExpert(task)
    environment.reset_to("train", 5)
    expert.reset(environment)
    given = []
    while not environment.advance(given[-1] if given else np.zeros(4)).done:
        given.append(expert.act(environment))
    first = next(step for step, action in enumerate(given) if action[3] > 0)
    resting = [not action[:3].any() for action in given[first:]]
    assert resting[: task.expert_pause] == [True] * task.expert_pause and not resting[task.expert_pause]
    assert {action[3] for action in given[first : first + task.expert_pause]} == {given[first][3]}


def test_commands_are_a_share_of_metaworlds() -> None:
    environment = MetaWorldSuite("metaworld_state").make(NUMBERS["reach"])
    environment.reset_to("train", 0)
    given = []
    for speed in (0.7, 0.35):
        expert = MetaWorldExpert(dataclasses.replace(TASKS[NUMBERS["reach"]], expert_speed=speed))
        expert.reset(environment)
        given.append(expert.act(environment))
    small = np.abs(given[1][:3]) < 0.5  # the rest is clipped
    assert small.any()
    np.testing.assert_allclose(given[0][:3][small], 2 * given[1][:3][small], rtol=1e-6)
    assert given[0].dtype == np.float32 and given[0][3] == given[1][3]


def test_another_suites_environment_is_refused() -> None:
    with pytest.raises(EnvironmentRequestError, match="cannot act in TabletopEnvironment"):
        MetaWorldExpert(TASKS[0]).reset(get_suite("tabletop").make(0))
