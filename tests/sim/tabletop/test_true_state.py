"""The tabletop told as numbers: the same episodes, every number where its name says, pictures only when asked for."""

from __future__ import annotations

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.core import rendering
from sim.suites import get_suite
from sim.tabletop.environment import TabletopEnvironment
from sim.tabletop.goals import LIFT_HEIGHT, Lifted, WorldState
from sim.tabletop.scene import MovableObject, Scene
from sim.tabletop.tasks import TASKS, Task
from sim.tabletop.true_state import PANDA_TRUE_STATE, scene_state, target_position

NUMBER = {name: index for index, name in enumerate(PANDA_TRUE_STATE.state.names)}


def world(**changes: object) -> WorldState:
    """A scene of two cubes, worked by hand."""
    places = {"red cube": np.array([0.1, 0.2, 0.021]), "blue cube": np.array([-0.1, 0.0, 0.03])}
    values = {
        "gripper": np.zeros(3),
        "gripper_opening": 0.08,
        "objects": places,
        "initial_objects": {"red cube": np.array([0.0, 0.1, 0.021]), "blue cube": np.zeros(3)},
        "plates": {},
    }
    return WorldState(**{**values, **changes})  # type: ignore[arg-type]


QUARTER_TURN = np.array([np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)])
ROTATIONS = {"red cube": QUARTER_TURN, "blue cube": np.array([1.0, 0.0, 0.0, 0.0])}


def test_the_tasks_object_comes_first_with_its_rotation() -> None:
    state = scene_state(TASKS[0], world(), ROTATIONS)
    np.testing.assert_allclose(state[:6], [0.1, 0.2, 0.021, 0, 0, np.pi / 2], atol=1e-9)
    np.testing.assert_allclose(state[6:12], [-0.1, 0.0, 0.03, 0, 0, 0], atol=1e-9)
    other_way = scene_state(TASKS[1], world(), ROTATIONS)
    np.testing.assert_allclose(other_way[:6], state[6:12])
    np.testing.assert_allclose(other_way[6:12], state[:6])


def test_what_is_not_there_is_zero() -> None:
    alone = world(objects={"green cylinder": np.ones(3)}, plates={"white plate": np.array([0.3, 0.1, 0.004])})
    state = scene_state(TASKS[3], alone, {"green cylinder": np.array([1.0, 0, 0, 0])})
    np.testing.assert_allclose(state, [1, 1, 1, 0, 0, 0, *[0] * 6, 0.3, 0.1, 0.004, 0])
    pressed = world(button=np.array([0.1, 0.0, 0.045]), button_latched=True)
    task = Task("press", "press", Scene(), TASKS[8].goals[:1], 10)
    np.testing.assert_allclose(scene_state(task, pressed, ROTATIONS)[-4:], [0.1, 0.0, 0.045, 1])


def test_targets_are_where_the_tasks_want_something_to_be() -> None:
    np.testing.assert_allclose(target_position(TASKS[0], world()), [0.0, 0.1, LIFT_HEIGHT])
    np.testing.assert_allclose(target_position(TASKS[2], world()), [-0.1, 0.0, 0.03])
    orange = world(initial_objects={"orange cube": np.array([0.0, 0.1, 0.021])})
    np.testing.assert_allclose(target_position(TASKS[5], orange), [0.0, 0.0, 0.021])
    drawer = world(drawer_position=np.array([0.0, 0.3, 0.0]))
    np.testing.assert_allclose(target_position(TASKS[7], drawer), [0.0, 0.3, 0.0])


def test_a_scene_with_more_objects_is_refused() -> None:
    three = Scene(tuple(MovableObject(colour, "cube") for colour in ("red", "blue", "pink")))
    objects = {item.name: np.zeros(3) for item in three.objects}
    task = Task("lift", "lift", three, (Lifted("red cube"),), 10)
    with pytest.raises(ValueError, match="task lift has 3 movable objects"):
        scene_state(task, world(objects=objects), dict.fromkeys(objects, QUARTER_TURN))


@pytest.mark.parametrize("task_id", range(len(TASKS)))
def test_an_episode_is_that_of_the_tabletop(task_id: int) -> None:
    suites = (get_suite("tabletop", 32), get_suite("tabletop_state", 32), get_suite("tabletop_state"))
    seen, both, told = (suite.make(task_id) for suite in suites)
    expert = suites[0].make_expert(task_id, seed=1)
    for environment in (seen, both, told):
        environment.reset_to("train", 3)
    expert.reset(seen)
    for _ in range(6):
        action = expert.act(seen)
        assert len({environment.advance(action) for environment in (seen, both, told)}) == 1
    picture, observed, numbers = (environment.render_observation() for environment in (seen, both, told))
    for camera in ("image", "wrist_image"):
        np.testing.assert_array_equal(picture["images"][camera], observed["images"][camera])
    np.testing.assert_array_equal(observed["state"], numbers["state"])
    np.testing.assert_array_equal(observed["state"][:8], picture["state"])
    assert numbers["images"] == {} and numbers["state"].shape == (24,)
    assert isinstance(told, TabletopEnvironment)
    goal = next(goal for goal in told.task.goals if hasattr(goal, "item"))
    first = NUMBER["object_x"]
    np.testing.assert_allclose(numbers["state"][first : first + 3], told.world_state().objects[goal.item], atol=1e-6)


def test_the_expert_succeeds_and_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_context(*_: object) -> None:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(rendering, "OffscreenContext", no_context)
    monkeypatch.setattr(rendering, "_CONTEXTS", {})
    suite = get_suite("tabletop_state")
    environment = suite.make(2)
    observation, _ = environment.reset(seed=0, options={"init_state_id": 1, "split": "eval"})
    expert = suite.make_expert(2, seed=0)
    expert.reset(environment)
    terminated = truncated = False
    while not (terminated or truncated):
        observation, _, terminated, truncated, info = environment.step(expert.act(environment))
    assert terminated and info["success"]
    assert environment.observation_space.contains(observation)
    with pytest.raises(EnvironmentRequestError, match="tabletop_state has no camera"):
        environment.render()
    with pytest.raises(AssertionError, match="a picture was drawn"):
        get_suite("tabletop_state", 32).make(2).reset(seed=0)


def test_protocols_tell_the_suites_apart() -> None:
    told, seen = get_suite("tabletop_state").protocol(), get_suite("tabletop_state", 64).protocol()
    assert (told["suite"], told["image_size"], seen["image_size"]) == ("tabletop_state", None, 64)
    assert len(told["state"]) == 24 and told["horizons"] == get_suite("tabletop").protocol()["horizons"]


def test_there_is_more_to_train_from_than_in_the_tabletop() -> None:
    suite = get_suite("tabletop_state", None)
    assert (suite.num_init_states(0, "train"), suite.num_init_states(0, "eval")) == (1000, 50)
    for split in ("train", "eval"):
        with pytest.raises(EnvironmentRequestError, match="no task 10"):
            suite.num_init_states(10, split)  # type: ignore[arg-type]
    told, seen = suite.make(0), get_suite("tabletop", None).make(0)
    starts = []
    for split, number in (("train", 49), ("train", 50), ("train", 999), ("eval", 49)):
        told.reset_to(split, number)
        starts.append(tuple(told.robot_state()))
        if number == 49:
            seen.reset_to(split, number)
            np.testing.assert_array_equal(seen.robot_state(), told.robot_state()[:8])
    assert len(set(starts)) == 4
    for environment, split, number, known in (
        (told, "train", 1000, 999),
        (told, "eval", 50, 49),
        (seen, "train", 50, 49),
    ):
        with pytest.raises(EnvironmentRequestError, match=f"0 to {known}"):
            environment.reset_to(split, number)
