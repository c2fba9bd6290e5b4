"""The scripted expert: it succeeds, without touching the table, in commands that a servo can follow."""

import numpy as np
import pytest

from sim.contract import Split
from sim.so101.embodiment import GRIPPER, SO101
from sim.so101.environment import SO101Environment
from sim.so101.expert import GRIPPER_STEP, SO101Expert, nearest_side, shortened
from sim.so101.tasks import get_task
from sim.suites import get_suite

SUITE = get_suite("so101")


def play(
    environment: SO101Environment, expert: SO101Expert, split: Split, index: int
) -> tuple[np.ndarray, bool, float]:
    """Actions [T, 6], success and summed cost of an episode."""
    environment.reset_to(split, index)
    expert.reset(environment)
    actions, cost = [], 0.0
    while True:
        actions.append(expert.act(environment))
        outcome = environment.advance(actions[-1])
        cost += outcome.cost
        if outcome.done:
            return np.array(actions), outcome.success, cost


@pytest.mark.parametrize("task_id", [0, 1, 2])
def test_it_succeeds_in_smooth_commands(task_id: int) -> None:
    environment = SO101Environment(task_id)
    for index in range(12):
        expert = SO101Expert(index)
        actions, success, cost = play(environment, expert, "train" if index % 2 else "eval", index)
        assert success and cost == 0, index
        assert len(actions) < 0.65 * environment.horizon, "a slower learner has time to spare"
        changes = np.abs(np.diff(actions, axis=0))
        assert changes[:, :GRIPPER].max() < 8.0, "degrees in a thirtieth of a second"
        assert changes[:, GRIPPER].max() < GRIPPER_STEP + 1e-3
        assert (actions >= np.float32(SO101.action.low)).all() and (actions <= np.float32(SO101.action.high)).all()


def test_jaws_hold_a_block_without_sinking_into_it() -> None:
    """Its 36 mm stop them at 30 per cent of the gripper's travel, though they are told 15."""
    environment, expert = SO101Environment(1), SO101Expert(0)
    play(environment, expert, "train", 0)
    assert environment.world_state().gripped
    assert 27 < environment.robot_state()[GRIPPER] < 33
    assert environment.data.contact.dist.min() > -0.0015


def test_seeds_differ_and_repeat() -> None:
    environment = SO101Environment(1)
    first, again, other = (play(environment, SO101Expert(seed), "train", 0)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or np.abs(first - other).max() > 0.1


def test_one_expert_plays_many_episodes() -> None:
    """What it remembers of one does not reach into the next."""
    environment, expert = SO101Environment(1), SO101Expert(3)
    play(environment, expert, "train", 4)
    assert play(environment, expert, "train", 5)[1]


def test_it_does_its_own_task_in_the_scene_of_another() -> None:
    environment = SO101Environment(0)
    environment.horizon = 100
    environment.task = get_task(1)
    reaching = SO101Expert(0, get_task(0))
    actions, success, _ = play(environment, reaching, "train", 0)
    assert not success and actions[:, GRIPPER].min() == SO101.action.gripper_open, "it reaches, and does not grasp"


def test_it_recovers_a_block_that_was_pushed_away() -> None:
    environment, expert = SO101Environment(1), SO101Expert(0)
    environment.reset_to("eval", 2)
    expert.reset(environment)
    for _ in range(22):
        environment.advance(expert.act(environment))
    environment.data.qpos[6:8] += np.array([-0.03, 0.02])
    outcome = environment.advance(expert.act(environment))
    while not outcome.done:
        outcome = environment.advance(expert.act(environment))
    assert outcome.success


def test_the_suite_makes_it() -> None:
    environment = SUITE.make(2)
    assert isinstance(environment, SO101Environment)
    expert = SUITE.make_expert(2, 0)
    assert isinstance(expert, SO101Expert) and play(environment, expert, "eval", 0)[1]


@pytest.mark.parametrize(
    ("yaw", "preferred", "side"), [(0.3, np.pi / 2, np.pi / 2 + 0.3), (-0.3, 0.0, -0.3), (1.0, 0.0, 1.0 - np.pi / 2)]
)
def test_the_nearest_side_of_a_block(yaw: float, preferred: float, side: float) -> None:
    assert nearest_side(yaw, preferred) == pytest.approx(side)


def test_shortened_keeps_direction() -> None:
    assert shortened(np.array([3.0, 4.0]), 1.0) == pytest.approx([0.6, 0.8])
    assert shortened(np.array([0.3, 0.4]), 1.0).tolist() == [0.3, 0.4]
