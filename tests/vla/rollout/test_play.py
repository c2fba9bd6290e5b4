"""Playing in this process: every field of the record comes from its own source, frames are those asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError, FloatArray, StepOutcome
from sim.embodiments import PANDA_EEF, Action, ActionKind, Embodiment, State
from sim.pool import EpisodeRequest
from tests.sim.odd_suite import LENGTH, OddEnvironment, OddExpert, OddSuite
from vla.data.episode import Episode
from vla.rollout.actors import Actor, Random, Replayed, Still, action_noise, staying
from vla.rollout.builder import EpisodeBuilder
from vla.rollout.play import Player, play_episode
from vla.rollout.requests import RolloutRequest
from vla.rollout.scripted import ScriptedPlayer, run_experts

WANTED = RolloutRequest(EpisodeRequest(2, "eval", 4), seed=31)
ROBOT = PANDA_EEF.with_image_size(16)
FACTORY = "tests.sim.odd_suite:get_suite"


def played(actor: Actor, frame_stride: int | None = None, task_id: int = 2) -> Episode:
    environment = OddEnvironment(task_id)
    environment.reset_to("eval", 4)
    builder = EpisodeBuilder("odd", ROBOT, WANTED, "somebody", worker_restarted=True)
    return play_episode(environment, actor, builder, frame_stride=frame_stride)


def test_every_field_comes_from_its_own_source() -> None:
    episode = played(OddExpert(), frame_stride=1)
    steps = np.arange(1, LENGTH + 1)
    assert (episode.suite, episode.task_id, episode.split, episode.init_state_id) == ("odd", 2, "eval", 4)
    assert (episode.seed, episode.policy_id, episode.instruction) == (31, "somebody", "odd task 2")
    assert episode.success and episode.worker_restarted
    np.testing.assert_allclose(episode.actions[:, 0], 0.1 * steps, rtol=1e-6)
    assert (episode.actions[:, 1] == -1.0).all(), "clipped"
    assert (episode.actions[:, 6] == 0.25).all(), "the actor was reset once"
    assert episode.rewards.tolist() == [0.0] * (LENGTH - 1) + [1.0]
    assert episode.costs.tolist() == (10.0 + steps).tolist()
    np.testing.assert_allclose(episode.progress, 1.0 / steps, rtol=1e-6)
    assert episode.observation_steps.tolist() == list(range(LENGTH + 1))
    assert episode.states[:, 0].tolist() == [0.5 + step for step in range(LENGTH + 1)]
    assert episode.images["image"][:, 0, 0, 0].tolist() == list(range(LENGTH + 1))
    assert episode.images["wrist_image"][:, 0, 0, 0].tolist() == [100 + step for step in range(LENGTH + 1)]
    assert episode.decisions is episode.log_probs is episode.features is episode.inputs is None
    for name, kind in (("actions", np.float32), ("rewards", np.float32), ("states", np.float32)):
        assert getattr(episode, name).dtype == kind
    assert {camera: frames.dtype for camera, frames in episode.images.items()} == {
        "image": np.uint8,
        "wrist_image": np.uint8,
    }


def test_the_horizon_is_no_success() -> None:
    episode = played(OddExpert(), task_id=1)
    assert (episode.success, episode.length, episode.rewards.sum()) == (False, LENGTH, 0.0)


def test_the_line_of_an_episode_says_where_progress_ended_and_what_it_cost() -> None:
    line = played(OddExpert()).record()
    assert line["final_progress"] == pytest.approx(1 / LENGTH), "not the best"
    assert line["cost"] == sum(range(11, 11 + LENGTH))
    assert (line["steps"], line["success"], line["worker_restarted"]) == (LENGTH, True, True)


@pytest.mark.parametrize(
    ("stride", "steps"), [(2, [0, 2, 4, 6, 7]), (3, [0, 3, 6, 7]), (7, [0, 7]), (50, [0, 7]), (None, [])]
)
def test_frames_are_those_asked_for_and_the_last(stride: int | None, steps: list[int]) -> None:
    environment = OddEnvironment(2)
    environment.reset_to("train", 0)
    episode = play_episode(environment, OddExpert(), EpisodeBuilder("odd", ROBOT, WANTED, "x"), frame_stride=stride)
    assert episode.observation_steps.tolist() == steps
    assert environment.renders == len(steps) == len(episode.images["image"]) == len(episode.images["wrist_image"])
    assert episode.states.shape == (len(steps), 8)
    assert episode.images["image"].shape[3] == 3


def test_an_actor_without_more_to_do_ends_the_episode() -> None:
    actions = np.linspace(0.1, 0.4, 4, dtype=np.float32)[:, None] * np.ones(7, np.float32)
    for stride in (1, 2, 3):
        episode = played(Replayed(actions), frame_stride=stride)
        np.testing.assert_array_equal(episode.actions, actions)
        assert not episode.success
        assert episode.observation_steps.tolist() == sorted({*range(0, 5, stride), 4})
    nothing = played(Replayed(actions[:0]), frame_stride=1)
    assert (nothing.length, nothing.success, nothing.observation_steps.tolist()) == (0, False, [0])
    assert nothing.actions.shape == (0, 7)
    assert nothing.record()["final_progress"] == 0.0


def test_what_is_executed_may_differ_from_what_is_recorded() -> None:
    environment = OddEnvironment(2)
    environment.reset_to("train", 0)
    noise = action_noise(np.random.default_rng(0), 0.5, ROBOT)
    episode = play_episode(environment, OddExpert(), EpisodeBuilder("odd", ROBOT, WANTED, "x"), disturb=noise)
    executed = np.stack(environment.executed)
    assert (executed[:, 6] == episode.actions[:, 6]).all(), "the gripper is not disturbed"
    assert (executed[:, :6] != episode.actions[:, :6]).any(axis=1).all()
    assert np.abs(executed).max() <= 1.0
    assert (episode.actions[:, 1] == -1.0).all()


def test_noise_of_no_size_draws_nothing() -> None:
    generator = np.random.default_rng(0)
    action = np.full(7, 0.5, np.float32)
    np.testing.assert_array_equal(action_noise(generator, 0.0, ROBOT)(action), action)
    assert generator.random() == np.random.default_rng(0).random()


def test_a_stalled_actor_holds_what_it_held() -> None:
    episode = played(Still(OddExpert(), stop=3))
    assert (episode.actions[:3, 0] > 0).all()
    assert not episode.actions[3:, :6].any()
    assert (episode.actions[3:, 6] == 0.25).all()
    frozen = played(Still())
    assert not frozen.actions[:, :6].any()
    assert (frozen.actions[:, 6] == -1.0).all(), "open"


def test_a_random_actor_draws_from_its_generator() -> None:
    expected = np.random.default_rng(5).uniform(-1, 1, (LENGTH, 7)).astype(np.float32)
    np.testing.assert_array_equal(played(Random(np.random.default_rng(5))).actions, expected)


def test_a_player_keeps_one_environment_and_starts_where_it_is_asked_to() -> None:
    suite = OddSuite()
    player = Player(suite)
    player.play(WANTED, OddExpert(), "x")
    lead = ((0.5,) * 7,) * 2
    episode = player.play(RolloutRequest(EpisodeRequest(2, "train", 3, lead), 0), OddExpert(), "x", frame_stride=50)
    assert len(suite.made) == 1
    assert suite.made[0].started_from == ("train", 3)
    assert (episode.length, episode.states[0, 0]) == (LENGTH - 2, 2.5), "the lead comes before the episode"
    with pytest.raises(
        EnvironmentRequestError, match=r"8 actions that lead into .* of task 2, initial state 3, end it after 7"
    ):
        player.play(RolloutRequest(EpisodeRequest(2, "train", 3, lead * 4), 0), OddExpert(), "x")
    player.play(RolloutRequest(EpisodeRequest(0, "train", 0), 0), OddExpert(), "x")
    assert [environment.closed for environment in suite.made] == [1, 0]
    player.close()
    assert [environment.closed for environment in suite.made] == [1, 1]


def test_experts_are_played_in_the_order_asked_without_a_picture() -> None:
    requests = [
        RolloutRequest(EpisodeRequest(task, "eval", state), 7 * task + state) for task in (2, 1) for state in (3, 1)
    ]
    for num_workers in (0, 1):
        episodes: list[Episode] = []
        run_experts("odd", None, requests, num_workers, episodes.append, FACTORY)
        found = [(e.task_id, e.split, e.init_state_id, e.seed, e.policy_id, e.success) for e in episodes]
        assert found == [(2, "eval", 3, 17, "expert", True), (2, "eval", 1, 15, "expert", True),
                         (1, "eval", 3, 10, "expert", False), (1, "eval", 1, 8, "expert", False)]  # fmt: skip
        assert all(len(episode.images["image"]) == len(episode.states) == 0 for episode in episodes)


def test_a_scripted_player_s_settings_reach_the_episode() -> None:
    plain = ScriptedPlayer(FACTORY, "odd", None).run(WANTED, restarted=False)
    assert (plain.policy_id, plain.worker_restarted, len(plain.states)) == ("expert", False, 0)
    marked = ScriptedPlayer(FACTORY, "odd", None, frame_stride=1).run(WANTED, restarted=True)
    assert (marked.worker_restarted, len(marked.states)) == (True, LENGTH + 1)
    slow = ScriptedPlayer(FACTORY, "odd", None, pace=0.5).run(WANTED, restarted=False)
    np.testing.assert_allclose(np.linalg.norm(slow.actions[:, :3], axis=1), 0.5, rtol=1e-5)
    random = ScriptedPlayer(FACTORY, "odd", None, "random").run(WANTED, restarted=False)
    assert random.policy_id == "random"
    np.testing.assert_array_equal(random.actions[0], np.random.default_rng(31).uniform(-1, 1, 7).astype(np.float32))
    noisy = ScriptedPlayer(FACTORY, "odd", None, noise=0.3)
    assert np.array_equal(noisy.run(WANTED, restarted=False).actions, plain.actions)
    environment = noisy.environment_of(2)
    assert isinstance(environment, OddEnvironment)
    assert not np.array_equal(np.stack(environment.executed), plain.actions)


def arm(kind: ActionKind, **changes: Any) -> Embodiment:
    """A robot of two numbers and a gripper."""
    names = ("shoulder", "elbow", "gripper")
    action = Action(names, kind, low=(-2.0, -1.0, 0.0), high=(2.0, 1.0, 4.0), gripper=2, gripper_open=4.0, **changes)
    return Embodiment("arm", (), State(names), action, 30)


def test_an_arm_of_positions_stays_where_it_feels_that_it_is() -> None:
    environment = OddEnvironment(2)
    environment.embodiment = arm("joint_position")
    environment.reset_to("train", 0)
    assert staying(environment, None).tolist() == [0.5, 2.0, 0.5], "as its state says"
    last = np.array([0.25, 0.5, 3.0], np.float32)
    assert staying(environment, last).tolist() == last.tolist()
    environment.embodiment = arm("velocity", stay=(0.0, 0.0, 4.0))
    assert staying(environment, None).tolist() == [0.0, 0.0, 4.0]
    assert staying(environment, last).tolist() == [0.0, 0.0, 3.0], "the gripper holds"


def test_noise_and_random_commands_are_of_the_size_of_each_range() -> None:
    robot = arm("joint_position")
    draws = np.random.default_rng(3).normal(0.0, 0.5, 2).astype(np.float32)
    executed = action_noise(np.random.default_rng(3), 0.5, robot)(np.zeros(3, np.float32))
    np.testing.assert_allclose(executed, [*np.clip(draws * [2.0, 1.0], [-2, -1], [2, 1]), 0.0], rtol=1e-6)
    environment = OddEnvironment(2)
    environment.embodiment = robot
    commands = np.stack([Random(np.random.default_rng(seed)).act(environment) for seed in range(200)])
    assert np.all(commands.min(0) >= [-2, -1, 0]) and np.all(commands.max(0) <= [2, 1, 4])
    assert np.all(commands.max(0) - commands.min(0) > 0.9 * np.array([4, 2, 4]))


class Switch(OddEnvironment):
    """Succeeds from its third step on, and again not from the fifth."""

    def advance(self, action: FloatArray) -> StepOutcome:
        outcome = super().advance(action)
        step = len(self.executed)
        return replace(outcome, success=3 <= step < 5, truncated=step >= LENGTH)


@pytest.mark.parametrize(
    ("after", "length", "success"), [(0, 3, True), (1, 4, True), (2, 5, False), (9, LENGTH, False)]
)
def test_a_recording_may_go_on_after_a_success(after: int, length: int, success: bool) -> None:
    environment = Switch(2)
    environment.reset_to("train", 0)
    builder = EpisodeBuilder("odd", ROBOT, WANTED, "x")
    episode = play_episode(environment, OddExpert(), builder, frame_stride=1, after_success=after)
    assert (episode.length, episode.success) == (length, success)
    assert episode.rewards.tolist() == [float(3 <= step < 5) for step in range(1, length + 1)]
    assert (episode.actions[:3, 0] > 0).all() and not episode.actions[3:, :6].any(), "it stays"
    assert (episode.actions[3:, 6] == episode.actions[2, 6]).all(), "and holds what it held"
