"""The embedded suite on real MuJoCo: contract, determinism, initial states, bad input, expert."""

import subprocess
import sys
import time
import warnings
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from scripts.pretraining.play import canonical_instruction, held_out_pairs, sample_play
from sim.contract import EnvironmentRequestError, StepOutcome
from sim.core.operational_space import matrix_to_rotation_vector, rotation_vector_to_matrix
from sim.suites import get_suite
from sim.tabletop.environment import WORKSPACE, TabletopEnvironment
from sim.tabletop.goals import DrawerOpened, DrawerShut, Goal
from sim.tabletop.scene import BUTTON_HEIGHT, BUTTON_PRESSED, CABINET_Y, Scene
from sim.tabletop.tasks import NUM_INIT_STATES, TASKS, Task, initial_layout, sample_layout

SUITE = get_suite("tabletop")
NOTHING = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)


def test_gymnasium_accepts_the_environment() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = gymnasium.make("reflex/tabletop-stack-v0")
        check_env(environment.unwrapped)


def test_observation_follows_the_contract() -> None:
    environment = SUITE.make(7)
    observation, info = environment.reset(seed=3, options={"split": "eval", "init_state_id": 4})
    assert observation["images"]["image"].shape == observation["images"]["wrist_image"].shape == (64, 64, 3)
    assert observation["images"]["image"].dtype == np.uint8
    assert observation["images"]["image"].std() > 5, "the picture shows something"
    assert observation["state"].shape == (8,) and observation["state"].dtype == np.float32
    assert observation["instruction"] == "open the drawer and put the purple cube in it"
    assert info["task_id"] == 7 and info["init_state_id"] == 4 and not info["success"] and 0 <= info["progress"] < 0.5


def test_pictures_are_upright() -> None:
    """The robot's base is far from the camera, so the arm is in the upper half; the table fills the lower."""
    environment = SUITE.make(0)
    observation, _ = environment.reset(options={"split": "eval", "init_state_id": 0})
    rows = observation["images"]["image"].astype(int).std(axis=(1, 2))
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


def play(environment: TabletopEnvironment, task_id: int) -> list[tuple[object, ...]]:
    """Evaluation state 1, reset and played by the expert until the horizon: everything that can be seen of it."""
    environment.reset_to("eval", 1)
    expert = SUITE.make_expert(task_id, 0)
    expert.reset(environment)
    seen: list[tuple[object, ...]] = []
    for _ in range(environment.horizon):
        outcome = environment.advance(expert.act(environment))
        world = environment.world_state()
        seen.append((outcome, world.button_latched, world.drawer_slide, world.gripper_opening, world.gripper.tolist()))
        seen.append(
            (environment.robot_state().tolist(), environment.data.qpos.tolist(), environment.data.qvel.tolist())
        )
        seen.append((environment.model.geom_rgba.tolist(), environment.init_state_id))
    return seen


@pytest.mark.parametrize("task_id", [7, 8])
def test_an_episode_after_a_reset_is_the_same_episode(task_id: int) -> None:
    """Drawer and button, a held object, steps, controller: whatever the first episode changed is as it was."""
    environment = SUITE.make(task_id)
    assert isinstance(environment, TabletopEnvironment)
    assert play(environment, task_id) == play(environment, task_id)


def test_a_reset_releases_the_button() -> None:
    environment, expert = SUITE.make(8), SUITE.make_expert(8, 0)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    expert.reset(environment)
    assert not environment.world_state().button_latched
    while not environment.world_state().button_latched:
        environment.advance(expert.act(environment))
    for _ in range(10):
        environment.advance(expert.act(environment))
    assert environment.data.qpos[environment._button_address] < BUTTON_PRESSED, "it sprang back"
    assert environment.world_state().button_latched, "and stays lit"
    environment.reset_to("train", 0)
    assert not environment.world_state().button_latched
    environment.advance(NOTHING)
    assert not environment.world_state().button_latched


def test_a_reset_counts_steps_from_nothing_and_centres_the_goal() -> None:
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    ends = []
    for _ in range(2):
        environment.reset_to("train", 0)
        np.testing.assert_array_equal(environment._goal_position, environment.world_state().gripper)
        ends.append([environment.advance(NOTHING).truncated for _ in range(environment.horizon)].index(True))
        turned = NOTHING.copy()
        turned[5] = 1.0
        environment.advance(turned)
    assert ends == [environment.horizon - 1] * 2
    environment.reset_to_layout(initial_layout(0, "eval", 3))
    assert environment.init_state_id == -1, "a layout of one's own is no stored state"
    np.testing.assert_array_equal(environment._goal_rotation, np.diag([1.0, -1.0, -1.0]))


def test_a_reset_opens_the_fingers_and_shuts_the_drawer() -> None:
    environment = SUITE.make(7)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    closing = NOTHING.copy()
    closing[6] = 1.0
    for _ in range(10):
        environment.advance(closing)
    environment.data.qpos[environment._drawer_address] = 0.1
    environment.advance(closing)
    world = environment.world_state()
    assert world.gripper_opening < 0.01 and world.drawer_slide > 0.09
    environment.reset_to("train", 0)
    world = environment.world_state()
    assert world.gripper_opening == 0.08 and world.drawer_slide == 0.0
    assert world.initial_objects.keys() == world.objects.keys() == {"purple cube"}
    np.testing.assert_array_equal(world.initial_objects["purple cube"], world.objects["purple cube"])


def drawer_task(*goals: Goal) -> TabletopEnvironment:
    task = Task("drawer", "move the drawer", Scene(drawer="green", button="red"), goals, horizon=2)
    return TabletopEnvironment(task=task)


def test_a_layout_puts_drawer_and_button_where_it_says() -> None:
    environment = drawer_task(DrawerShut())
    layout = sample_layout(environment.task.scene, np.random.default_rng(0))
    environment.reset_to_layout(replace(layout, drawer_slide=0.1, drawer_x=0.04, button=np.array([0.02, -0.1])))
    world = environment.world_state()
    assert world.drawer_position is not None and world.button is not None
    assert world.drawer_slide == 0.1
    np.testing.assert_allclose(world.drawer_position, [0.04, CABINET_Y - 0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(world.button, [0.02, -0.1, BUTTON_HEIGHT], atol=1e-12)


def test_success_needs_every_goal_and_is_never_truncated() -> None:
    """A drawer that is shut from the start, over its horizon of two steps and one further."""
    outcomes = {}
    for goals in ((DrawerShut(),), (DrawerShut(), DrawerOpened())):
        environment = drawer_task(*goals)
        environment.reset_to_layout(sample_layout(environment.task.scene, np.random.default_rng(0)))
        found = [environment.advance(NOTHING) for _ in range(3)]
        outcomes[len(goals)] = [(outcome.success, outcome.truncated) for outcome in found]
        assert all((outcome.progress == 1.0) is outcome.success for outcome in found)
    assert outcomes == {1: [(True, False)] * 3, 2: [(False, False), (False, True), (False, True)]}


@pytest.mark.parametrize(("beyond", "pressed"), [(-1e-4, False), (1e-4, True)])
def test_a_button_is_pressed_from_a_depth_on(beyond: float, pressed: bool) -> None:
    environment = drawer_task(DrawerShut())
    environment.reset_to_layout(sample_layout(environment.task.scene, np.random.default_rng(0)))
    environment.model.jnt_stiffness[:], environment.model.opt.gravity[:] = 0.0, 0.0  # it stays where it is put
    environment.data.qpos[environment._button_address] = BUTTON_PRESSED + beyond
    environment.advance(NOTHING)
    assert environment.world_state().button_latched is pressed


def test_fingers_are_reported_with_opposite_signs() -> None:
    environment = SUITE.make(0)
    environment.reset_to("train", 0)
    np.testing.assert_allclose(environment.robot_state()[6:], [0.04, -0.04], atol=1e-7)
    environment.advance(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    state = environment.robot_state()
    assert state[6] < 0.03 and state[7] > -0.03, "they close towards each other"


@pytest.mark.parametrize("beyond", [-0.2, -1e-4, 0.0, 1e-4, 0.2])
def test_orientation_passes_straight_down_without_a_jump(beyond: float) -> None:
    """Pointing straight down is a half turn about x; further tilted it is more than that, not one the other way."""
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    environment._site_rotation[:] = rotation_vector_to_matrix(np.array([np.pi + beyond, 0.0, 0.0]))
    np.testing.assert_allclose(environment.robot_state()[3:6], [np.pi + beyond, 0.0, 0.0], atol=1e-6)


def test_poses_belong_to_the_new_joint_positions() -> None:
    environment = SUITE.make(7)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    for _ in range(3):
        environment.advance(np.array([0.7, -0.4, 0.5, 0.3, 0.0, 0.0, 1.0]))
        fresh = mujoco.MjData(environment.model)
        fresh.qpos[:] = environment.data.qpos
        mujoco.mj_forward(environment.model, fresh)
        np.testing.assert_allclose(environment.data.site_xpos, fresh.site_xpos, atol=1e-9)
        np.testing.assert_allclose(environment.gripper_rotation(), fresh.site("grip").xmat.reshape(3, 3), atol=1e-9)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [0, 1])
def test_leaving_the_workspace_costs_one(axis: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    world = environment.world_state()
    costs = []
    for beyond in (-0.001, 0.001):
        gripper = WORKSPACE.mean(axis=1)
        gripper[axis] = WORKSPACE[axis, side] + (beyond if side else -beyond)
        monkeypatch.setattr(environment, "world_state", lambda gripper=gripper: replace(world, gripper=gripper))
        costs.append(environment.advance(NOTHING).cost)
    assert costs == [0.0, 1.0]


def test_an_arm_that_is_driven_out_pays_and_one_that_comes_back_does_not() -> None:
    environment = SUITE.make(0)
    environment.reset_to("train", 0)
    up, down = NOTHING.copy(), NOTHING.copy()
    up[2], down[2] = 1.0, -1.0
    costs = [environment.advance(action).cost for action in [up] * 12 + [down] * 8]
    assert costs[0] == 0.0 and costs[11] == 1.0 and costs[-1] == 0.0


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


@pytest.mark.parametrize("axis", range(3))
def test_full_scale_actions_turn_the_gripper_the_commanded_way(axis: int) -> None:
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    environment.reset_to("train", 0)
    before = environment.gripper_rotation()
    action = NOTHING.copy()
    action[3 + axis] = 0.5
    for _ in range(3):
        environment.advance(action)
    turned = matrix_to_rotation_vector(environment.gripper_rotation() @ before.T)
    assert turned[axis] > 0.1
    assert np.abs(np.delete(turned, axis)).max() < 0.5 * turned[axis]


def test_the_horizon_truncates_and_never_terminates() -> None:
    environment = SUITE.make(0)
    environment.reset_to("train", 0)
    outcomes = [environment.advance(NOTHING) for _ in range(environment.horizon)]
    assert [outcome.truncated for outcome in outcomes] == [False] * (environment.horizon - 1) + [True]
    assert not any(outcome.success for outcome in outcomes)


def test_an_unstable_simulation_ends_the_episode() -> None:
    environment = SUITE.make(0)
    assert isinstance(environment, TabletopEnvironment)
    for speed in (np.inf, 1e4):
        environment.reset_to("train", 0)
        environment.data.qvel[9] = speed
        outcome = environment.advance(NOTHING)
        assert outcome == StepOutcome(success=False, truncated=True, cost=1.0, progress=0.0)


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
