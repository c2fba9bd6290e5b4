"""robosuite's own tasks here, against robosuite's own environments: states to the bit, and every judgement."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.libero.build import private_random_state, robosuite_options
from sim.libero.installation import quiet_robosuite
from sim.libero.scene import axis_angle_from_quaternion
from sim.libero.source import InstalledSimulation
from sim.robosuite.build import RobosuiteBuilder, _goal
from sim.robosuite.goals import under_wiper
from sim.robosuite.suite import RobosuiteEnvironment, RobosuiteSuite
from sim.robosuite.tasks import TASKS, state_seed
from sim.suites import get_suite

NUMBERS = {task.name: task.index for task in TASKS}


def original_environment(name: str) -> Any:
    """robosuite's own, without pictures, its arm reset to the posture that its controller pulls to."""
    quiet_robosuite()
    import robosuite

    with private_random_state(0):  # some sizes are drawn when a task is built
        domain = robosuite.make(TASKS[NUMBERS[name]].environment, robots="Panda", **robosuite_options())
    domain.early_terminations = False
    domain.reset()
    return domain


def start(original: Any, ours: RobosuiteEnvironment) -> None:
    """Training state 3 of ours in the original: drawn by the same seed, the arm's noise added, settled alike."""
    assert isinstance(ours.simulation, InstalledSimulation)
    builder = ours.simulation.builder
    assert isinstance(builder, RobosuiteBuilder)
    state, model = builder.place("train", 3), original.sim.model._model
    with private_random_state(state_seed(builder.task, "train", 3)):
        original.reset()
    assert np.array_equal(model.body_pos, builder.model.body_pos)
    original.sim.set_state_from_flattened(state)
    original.sim.forward()
    original._update_observables(force=True)
    for _ in range(10):
        original.step(np.array(([0.0] * 6 + [-1.0])[: original.action_dim]))


def wiping_action(ours: RobosuiteEnvironment, step: int) -> np.ndarray[Any, Any]:
    """Towards one piece of dirt after another, pressing down."""
    position, _ = ours.scene.end_effector_pose()
    dirt = list(ours.scene.definition.bodies.values())
    ahead = ours.scene.data.xpos[dirt[(step // 2) % len(dirt)]] - position
    return np.array([*np.clip(ahead / 0.05, -1.0, 1.0)[:2], -0.3, 0.0, 0.0, 0.0, 0.0])


def mixed_actions() -> list[np.ndarray[Any, Any]]:
    """Random motion, then down onto the table and along it, gripper closing."""
    generator = np.random.default_rng(0)
    random = [generator.uniform(-1.0, 1.0, 7) for _ in range(25)]
    pushing = [np.array([0.3, 0.2, -1.0, 0.0, 0.0, 0.0, 1.0])] * 25
    sweeping = [np.array([-0.6, 0.5 * np.sin(step / 4), -0.3, 0.0, 0.0, 0.2, -1.0]) for step in range(30)]
    return random + pushing + sweeping


@pytest.mark.parametrize("name", ["lift", "stack", "door", "nut_assembly_square", "pick_place_can", "wipe"])
def test_an_episode_equals_robosuites_to_the_bit(name: str) -> None:
    ours = RobosuiteSuite(image_size=64).make(NUMBERS[name])
    original = original_environment(name)
    start(original, ours)
    ours.reset_to("train", 3)
    for step, action in enumerate(mixed_actions()):
        if name == "wipe":
            action = wiping_action(ours, step)
        outcome = ours.advance(action)
        seen, *_ = original.step(action[: original.action_dim])
        assert np.array_equal(original.sim.data.qpos, ours.scene.data.qpos)
        assert np.array_equal(original.sim.data.qvel, ours.scene.data.qvel)
        assert outcome.success == original._check_success()
        orientation = axis_angle_from_quaternion(seen["robot0_eef_quat"])
        fingers = np.zeros(2) if name == "wipe" else seen["robot0_gripper_qpos"]
        expected = np.concatenate([seen["robot0_eef_pos"], orientation, fingers])
        np.testing.assert_array_equal(ours.robot_state(), expected.astype(np.float32))
        if name == "wipe":
            assert outcome.progress == pytest.approx(len(original.wiped_markers) / original.num_markers)
    if name == "wipe":
        assert 0.0 < outcome.progress < 1.0, "the sweep took some of the dirt"
        ours.reset_to("train", 3)
        assert ours.advance(np.zeros(7)).progress == 0.0, "a reset brings the dirt back"
    original.close()


GOALS = {
    # task: what to move, and between which corners (m) around success
    "lift": ([("cube", (0.0, 0.0, 0.80), (0.1, 0.1, 0.90))]),
    "stack": ([("cubeA", (-0.03, -0.03, 0.83), (0.03, 0.03, 0.90)), ("cubeB", (0.0, 0.0, 0.825), (0.0, 0.0, 0.826))]),
    "nut_assembly_square": ([("SquareNut", (0.19, 0.06, 0.80), (0.27, 0.14, 0.90))]),
    "nut_assembly": (
        [
            ("SquareNut", (0.21, 0.08, 0.80), (0.25, 0.12, 0.88)),
            ("RoundNut", (0.21, -0.12, 0.80), (0.25, -0.08, 0.88)),
        ]
    ),
    "pick_place_can": ([("Can", (0.05, 0.2, 0.75), (0.25, 0.6, 0.95))]),
    "pick_place_bread": ([("Bread", (-0.05, 0.0, 0.75), (0.35, 0.6, 0.95))]),
}


@pytest.mark.parametrize("name", list(GOALS))
def test_states_are_judged_as_robosuite_judges_them(name: str) -> None:
    """Objects put at random around the goal; both answers must come up."""
    original = original_environment(name)
    model, data = original.sim.model._model, original.sim.data._data
    goal = _goal(original)
    generator = np.random.default_rng(1)
    answers = []
    for _ in range(150):
        for thing, low, high in GOALS[name]:
            joint = f"{thing}_joint0"
            original.sim.data.set_joint_qpos(joint, np.concatenate([generator.uniform(low, high), [1, 0, 0, 0]]))
        original.sim.forward()
        answers.append(all(goal.conditions(model, data)))
        assert answers[-1] == original._check_success()
    assert 5 < sum(answers) < 145, sum(answers)
    original.close()


def test_a_door_is_open_from_an_angle_on() -> None:
    original = original_environment("door")
    goal = _goal(original)
    for angle, opened in ((0.29, False), (0.31, True)):
        original.sim.data.qpos[original.hinge_qpos_addr] = angle
        assert all(goal.conditions(original.sim.model._model, original.sim.data._data)) is opened
        assert bool(original._check_success()) is opened
    original.close()


def test_dirt_is_under_a_wiper_only_on_its_outer_side_and_near() -> None:
    # A face of 10 x 10 cm in the plane z = 1, its corners 1, 2, 4, 3 in turn. Edges 2-1 and 2-4 span x and y, so that
    # the outer side is their cross product's: upwards.
    corners = np.array([[0.1, 0.0, 1.0], [0.0, 0.0, 1.0], [0.1, 0.1, 1.0], [0.0, 0.1, 1.0]])
    points = np.array(
        [
            [0.05, 0.05, 1.01],  # over the middle
            [0.05, 0.05, 0.99],  # on the other side
            [0.05, 0.05, 1.03],  # too far
            [0.11, 0.05, 1.01],  # beside it
            [0.01, 0.09, 1.001],
        ]
    )
    assert under_wiper(points, corners).tolist() == [True, False, False, False, True]


def test_initial_states_are_their_own_and_come_again() -> None:
    suite = RobosuiteSuite("robosuite_fast_plain", image_size=32)
    environment, other = suite.make(0), suite.make(0)
    starts = []
    for split in ("train", "eval"):
        for index in (0, 1):
            environment.reset_to(split, index)
            starts.append(environment.scene.flattened_state())
    other.reset_to("eval", 1)
    np.testing.assert_array_equal(other.scene.flattened_state(), starts[3])
    for first in range(4):
        for second in range(first):
            assert np.abs(starts[first] - starts[second]).max() > 1e-3
    observation = environment.render_observation()
    assert observation["images"]["image"].std() > 5 and observation["images"]["wrist_image"].std() > 5
    assert observation["instruction"] == "lift the red cube"
    with pytest.raises(EnvironmentRequestError, match="initial states 0 to 49"):
        environment.reset_to("eval", 50)


def test_every_task_builds_and_asks_for_what_is_not_there_yet() -> None:
    suite = get_suite("robosuite_fast_plain", 32)
    for task_id in suite.task_ids:
        environment = suite.make(task_id)
        environment.reset_to("eval", 0)
        outcome = environment.advance(np.array([0.0] * 6 + [-1.0]))
        assert not outcome.success and outcome.progress == 0.0, suite.task_name(task_id)
        environment.close()


def test_what_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = RobosuiteSuite()
    with pytest.raises(EnvironmentRequestError, match="tasks 0 to 11, not 12"):
        suite.make(12)
    with pytest.raises(EnvironmentRequestError, match="no scripted experts"):
        suite.make_expert(0, 0)
    with pytest.raises(EnvironmentRequestError, match="did you mean 'robosuite'"):
        get_suite("robosuit")
    monkeypatch.setattr("sim.robosuite.build.importlib.metadata.version", lambda name: "1.5.1")
    with pytest.raises(EnvironmentRequestError, match=r"needs robosuite 1\.4\.0, but 1\.5\.1"):
        RobosuiteSuite()


def test_the_plain_look_and_the_fast_stepping_are_said() -> None:
    protocol = RobosuiteSuite("robosuite_fast_plain").protocol()
    assert (protocol["stepping"], protocol["look"]) == ("fast", "plain")
    assert (RobosuiteSuite().protocol()["stepping"], RobosuiteSuite().protocol()["look"]) == ("exact", "official")
    assert mujoco.__version__ == protocol["versions"]["mujoco"]
