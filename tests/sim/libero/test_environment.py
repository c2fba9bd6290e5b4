"""Initial states, stepping and observations of one LIBERO task."""

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError, Expert
from sim.libero.environment import LiberoEnvironment
from sim.libero.long_experts import GoalByGoalExpert
from sim.libero.scene import LiberoScene
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import NUM_INIT_STATES
from sim.suites import get_suite
from tests.sim.libero.conftest import installed

pytestmark = pytest.mark.libero


def test_training_states_never_equal_evaluation_states(between_plate_and_ramekin: LiberoEnvironment) -> None:
    scene, builder = between_plate_and_ramekin.scene, installed(between_plate_and_ramekin)
    official = builder.official_states()[:, 1 : 1 + scene.model.nq]
    sampled = []
    for index in range(NUM_INIT_STATES):
        sampled.append(builder.place("train", index)[1 : 1 + scene.model.nq])
    # The smallest distance between two states of different splits, in the largest coordinate difference.
    nearest = min(np.abs(official - state).max(axis=1).min() for state in sampled)
    assert nearest > 1e-4
    assert len(np.unique(np.round(sampled, 9), axis=0)) == NUM_INIT_STATES


def test_a_sampled_state_that_equals_an_evaluation_state_is_drawn_again(
    between_plate_and_ramekin: LiberoEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = installed(between_plate_and_ramekin)
    collided = builder.place("train", 0)
    planted = builder.official_states().copy()
    planted[11] = collided
    monkeypatch.setattr(builder, "_official_states", planted)
    assert np.abs(builder.place("train", 0) - collided).max() > 1e-4


def test_a_reset_does_not_depend_on_what_happened_before(between_plate_and_ramekin: LiberoEnvironment) -> None:
    environment = between_plate_and_ramekin
    pushing = np.array([1.0, 0.3, -1.0, 0.2, 0.0, 0.4, 1.0])
    states = []
    for _ in range(2):
        environment.reset_to("train", 5)
        for _ in range(5):
            environment.advance(pushing)
        states.append((environment.scene.flattened_state(), environment.robot_state()))
        environment.reset_to("eval", 1)  # other fixture poses, and fingers left closed
        for _ in range(3):
            environment.advance(pushing)
    assert np.array_equal(states[0][0], states[1][0])
    assert np.array_equal(states[0][1], states[1][1])


@pytest.mark.parametrize(("name", "task_id"), [("libero_goal", 7), ("libero_spatial", 4)])
def test_environments_of_a_task_share_a_model_and_nobody_can_tell(
    spatial: LiberoSuite, name: str, task_id: int
) -> None:
    """Fixtures that stand elsewhere, and a stove that one of them switches on."""
    lone, shared = LiberoSuite(name, 64), LiberoSuite(name, 64)
    alone = [episode(lone, task_id, [state])[0] for state in (3, 8)]
    together = episode(shared, task_id, [3, 8])
    for one, other in zip(alone, together, strict=True):
        assert len(one) == len(other)
        for (state, place, picture), (other_state, other_place, other_picture) in zip(one, other, strict=True):
            assert np.array_equal(state, other_state) and np.array_equal(place, other_place)
            assert np.array_equal(picture, other_picture)


def episode(suite: LiberoSuite, task_id: int, states: list[int]) -> list[list[tuple[np.ndarray, ...]]]:
    """Environments played in turn, a step each, the first by an expert: states, fixtures and every tenth picture."""
    environments = [suite.make(task_id) for _ in states]
    experts = [suite.make_expert(task_id, seed=0) for _ in states]
    seen: list[list[tuple[np.ndarray, ...]]] = [[] for _ in states]
    for environment, expert, state in zip(environments, experts, states, strict=True):
        environment.reset_to("train", state)
        expert.reset(environment)
    for step in range(80):
        for environment, expert, record in zip(environments, experts, seen, strict=True):
            environment.advance(expert.act(environment))
            if step % 10 == 9:
                scene, picture = environment.scene, environment.render_observation()["images"]["image"]
                record.append((scene.flattened_state(), scene.fixture_poses(), picture))
    for environment in environments:
        environment.close()
    return seen


def test_a_settled_state_is_gone_on_from_to_the_bit(spatial: LiberoSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """An initial state settles once; later episodes start from what came out of that, and nobody can tell."""
    task, settled = spatial.make(3), spatial.make(3)
    assert isinstance(task, LiberoEnvironment) and isinstance(settled, LiberoEnvironment)
    pushing = np.array([1.0, 0.3, -1.0, 0.2, 0.0, 0.4, 1.0])
    task.reset_to("eval", 7)
    settled.reset_to("eval", 2)  # other fixture poses, and fingers left closed
    settled.advance(pushing)
    monkeypatch.setattr(installed(settled), "place", None)  # from here on nothing can be placed anew
    settled.reset_to("eval", 7)
    for environment in (task, settled):
        scene = environment.scene
        assert np.array_equal(scene.data.site_xpos, task.scene.data.site_xpos)
        assert scene.data.ncon == task.scene.data.ncon
    for step in range(12):
        for environment in (task, settled):
            if step:
                environment.advance(pushing)
        assert np.array_equal(task.scene.flattened_state(), settled.scene.flattened_state()), step
        assert np.array_equal(task.robot_state(), settled.robot_state()), step
    pictures, others = task.render_observation(), settled.render_observation()
    assert np.array_equal(pictures["images"]["image"], others["images"]["image"])
    assert np.array_equal(pictures["images"]["wrist_image"], others["images"]["wrist_image"])
    task.close()
    settled.close()


def test_fast_stepping_drifts_in_the_last_digits_only(between_plate_and_ramekin: LiberoEnvironment) -> None:
    exact = between_plate_and_ramekin
    fast = LiberoSuite("libero_spatial_fast", image_size=64).make(0)
    assert isinstance(fast, LiberoEnvironment)
    generator = np.random.default_rng(1)
    for environment in (exact, fast):
        environment.reset_to("eval", 4)
    for _ in range(20):
        action = generator.uniform(-1.0, 1.0, 7)
        exact.advance(action)
        fast.advance(action)
    difference = np.abs(exact.scene.data.qpos - fast.scene.data.qpos).max()
    assert 0.0 < difference < 1e-5


def test_the_plain_look_shows_the_same_scene(between_plate_and_ramekin: LiberoEnvironment) -> None:
    official = between_plate_and_ramekin
    plain = LiberoSuite("libero_spatial_plain", image_size=64).make(0)
    pictures = []
    for environment in (official, plain):
        environment.reset_to("eval", 4)
        pictures.append(environment.render_observation()["images"]["image"].astype(float))
    difference = np.abs(pictures[0] - pictures[1])
    assert 0.5 < difference.mean() < 20.0
    assert np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] > 0.95
    plain.close()


@pytest.mark.parametrize("name", ["libero_spatial_plain_fast", "libero_spatial_quick", "tabletop_fast", "_fast"])
def test_unknown_variants_are_refused(name: str) -> None:
    with pytest.raises(EnvironmentRequestError, match="unknown"):
        get_suite(name)


def test_resetting_leaves_the_callers_random_numbers_alone(between_plate_and_ramekin: LiberoEnvironment) -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.uniform()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    between_plate_and_ramekin.reset_to("train", 2)
    assert np.random.uniform() == expected  # noqa: NPY002


def test_rendering_does_not_change_the_episode(between_plate_and_ramekin: LiberoEnvironment) -> None:
    environment = between_plate_and_ramekin
    action = np.array([0.2, 0.1, -1.0, 0.0, 0.0, 0.0, 1.0])
    final = []
    for renders in (False, True):
        environment.close()  # so that the GL context is made in the middle of the second episode
        environment.reset_to("eval", 0)
        for step in range(6):
            environment.advance(action)
            if renders and step == 2:
                environment.render_observation()
        final.append(environment.scene.flattened_state())
    assert np.array_equal(final[0], final[1])


def test_observation_and_step_follow_the_contract(between_plate_and_ramekin: LiberoEnvironment) -> None:
    environment = between_plate_and_ramekin
    observation, info = environment.reset(options={"split": "eval", "init_state_id": 2})
    assert environment.observation_space.contains(observation)
    assert observation["instruction"] == (
        "pick up the black bowl between the plate and the ramekin and place it on the plate"
    )
    assert info == {"success": False, "cost": 0.0, "task_id": 0, "init_state_id": 2, "progress": 0.0}
    observation, reward, terminated, truncated, _ = environment.step(np.zeros(7, dtype=np.float32))
    assert environment.observation_space.contains(observation)
    assert (reward, terminated, truncated) == (0.0, False, False)
    # Upright: the wall behind the robot is above the table, and grey; the table is light wood.
    top, bottom = observation["images"]["image"][:8].astype(float), observation["images"]["image"][-8:].astype(float)
    assert bottom.mean() > top.mean() + 30
    # The gripper hangs over the table, pointing down (a half turn), fingers open.
    state = observation["state"]
    assert 0.9 < state[2] < 1.3
    assert np.linalg.norm(state[3:6]) == pytest.approx(np.pi, abs=0.2)
    assert state[6] == pytest.approx(-state[7], abs=2e-3)
    assert state[6] > 0.03


def test_the_horizon_truncates(spatial: LiberoSuite, between_plate_and_ramekin: LiberoEnvironment) -> None:
    environment = between_plate_and_ramekin
    assert environment.horizon == 220
    environment.reset_to("eval", 0)
    environment.horizon = 3
    try:
        ends = [environment.advance(np.zeros(7)).truncated for _ in range(3)]
    finally:
        environment.horizon = 220
    assert ends == [False, False, True]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.full(7, np.nan), "finite"),
        (np.array([0.0] * 6 + [np.inf]), "finite"),
        (np.zeros(6), "shape"),
        (np.zeros((1, 7)), "shape"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(
    between_plate_and_ramekin: LiberoEnvironment, action: np.ndarray, message: str
) -> None:
    between_plate_and_ramekin.reset_to("eval", 0)
    before = between_plate_and_ramekin.scene.flattened_state()
    with pytest.raises(EnvironmentRequestError, match=message):
        between_plate_and_ramekin.advance(action)
    assert np.array_equal(before, between_plate_and_ramekin.scene.flattened_state())


@pytest.mark.parametrize(("split", "index"), [("eval", 50), ("train", -1), ("test", 0), ("eval", 1.5), ("eval", True)])
def test_unknown_initial_states_are_refused(
    between_plate_and_ramekin: LiberoEnvironment, split: str, index: int
) -> None:
    with pytest.raises(EnvironmentRequestError, match=r"initial states 0 to 49|unknown split"):
        between_plate_and_ramekin.reset_to(split, index)  # type: ignore[arg-type]


def test_unknown_reset_options_are_refused(between_plate_and_ramekin: LiberoEnvironment) -> None:
    with pytest.raises(EnvironmentRequestError, match="init_state"):
        between_plate_and_ramekin.reset(options={"init_state": 3})


def test_stepping_before_a_reset_is_refused(spatial: LiberoSuite) -> None:
    with pytest.raises(EnvironmentRequestError, match="never reset"):
        spatial.make(2).advance(np.zeros(7))


@pytest.mark.parametrize(
    ("name", "task_id"),
    [
        ("libero_object_fast", 2),
        ("libero_goal_fast", 0),
        ("libero_goal_fast", 3),
        ("libero_goal_fast", 5),
        ("libero_goal_fast", 6),
        ("libero_goal_fast", 7),
        ("libero_goal_fast", 9),
        ("libero_10_fast", 2),
        ("libero_10_fast", 3),
        ("libero_10_fast", 4),
        ("libero_10_fast", 5),
        ("libero_10_fast", 8),
    ],
)
def test_experts_of_every_kind_succeed(spatial: LiberoSuite, name: str, task_id: int) -> None:
    """A bottle into the basket; a drawer, a bowl into one, a plate, cheese into a bowl, a knob, a bottle on a rack.

    A knob and a pot, a bowl in a drawer that is shut again, two mugs, a book, two pots.
    """
    succeeds(name, task_id, state=0)


def test_what_cannot_be_held_one_way_is_held_another(spatial: LiberoSuite) -> None:
    """A can that stands close to a bottle: the hand does not come down with its fingers across the narrower side."""
    expert = succeeds("libero_10_fast", 7, state=2)
    assert isinstance(expert, GoalByGoalExpert)
    assert expert.tried[0] > 1


@pytest.mark.parametrize(
    ("name", "task_id", "state", "cabinet"), [("libero_spatial", 4, 11, 18), ("libero_goal", 3, 31, 38)]
)
def test_a_cabinet_that_stands_elsewhere_is_met(
    spatial: LiberoSuite, name: str, task_id: int, state: int, cabinet: int
) -> None:
    """As in evaluation, where fixtures are drawn anew: a bowl half under the cabinet's top, one in the drawer's way."""
    suite = LiberoSuite(f"{name}_fast", image_size=64)
    environment = suite.make(task_id)
    environment.reset_to("train", cabinet)
    fixtures = environment.scene.fixture_poses()
    environment.simulation.start("train", state)
    time, positions, velocities = environment.scene.data.time, environment.scene.data.qpos, environment.scene.data.qvel
    environment.reset_to_recorded(np.concatenate([[time], positions, velocities]), fixtures)
    succeeds_from_here(suite, environment, seed=state)


def succeeds(name: str, task_id: int, state: int) -> Expert:
    suite = LiberoSuite(name, image_size=64)
    environment = suite.make(task_id)
    environment.reset_to("train", state)
    return succeeds_from_here(suite, environment, seed=0)


def succeeds_from_here(suite: LiberoSuite, environment: LiberoEnvironment, seed: int) -> Expert:
    expert = suite.make_expert(environment.task_id, seed)
    expert.reset(environment)
    outcome = environment.advance(expert.act(environment))
    while not outcome.done:
        outcome = environment.advance(expert.act(environment))
    assert outcome.success
    environment.close()
    return expert


def test_the_expert_puts_the_bowl_on_the_plate(
    spatial: LiberoSuite, between_plate_and_ramekin: LiberoEnvironment
) -> None:
    environment = between_plate_and_ramekin
    expert = spatial.make_expert(0, seed=0)
    environment.reset_to("train", 0)
    expert.reset(environment)
    progress = []
    outcome = environment.advance(expert.act(environment))
    while not outcome.done:
        progress.append(outcome.progress)
        action = expert.act(environment)
        assert action.shape == (7,) and action.dtype == np.float32 and np.abs(action).max() <= 1.0
        outcome = environment.advance(action)
    assert outcome.success
    assert outcome.progress == 1.0
    assert progress[0] < 0.3 and 0.8 < progress[-1] <= 0.95 and max(progress) <= 0.95


def test_progress_is_how_near_the_hand_and_the_thing_are(spatial: LiberoSuite) -> None:
    """By hand: 0.25 of the hand's nearness, 0.65 of the bowl's way."""
    environment = spatial.make(0)
    environment.reset_to("train", 0)
    scene = environment.scene
    _, bowl, plate = scene.goal()[0]
    hand, _ = scene.end_effector_pose()
    nearness = max(0.0, 1.0 - float(np.linalg.norm(hand - scene.body_position(bowl))) / 0.3)
    assert environment.true_progress() == pytest.approx(0.25 * nearness)
    move_halfway(scene, bowl, plate)
    nearness = max(0.0, 1.0 - float(np.linalg.norm(hand - scene.body_position(bowl))) / 0.3)
    assert environment.true_progress() == pytest.approx(0.25 * nearness + 0.65 * 0.5)
    environment.reset_to("train", 0)
    assert environment.true_progress() < 0.26, "its way is measured from the new start"


def test_progress_of_a_drawer_is_how_far_it_was_pulled(spatial: LiberoSuite) -> None:
    environment = LiberoSuite("libero_goal", 64).make(0)
    environment.reset_to("train", 0)
    scene = environment.scene
    thing = scene.definition.goal[0].things[0]
    start = environment.true_progress()
    threshold = dict(thing.ranges)["open"].threshold
    scene.data.qpos[thing.joints[0]] = threshold / 2
    scene.refresh()
    assert environment.true_progress() == pytest.approx(start + 0.65 * 0.5, abs=0.03)  # its handle came nearer as well


def test_progress_counts_conditions_that_hold(spatial: LiberoSuite) -> None:
    """The stove is on, the pot not on it yet."""
    environment = LiberoSuite("libero_10", 64).make(2)
    environment.reset_to("train", 0)
    scene = environment.scene
    knob = next(predicate for predicate in scene.definition.goal if predicate.name == "turnon").things[0]
    before = environment.true_progress()
    scene.data.qpos[knob.joints[0]] = dict(knob.ranges)["turnon"].threshold + 0.2
    scene.refresh()
    assert sorted(scene.goal_predicates()) == [False, True]
    assert before < 0.5 <= environment.true_progress() < 0.98


def move_halfway(scene: LiberoScene, thing: str, target: str) -> None:
    """Put an object in the middle between where it is and another."""
    joint = scene.model.body_jntadr[scene.definition.bodies[thing]]
    address = scene.model.jnt_qposadr[joint]
    middle = (scene.body_position(thing) + scene.body_position(target)) / 2
    scene.data.qpos[address : address + 2] = middle[:2]
    scene.refresh()
