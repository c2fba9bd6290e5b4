"""A MetaWorld task behind the contract: resets forget, neighbours do not disturb, and what the robot feels and does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.metaworld.environment import MetaWorldEnvironment
from sim.metaworld.suite import MetaWorldSuite
from sim.metaworld.tasks import HORIZON, SEEDS, TASKS, TRAINING_STATES
from sim.pool import EnvironmentPool, EpisodeRequest

pytest.importorskip("metaworld")

NUMBERS = {task.name: number for number, task in enumerate(TASKS)}
STILL = np.array([0.0, 0.0, 0.0, -1.0], np.float32)


def make(name: str, suite: str = "metaworld", image_size: int | None = 32) -> MetaWorldEnvironment:
    return MetaWorldSuite(suite, image_size).make(NUMBERS[name])


def actions(seed: int, count: int) -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 4)).astype(np.float32))


def played(environment: MetaWorldEnvironment, seed: int, count: int = 6) -> list[Any]:
    """Everything an episode shows, as values that can be compared."""
    seen: list[Any] = [environment.render_observation()["images"]["image"].tobytes(), environment.true_progress()]
    for action in actions(seed, count):
        outcome = environment.advance(action)
        seen += [outcome, environment.simulation.observation.tobytes()]
        seen.append(environment.render_observation()["images"]["image"].tobytes())
    return seen


# Their resets keep something: a view of the state, a distance that the first reward notes, a moved body, a goal.
@pytest.mark.parametrize("name", ["door-lock", "bin-picking", "faucet-open", "reach"])
def test_a_reset_forgets_everything_before_it(name: str) -> None:
    fresh, used = make(name), make(name)
    fresh.reset_to("train", 4)
    expected = played(fresh, seed=1)
    used.reset_to("eval", 9)
    for action in actions(2, 10):
        used.advance(action)
    used.reset_to("train", 4)
    assert played(used, seed=1) == expected


@pytest.mark.parametrize("name", ["door-unlock", "assembly"])
def test_environments_that_share_a_model_do_not_disturb_each_other(name: str) -> None:
    suite = MetaWorldSuite("metaworld", 32)
    one, other = suite.make(NUMBERS[name]), suite.make(NUMBERS[name])
    assert one.simulation.shared is other.simulation.shared
    starts, alone = ((one, "train", 0), (other, "eval", 1)), []
    for environment, split, number in starts:
        environment.reset_to(split, number)  # type: ignore[arg-type]
        alone.append(played(environment, seed=number))
    together: list[list[Any]] = []
    for environment, split, number in starts:
        environment.reset_to(split, number)  # type: ignore[arg-type]
    for environment, _, _ in starts:
        together.append([environment.render_observation()["images"]["image"].tobytes(), environment.true_progress()])
    for step in range(6):
        for (environment, _, number), seen in zip(starts, together, strict=True):
            outcome = environment.advance(actions(number, 6)[step])
            seen += [outcome, environment.simulation.observation.tobytes()]
        for (environment, _, _), seen in zip(starts, together, strict=True):
            seen.append(environment.render_observation()["images"]["image"].tobytes())
    assert together == alone
    assert alone[0] != alone[1]


def test_a_pool_shows_what_an_environment_alone_shows() -> None:
    task, chunk = NUMBERS["drawer-close"], np.stack(actions(5, 5))
    alone = make("drawer-close")
    alone.reset_to("train", 2)
    outcomes = [alone.advance(action) for action in chunk]
    expected = alone.render_observation()
    with EnvironmentPool("metaworld", num_slots=2, num_workers=1, image_size=32) as pool:
        pool.reset([0, 1], [EpisodeRequest(task, "train", 1), EpisodeRequest(task, "train", 2)])
        results = pool.step_chunk([0, 1], [chunk[::-1], chunk])
    assert results[1].outcomes == outcomes
    np.testing.assert_array_equal(results[1].observation["images"]["image"], expected["images"]["image"])
    np.testing.assert_array_equal(results[1].observation["state"], expected["state"])


def test_an_action_moves_the_hand_and_its_gripper() -> None:
    environment = make("reach", "metaworld_state")
    environment.reset_to("train", 0)
    for axis, name in enumerate("xyz"):
        action = STILL.copy()
        action[axis] = 0.5
        before = environment.robot_state()[:3]
        for _ in range(5):
            environment.advance(action)
        for _ in range(10):  # it lags behind its goal
            environment.advance(STILL)
        moved = environment.robot_state()[:3] - before
        assert moved[axis] == pytest.approx(5 * 0.5 * 0.04, abs=0.01), name
        assert np.abs(np.delete(moved, axis)).max() < 0.01
    opening = []
    for effort in (-1.0, 1.0, -1.0):
        for _ in range(10):
            environment.advance(np.array([0.0, 0.0, 0.0, effort]))
        opening.append(environment.robot_state()[3])
    assert opening[1] < 0.5 < 0.9 < min(opening[0], opening[2]), "+1 closes"


def test_commands_beyond_full_scale_are_clipped() -> None:
    environment, states = make("reach", "metaworld_state"), []
    for action in ([1.0, -1.0, 1.0, 1.0], [9.0, -5.0, 1.5, 2.0]):
        environment.reset_to("train", 0)
        environment.advance(np.array(action))
        states.append(environment.robot_state().tolist())
    assert states[0] == states[1]


def test_what_is_seen_with_and_without_a_camera() -> None:
    seen, told = make("pick-place"), make("pick-place", "metaworld_state", image_size=None)
    both = make("pick-place", "metaworld_state")
    before = None
    for environment in (seen, told, both):
        environment.reset_to("eval", 3)
    for action in actions(0, 3):
        before = told.robot_state()
        for environment in (seen, told, both):
            environment.advance(action)
    picture, numbers = seen.render_observation(), told.render_observation()
    assert np.array_equal(both.render_observation()["images"]["image"], picture["images"]["image"])
    assert np.array_equal(both.robot_state(), numbers["state"])
    assert picture["images"]["image"].shape == (32, 32, 3) and numbers["images"] == {}
    assert numbers["state"].shape == (39,)
    assert before is not None and np.array_equal(numbers["state"][18:36], before[:18]), "a control step ago"
    assert np.array_equal(picture["state"], numbers["state"][:4])
    goal = told.simulation.shared.initial_vectors("eval")[3][3:]
    np.testing.assert_allclose(numbers["state"][36:], goal, rtol=1e-6)
    with pytest.raises(EnvironmentRequestError, match="no camera"):
        told.render()


def test_an_episode_is_truncated_at_the_horizon() -> None:
    environment = make("assembly", "metaworld_state")
    environment.reset_to("train", 0)
    outcomes = [environment.advance(STILL) for _ in range(HORIZON)]
    assert [outcome.truncated for outcome in outcomes] == [False] * (HORIZON - 1) + [True]
    assert not any(outcome.success or outcome.cost for outcome in outcomes)
    environment.reset_to("train", 0)
    assert not environment.advance(STILL).truncated, "a reset starts counting anew"


def test_a_simulation_that_blows_up_ends_the_episode_as_a_failure() -> None:
    environment = make("push", "metaworld_state")
    environment.reset_to("train", 0)
    environment.simulation.data.qvel[:] = 1e12
    outcome = environment.advance(STILL)
    assert (outcome.success, outcome.truncated, outcome.cost, outcome.progress) == (False, True, 1.0, 0.0)
    environment.reset_to("train", 0)
    assert not environment.advance(STILL).done


def test_bad_requests_are_named() -> None:
    environment = make("reach", "metaworld_state")
    with pytest.raises(EnvironmentRequestError, match="never reset"):
        environment.advance(STILL)
    environment.reset_to("train", 0)
    for action in (np.zeros(7), np.array([0.0, 0.0, np.nan, 0.0])):
        with pytest.raises(EnvironmentRequestError, match="an action"):
            environment.advance(action)
    for split, number, message in (
        ("train", 1000, "0 to 999"), ("eval", 50, "0 to 49"), ("eval", -1, "0 to 49"), ("test", 0, "split")
    ):  # fmt: skip
        with pytest.raises(EnvironmentRequestError, match=message):
            environment.reset_to(split, number)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentRequestError, match="0 to 49"):
        make("reach", "metaworld").reset_to("train", 50)


def test_training_and_evaluation_start_from_different_states() -> None:
    shared = make("drawer-open", "metaworld_state").simulation.shared
    train, evaluation = ({tuple(row) for row in shared.initial_vectors(split)} for split in SEEDS)
    assert len(train) == len(evaluation) == 50 and not train & evaluation


def test_the_variant_with_all_numbers_has_more_to_train_from_that_begins_with_the_same() -> None:
    shared = make("drawer-open", "metaworld_state").simulation.shared
    first, more = shared.initial_vectors("train").copy(), shared.initial_vectors("train", TRAINING_STATES)
    assert len(more) == 1000 and (more[:50] == first).all()
    train, evaluation = {tuple(row) for row in more}, {tuple(row) for row in shared.initial_vectors("eval")}
    assert len(train) == 1000 and not train & evaluation
