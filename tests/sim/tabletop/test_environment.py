"""The embedded suite on real MuJoCo: contract, determinism, initial states, bad input, expert."""

import subprocess
import sys
import time
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from scripts.pretraining.play import canonical_instruction, held_out_pairs, sample_play
from sim.contract import EnvironmentRequestError
from sim.suites import get_suite
from sim.tabletop.environment import TabletopEnvironment, register_environments
from sim.tabletop.tasks import NUM_INIT_STATES, TASKS, initial_layout

SUITE = get_suite("tabletop")
NOTHING = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)


def test_gymnasium_accepts_the_environment() -> None:
    register_environments()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = gymnasium.make("reflex/tabletop-stack-v0")
        check_env(environment.unwrapped)


def test_observation_follows_the_contract() -> None:
    environment = SUITE.make(7)
    observation, info = environment.reset(seed=3, options={"split": "eval", "init_state_id": 4})
    assert observation["image"].shape == observation["wrist_image"].shape == (64, 64, 3)
    assert observation["image"].dtype == np.uint8
    assert observation["image"].std() > 5, "the picture shows something"
    assert observation["state"].shape == (8,) and observation["state"].dtype == np.float32
    assert observation["instruction"] == "open the drawer and put the purple cube in it"
    assert info["task_id"] == 7 and info["init_state_id"] == 4 and not info["success"] and 0 <= info["progress"] < 0.5


def test_pictures_are_upright() -> None:
    """The robot's base is far from the camera, so the arm is in the upper half; the table fills the lower."""
    environment = SUITE.make(0)
    observation, _ = environment.reset(options={"split": "eval", "init_state_id": 0})
    rows = observation["image"].astype(int).std(axis=(1, 2))
    assert rows[:20].mean() > rows[-20:].mean()


def test_initial_states_are_disjoint_between_splits_and_repeatable() -> None:
    for task_id in SUITE.task_ids:
        seen = set()
        for split in ("train", "eval"):
            for index in range(NUM_INIT_STATES):
                layout = initial_layout(task_id, split, index)  # type: ignore[arg-type]
                seen.add((layout.joint_noise.tobytes(), layout.objects.tobytes()))
        assert len(seen) == 2 * NUM_INIT_STATES
    first = initial_layout(3, "eval", 7)
    np.testing.assert_array_equal(first.objects, initial_layout(3, "eval", 7).objects)
    # A stored value: the generator and the order of draws may never change, or results stop being comparable.
    np.testing.assert_allclose(first.plates, STORED_PLATES, atol=1e-12)


STORED_PLATES = np.array([[0.06927106143068293, 0.03317224610419267], [-0.06198998871051408, 0.14648533851255474]])


def test_the_same_actions_give_the_same_states() -> None:
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (30, 7)).astype(np.float32)
    results = []
    for _ in range(2):
        environment = SUITE.make(2)
        assert isinstance(environment, TabletopEnvironment)
        environment.reset_to("train", 5)
        for action in actions:
            environment.advance(action)
        results.append(environment.data.qpos.copy())
    np.testing.assert_array_equal(*results)


def test_a_reset_leaves_nothing_behind() -> None:
    environment = SUITE.make(8)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("eval", 1)
    before, colour = environment.data.qpos.copy(), environment.model.geom_rgba.copy()
    expert = SUITE.make_expert(8, 0)
    expert.reset(environment)
    while not environment.advance(expert.act(environment)).done:
        pass
    assert (environment.model.geom_rgba != colour).any(), "a pressed button lights up"
    environment.reset_to("eval", 1)
    np.testing.assert_array_equal(environment.data.qpos, before)
    np.testing.assert_array_equal(environment.model.geom_rgba, colour)


def test_full_scale_actions_move_the_gripper_the_commanded_way() -> None:
    environment = SUITE.make(0)
    for axis in range(3):
        environment.reset_to("train", 0)
        before = environment.robot_state()[:3]
        action = NOTHING.copy()
        action[axis] = 0.5
        for _ in range(4):
            environment.advance(action)
        moved = environment.robot_state()[:3] - before
        assert moved[axis] > 0.02
        assert np.abs(np.delete(moved, axis)).max() < 0.25 * moved[axis]


def test_the_horizon_truncates_and_never_terminates() -> None:
    environment = SUITE.make(0)
    environment.reset_to("train", 0)
    outcomes = [environment.advance(NOTHING) for _ in range(environment.horizon)]
    assert [outcome.truncated for outcome in outcomes] == [False] * (environment.horizon - 1) + [True]
    assert not any(outcome.success for outcome in outcomes)


def test_an_unstable_simulation_ends_the_episode() -> None:
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    environment.data.qvel[9] = np.inf
    outcome = environment.advance(NOTHING)
    assert outcome.truncated and not outcome.success


@pytest.mark.parametrize("task_id", SUITE.task_ids)
def test_expert_solves_every_task(task_id: int) -> None:
    environment = SUITE.make(task_id)
    for index in range(3):
        environment.reset_to("eval", index)
        expert = SUITE.make_expert(task_id, index)
        expert.reset(environment)
        progress = 0.0
        while True:
            outcome = environment.advance(expert.act(environment))
            progress = max(progress, outcome.progress)
            if outcome.done:
                break
        assert outcome.success and progress == 1.0


def test_language_is_needed() -> None:
    """Some tasks share a scene and differ in nothing but the instruction."""
    scenes = [task.scene for task in TASKS]
    assert sum(scenes.count(scene) > 1 for scene in scenes) >= 7
    assert len({task.instruction for task in TASKS}) == len(TASKS)
    assert sum(len(task.goals) >= 2 for task in TASKS) >= 3


def test_play_never_contains_an_evaluated_task() -> None:
    generator = np.random.default_rng(0)
    instructions = {task.instruction for task in TASKS}
    excluded = held_out_pairs()
    for _ in range(1500):
        play = sample_play(generator)
        assert canonical_instruction(play.task.instruction) not in instructions
        pairs = {(type(goal).__name__, goal.item) for goal in play.task.goals if hasattr(goal, "item")}
        assert not pairs & excluded


@pytest.mark.parametrize("action", [np.full(7, np.nan), np.zeros(6), np.array([0, 0, np.inf, 0, 0, 0, 0])])
def test_bad_actions_are_refused_before_stepping(action: np.ndarray) -> None:
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    before = environment.data.qpos.copy()
    with pytest.raises(EnvironmentRequestError, match="action"):
        environment.advance(action)
    np.testing.assert_array_equal(environment.data.qpos, before)


def test_bad_requests_name_what_exists() -> None:
    with pytest.raises(EnvironmentRequestError, match="pick_red"):
        SUITE.make(10)
    with pytest.raises(EnvironmentRequestError, match="0 to 49"):
        SUITE.make(0).reset_to("eval", 50)
    with pytest.raises(EnvironmentRequestError, match="'train' or 'eval'"):
        SUITE.make(0).reset_to("test", 0)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentRequestError, match="did you mean 'tabletop'"):
        get_suite("tabeltop")
    with pytest.raises(EnvironmentRequestError, match="reset options"):
        SUITE.make(0).reset(options={"init_state": 3})


def test_stepping_is_fast() -> None:
    """A floor far below the measured speed, so that only a real regression trips it."""
    environment = SUITE.make(2)
    environment.reset_to("train", 0)
    environment.advance(NOTHING)
    environment.render_observation()
    started = time.process_time()
    for _ in range(5):
        for _ in range(8):
            environment.advance(NOTHING)
        environment.render_observation()
    assert 40 / (time.process_time() - started) > 300


def test_a_process_that_rendered_ends_quietly() -> None:
    """Contexts freed after EGL has ended print an error that users take for a failure."""
    lines = (
        "from sim.suites import get_suite",
        "environment = get_suite('tabletop').make(0)",
        "environment.reset_to('eval', 0)",
        "environment.render_observation()",
    )
    code = "\n".join(lines)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stderr == ""
