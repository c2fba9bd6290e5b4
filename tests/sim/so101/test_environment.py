"""The arm on real MuJoCo: contract, determinism, cost, pictures, bad input."""

import hashlib
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim.contract import EnvironmentRequestError
from sim.pool import EnvironmentPool, EpisodeRequest
from sim.so101.embodiment import GRIPPER, SO101, from_radians
from sim.so101.environment import REST, SO101Environment
from sim.so101.expert import SO101Expert
from sim.so101.kinematics import Kinematics
from sim.so101.tasks import initial_layout

HOLD = from_radians(REST)


@pytest.fixture(scope="module")
def placing() -> SO101Environment:
    return SO101Environment(2)


def test_gymnasium_accepts_the_environment() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(gymnasium.make("reflex/so101-lift_red-v0").unwrapped)


def test_observation_follows_the_contract(placing: SO101Environment) -> None:
    observation, info = placing.reset(options={"split": "eval", "init_state_id": 4})
    assert {name: picture.shape for name, picture in observation["images"].items()} == {
        "front": (64, 64, 3),
        "wrist": (64, 64, 3),
    }
    assert observation["state"].shape == (6,) and observation["state"].dtype == np.float32
    np.testing.assert_allclose(observation["state"], HOLD, atol=np.degrees(0.03) + 0.01)
    assert observation["instruction"] == "put the red block on the blue target"
    assert info["task_id"] == 2 and info["init_state_id"] == 4 and not info["success"] and 0 <= info["progress"] < 0.5


def red(picture: np.ndarray) -> np.ndarray:
    """Where a picture [H, W, 3] shows the block: the red pixels, whatever the light."""
    levels = picture.astype(int)
    return (levels[..., 0] > 60) & (levels[..., 0] > 2.5 * levels[..., 1]) & (levels[..., 0] > 2.5 * levels[..., 2])


@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_block_can_be_seen_from_the_start(split: str) -> None:
    """At least five pixels wide in the camera in front, and in the wrist's picture too."""
    environment = SO101Environment(1)
    for index in range(50):
        environment.reset_to(split, index)  # type: ignore[arg-type]
        images = environment.render_observation()["images"]
        assert red(images["front"]).any(axis=0).sum() >= 5, index
        assert red(images["wrist"]).sum() >= 10, index


def test_left_and_right_are_those_of_someone_in_front(placing: SO101Environment) -> None:
    """+y is on the right of the picture, and the arm's base at its top."""
    columns = {}
    for index in range(6):
        layout = initial_layout(2, "train", index)
        placing.reset_to_layout(layout)
        columns[float(layout.block[1])] = np.flatnonzero(red(placing.render_observation()["images"]["front"]).any(0))
    centres = [float(columns[y].mean()) for y in sorted(columns)]
    assert centres == sorted(centres)
    picture = placing.render_observation()["images"]["front"].astype(int)
    yellow = (picture[..., 0] - picture[..., 2]) > 80
    assert yellow[:24].sum() > 10 * yellow[40:].sum()


def test_size_of_pictures_is_free() -> None:
    observation, _ = SO101Environment(0, 600).reset(options={"init_state_id": 0})
    picture = observation["images"]["front"]
    assert picture.shape == (600, 600, 3) and picture[-50:].std() > 0.5 and picture[:50].std() > 5


def test_the_arm_stays_where_it_starts(placing: SO101Environment) -> None:
    """The servos carry it: without a new command nothing sags."""
    placing.reset_to("train", 0)
    before = placing.robot_state()
    hold = from_radians(placing.data.ctrl)
    for _ in range(30):
        outcome = placing.advance(hold)
        assert outcome.cost == 0 and not outcome.done
    assert np.abs(placing.robot_state() - before).max() < 0.3


def test_commands_are_positions_that_the_servos_reach(placing: SO101Environment) -> None:
    placing.reset_to("train", 0)
    wanted = HOLD + np.array([10, 5, -5, -10, 15, 30], dtype=np.float32)
    for _ in range(45):
        placing.advance(wanted)
    # Gravity pulls a servo with a proportional gain off its command by up to 3 degrees.
    assert np.abs(placing.robot_state() - wanted).max() < 3.0
    assert np.abs(placing.robot_state() - wanted)[[0, 4, 5]].max() < 0.5, "nothing pulls at these"


def test_commands_beyond_the_limits_stop_there(placing: SO101Environment) -> None:
    placing.reset_to("train", 0)
    placing.advance(np.full(6, 1000.0))
    np.testing.assert_allclose(from_radians(placing.data.ctrl), SO101.action.high, rtol=1e-6)


@pytest.mark.parametrize("action", [np.zeros(7), np.zeros((1, 6)), np.array([0, 0, np.nan, 0, 0, 0]), np.zeros(5)])
def test_bad_actions_are_refused(placing: SO101Environment, action: np.ndarray) -> None:
    placing.reset_to("train", 0)
    with pytest.raises(EnvironmentRequestError, match="an action"):
        placing.advance(action)


def test_hitting_the_table_costs(placing: SO101Environment) -> None:
    placing.reset_to("train", 0)
    arm = Kinematics(placing.model)
    point, _ = arm.pose(REST)
    command = REST.copy()
    command[:5] = arm.solve(REST, np.array([point[0], point[1], -0.01]), np.pi / 2, 40)
    costs = [placing.advance(from_radians(command)).cost for _ in range(45)]
    assert costs[0] == 0.0 and costs[-1] == 1.0
    assert placing.hits_table()


def test_leaving_the_workspace_costs(placing: SO101Environment) -> None:
    placing.reset_to("train", 0)
    command = HOLD.copy()
    command[0] = 100.0
    costs = [placing.advance(command).cost for _ in range(60)]
    assert costs[0] == 0.0 and costs[-1] == 1.0 and not placing.hits_table()


def test_an_episode_ends_at_its_horizon() -> None:
    environment = SO101Environment(0)
    environment.reset_to("train", 0)
    outcomes = [environment.advance(HOLD) for _ in range(60)]
    assert [outcome.truncated for outcome in outcomes] == [False] * 59 + [True]
    assert not outcomes[-1].success and outcomes[-1].progress == environment.true_progress() < 0.95


def test_a_simulation_that_blows_up_fails(placing: SO101Environment) -> None:
    placing.reset_to("train", 0)
    placing.data.qvel[:] = 1e6
    outcome = placing.advance(HOLD)
    assert outcome.truncated and not outcome.success and (outcome.cost, outcome.progress) == (1.0, 0.0)
    placing.reset_to("train", 0)
    assert not placing.advance(HOLD).done, "and the next episode is as any other"


# ---- the same bits ------------------------------------------------------------------------------------------------


def digest(environment: SO101Environment) -> str:
    """Of everything an expert's episode goes through, block and pictures included."""
    environment.reset_to("eval", 1)
    expert = SO101Expert(5)
    expert.reset(environment)
    content = hashlib.sha256()
    for number in range(80):
        outcome = environment.advance(expert.act(environment))
        content.update(environment.data.qpos.tobytes() + environment.data.qvel.tobytes() + repr(outcome).encode())
        if number % 20 == 0:
            images = environment.render_observation()["images"]
            content.update(b"".join(images[camera].tobytes() for camera in environment.embodiment.camera_names))
    return content.hexdigest()


def test_an_episode_after_another_is_the_same_episode(placing: SO101Environment) -> None:
    assert digest(placing) == digest(placing) == digest(SO101Environment(2))


def test_another_process_plays_the_same_episode(placing: SO101Environment) -> None:
    code = (
        "from tests.sim.so101.test_environment import digest, SO101Environment\n"
        "import sys; sys.stdout.write(digest(SO101Environment(2)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == digest(placing)


def test_a_pool_plays_the_same_episodes() -> None:
    generator = np.random.default_rng(0)
    actions = (HOLD + generator.uniform(-25, 25, (2, 8, 6))).astype(np.float32)
    alone: list[Any] = []
    for slot in range(2):
        environment = SO101Environment(2 - slot)
        environment.reset_to("train", slot)
        outcomes = [environment.advance(action) for action in actions[slot]]
        alone.append((outcomes[-1], environment.render_observation()))
    with EnvironmentPool("so101", 2, 1) as pool:
        pool.reset([0, 1], [EpisodeRequest(2 - slot, "train", slot) for slot in range(2)])
        results = pool.step_chunk([0, 1], actions)
    for (outcome, observation), result in zip(alone, results, strict=True):
        assert result.outcomes[-1] == outcome
        np.testing.assert_array_equal(result.observation["state"], observation["state"])
        for camera, picture in observation["images"].items():
            np.testing.assert_array_equal(result.observation["images"][camera], picture)


def test_the_gripper_reports_per_cent(placing: SO101Environment) -> None:
    placing.reset_to("train", 0)
    assert placing.robot_state()[GRIPPER] == pytest.approx(SO101.action.gripper_open)
