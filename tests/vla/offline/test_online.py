"""Offline to online: it resumes exactly, mixes logs and play as it says, keeps the logs' rewards, and improves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.pool import EnvironmentPool
from tests.vla.offline.corridor import corridor
from tests.vla.offline.gauge_suite import BLIND, NAME, GaugeSuite
from vla.data.lerobot_dataset import LeRobotDataset
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError
from vla.offline.algorithms.iql import IQL
from vla.offline.command import OfflineConfig, train_from_logs
from vla.offline.goals import GoalSettings
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.online.command import episodes_to, learn_online
from vla.offline.online.playing import training_requests, transitions_of
from vla.offline.online.replay import read_round, round_file, write_round
from vla.offline.online.rewards import OF_THE_SUITE, reward_of
from vla.offline.online.settings import OnlineConfig
from vla.offline.online.training import OnlineTrainer
from vla.offline.reward_model.relabel import RelabelConfig, relabel
from vla.offline.sources import joined, read_transitions
from vla.offline.training import OfflineSettings
from vla.policies.gaussian import GaussianPolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import as_it_is
from vla.rollout.collect import CollectConfig, collect
from vla.rollout.pool_rollouts import collect_rollouts
from vla.run.run_folder import RunFolder, comparable_metrics

SMALL: dict[str, Any] = {"device": "cpu", "precision": "float32", "compiled": False, "threads": 1}
OWN = "tests.vla.offline.test_online:Level"


class Level:
    """A reward model of one's own: how full the gauge is, at a scale of its own."""

    def score_episode(self, episode: Any) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = 10 * episode.states[:, 0] + 7
        return scores


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Thirty episodes of random actions, few of which succeed."""
    folder = tmp_path_factory.mktemp("random") / "logs"
    settings = CollectConfig(
        suite=NAME, policy="random", tasks=[0], episodes_per_task=30, num_workers=0, output=str(folder)
    )
    return str(collect(settings))


def learn_offline(logs: str, output: Path, **changes: Any) -> str:
    """A run of a few updates, after which the policy hardly ever succeeds."""
    given: dict[str, Any] = {
        "dataset": logs, "reward": "next.progress", "reward_scale": "values", "ends": "absorbing", "chunk_horizon": 2,
        "hidden": [32, 32], "batch_size": 64, "updates": 60, "log_every": 60, "tasks": [0], "seed": 3,
        "settings": {"iql": {"temperature": 50.0, "learning_rate": 3e-3}},
    }  # fmt: skip
    train_from_logs(OfflineConfig(output=str(output), **(given | SMALL | changes)))
    return str(output)


@pytest.fixture(scope="module")
def start(logs: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return learn_offline(logs, tmp_path_factory.mktemp("learnt") / "offline")


def config(start: str, output: Path, **changes: Any) -> OnlineConfig:
    """Of three rounds with ten rollouts each."""
    given: dict[str, Any] = {
        "suite": NAME, "episodes": 30, "episodes_per_round": 10, "updates_per_step": 0.5, "evaluate_every": 2,
        "evaluation_episodes_per_task": 4, "num_workers": 0, "success_window": 10,
    }  # fmt: skip
    return OnlineConfig(start=start, output=str(output), **(given | SMALL | changes))


def weights(run: Path) -> dict[str, NDArray[Any]]:
    policy: Any = load_policy(run)
    return {name: value.numpy() for name, value in policy.state_dict().items()}


def lines(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with RunFolder(run, resume=True) as folder:
        episodes = [{**line, "policy_id": ""} for line in folder.read_episodes()]
        return comparable_metrics(folder.read_metrics()), episodes


def test_a_policy_that_hardly_succeeds_learns_to(start: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = learn_online(config(start, run, episodes=90, target_success=1.0))
    assert summary["start_success_rate"] == 0 and summary["eval_success_rate"] == 1
    assert summary == json.loads((run / "summary.json").read_text())
    assert summary["episodes_to"]["0.5"] <= summary["episodes"] <= 90
    metrics, episodes = lines(run)
    assert {line["split"] for line in episodes} == {"train"} and {line["task_id"] for line in episodes} == {0}
    assert summary["control_steps"] == sum(line["steps"] for line in episodes)
    assert [line["step"] for line in metrics if "eval/success_rate" in line][-1] == summary["rounds"]
    policy = load_policy(run)
    assert (policy.policy_id, policy.spec.chunk_horizon) == ("run", 2)


@pytest.mark.parametrize("place", ["run", "_save"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Stopped when the second round was played and not learnt from, or learnt from and not saved."""
    learn_online(config(start, tmp_path / "whole"))
    from vla.offline.online import command

    kind: Any = OnlineTrainer if place == "run" else command.OnlineRun
    wrapped, calls = getattr(kind, place), []

    def stopping(self: Any, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == (2 if place == "run" else 3):  # the start is saved too
            raise KeyboardInterrupt
        return wrapped(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(kind, place, stopping)
        with pytest.raises(KeyboardInterrupt):
            learn_online(config(start, tmp_path / "stopped"))
    assert round_file(tmp_path / "stopped", 2).exists() and not (tmp_path / "stopped" / "summary.json").exists()
    learn_online(config(start, tmp_path / "stopped", resume=True))
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")
    for name, value in weights(tmp_path / "whole").items():
        np.testing.assert_array_equal(value, weights(tmp_path / "stopped")[name], err_msg=name)


def test_a_finished_run_takes_more_episodes(start: str, tmp_path: Path) -> None:
    learn_online(config(start, tmp_path / "whole", evaluate_every=0))
    learn_online(config(start, tmp_path / "more", evaluate_every=0, episodes=10))
    again = learn_online(config(start, tmp_path / "more", evaluate_every=0, resume=True))
    assert (again["rounds"], again["episodes"], again["start_success_rate"]) == (3, 30, None)
    assert lines(tmp_path / "whole") == lines(tmp_path / "more")
    with pytest.raises(ReflexError, match=r"started with other settings \(logged_share\)"):
        learn_online(config(start, tmp_path / "more", evaluate_every=0, logged_share=0.1, resume=True))
    round_file(tmp_path / "more", 2).unlink()
    with pytest.raises(ReflexError, match=r"00002\.safetensors cannot be read"):
        learn_online(config(start, tmp_path / "more", evaluate_every=0, resume=True, episodes=40))


def trainer(share: float = 0.5, **settings: Any) -> OnlineTrainer:
    """On the corridor's logs."""
    given: dict[str, Any] = {"batch_size": 64, "hidden": (8,), "compiled": False, "device": "cpu"}
    made = OfflineSettings(**({"algorithm": IQL()} | given | settings))
    return OnlineTrainer(corridor(20), made, 0, "policy", share)


@pytest.mark.parametrize(("share", "from_logs"), [(0.5, 32), (0.1, 6), (1.0, 64), (0.0, 0)])
def test_a_batch_has_the_share_of_logs_that_was_asked_for(share: float, from_logs: int) -> None:
    learner = trainer(share)
    assert (learner.rows(5) < learner.logged).all()  # nothing was played
    played = corridor(6, seed=1)
    learner.add(played)
    assert learner.played == len(played)
    drawn = [learner.rows(number).numpy() for number in range(400)]
    assert {int((rows < learner.logged).sum()) for rows in drawn} == {from_logs}
    seen = np.unique(np.concatenate(drawn))
    assert len(seen) == (learner.logged if from_logs else 0) + (learner.played if from_logs < 64 else 0)
    np.testing.assert_array_equal(drawn[7], learner.rows(7).numpy())


def test_logs_keep_their_weighting_and_play_has_none() -> None:
    learner = trainer(weighting="success")
    learner.add(corridor(6, seed=1))
    successes = corridor(20).successes
    rows = np.concatenate([learner.rows(number).numpy() for number in range(50)])
    assert successes[rows[rows < learner.logged]].all()
    assert len(np.unique(rows[rows >= learner.logged])) == learner.played


def test_rewards_and_ends_of_play_are_at_the_scale_of_the_logs() -> None:
    logs = corridor(20)
    half = logs.with_rewards(logs.frames / 22.0)  # from 0 to a half, the last step of a cut walk
    settings = OfflineSettings(
        IQL(discount=0.9), batch_size=4, hidden=(8,), compiled=False, device="cpu", reward_scale="values",
        ends="absorbing",
    )  # fmt: skip
    learner = OnlineTrainer(half, settings, 0, "policy", 0.0)
    first = np.flatnonzero(logs.episodes == logs.episodes[0])
    learner.add(logs.take(first).with_rewards(np.full(len(first), 1.0)))
    batches = [learner.batch(number) for number in range(100)]
    earned = {(round(float(one.rewards[0]), 5), round(float(one.discounts[0]), 5)) for one in batches}
    # (1 - 0.5) / 0.5 * (1 - 0.9) a step, and that for ever at the end; a scale of its own would make both 0.
    assert earned == {(0.1, 0.9), (1.0, 0.0)}


def test_learning_rates_do_not_fall() -> None:
    learner = trainer(updates=100)
    assert [float(learner.batch(number).progress) for number in (0, 99, 5000)] == [0, 0, 0]
    assert float(learner.batch(99).step) == 100


@pytest.mark.parametrize("column", ["next.reward", "next.progress"])
def test_a_rollout_becomes_what_a_recording_of_it_is_read_as(tmp_path: Path, column: str) -> None:
    suite, policy = GaugeSuite(None), GaussianPolicy(BLIND, (8,), chunk_horizon=3)
    requests = training_requests(suite, [0, 1], first=4, count=6, seed=2)
    with EnvironmentPool(NAME, 4, 0) as pool:
        episodes = collect_rollouts(policy, pool, suite, requests, sampling=as_it_is(1.0), frame_stride=1)
    writer = LeRobotWriter(tmp_path / "recorded", suite.name, suite.embodiment)
    for episode in episodes:
        writer.add_episode(episode)
    read = read_transitions(str(writer.finalize()), column)
    reward = reward_of("nowhere", column, BLIND)
    played = joined([transitions_of(episode, reward, at) for at, episode in enumerate(episodes)], BLIND)
    write_round(tmp_path, 1, played)
    for one in (played, read_round(tmp_path, 1, BLIND)):
        for name, value in vars(read).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(one, name), err_msg=name)


def test_rollouts_depend_on_their_number_only() -> None:
    suite = GaugeSuite(None)
    whole = training_requests(suite, [0, 1], 0, 12, seed=1)
    assert whole[5:9] == training_requests(suite, [0, 1], 5, 4, seed=1)
    assert [item.request.task_id for item in whole[:4]] == [0, 1, 0, 1]
    assert {item.request.split for item in whole} == {"train"}
    assert len({item.request.init_state_id for item in whole}) > 2 and len({item.seed for item in whole}) == 12
    assert whole != training_requests(suite, [0, 1], 0, 12, seed=2)


@pytest.mark.parametrize(
    "changes", [{}, {"form": "difference", "scale": "task"}, {"terminal": "absorbing"}, {"terminal": "best"}]
)
def test_a_model_s_reward_is_the_one_that_the_logs_were_relabelled_with(
    logs: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    copy = str(shutil.copytree(logs, tmp_path / "logs"))
    relabel(RelabelConfig(copy, OWN, "level", device="cpu", threads=1, **changes))
    dataset = LeRobotDataset(copy, numbers=("next.reward.level",))
    reward = reward_of(copy, "next.reward.level", BLIND)
    assert any(dataset.episode(number).success for number in range(30))
    for number in range(30):
        found = reward(dataset.episode(number))
        np.testing.assert_allclose(found, dataset.numbers(number)["next.reward.level"], atol=1e-6)
    with pytest.raises(ReflexError, match="no rewards of task 1"):
        reward(replace(dataset.episode(0), task_id=1))
    with pytest.raises(ReflexError, match=r"next\.reward\.other, and nothing says how"):
        reward_of(copy, "next.reward.other", BLIND)
    with pytest.raises(ReflexError, match="reward_model=runs/reward has no use"):
        reward_of(copy, next(iter(OF_THE_SUITE)), BLIND, "runs/reward")


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 8), st.sampled_from([0.1, 0.5, 0.8, 0.9, 1.0]))
def test_rollouts_to_a_level_by_their_definition(successes: list[bool], window: int, level: float) -> None:
    reached = [
        count for count in range(window, len(successes) + 1) if sum(successes[count - window : count]) >= level * window
    ]
    assert episodes_to(successes, level, window) == (reached[0] if reached else None)


def test_what_cannot_go_on_is_refused(logs: str, start: str, tmp_path: Path) -> None:
    def refused(message: str, start: str = start, **changes: Any) -> None:
        with pytest.raises(ReflexError, match=message):
            learn_online(config(start, tmp_path / "refused", **changes))
        assert not (tmp_path / "refused").exists()

    refused("is no run folder of vla offline", start=str(tmp_path))
    refused("suite gauge has no task 7", tasks=[7])
    refused(r"settings\.iql\.expectil does not exist", settings={"iql": {"expectil": 0.5}})
    refused("the policy and the suite do not fit", suite="so101")
    refused("algo=bc, which has no critics", start=learn_offline(logs, tmp_path / "bc", algo="bc", settings={}))
    stitched = learn_offline(logs, tmp_path / "goals", reward="next.reward", reward_scale="none", ends="success",
                             goals=GoalSettings(method="stitched"), updates=1)  # fmt: skip
    refused("goals.method=stitched; what goes on online is learnt from states and rewards", start=stitched)
    few = ImagineSettings(share=0.5, updates=2, rollouts=4, hidden=[4])
    imagined = learn_offline(logs, tmp_path / "imagined", reward="next.reward", reward_scale="none", ends="success",
                             imagine=few, updates=1)  # fmt: skip
    refused("was learnt from imagined rollouts", start=imagined)
    long = learn_offline(logs, tmp_path / "long", chunk_horizon=11, updates=1)
    refused("chunks of 11 actions", start=long, suite="tests.vla.offline.test_online:ShortSuite")
    fewer = collect(CollectConfig(suite=NAME, policy="random", episodes_per_task=3, num_workers=0,
                                  tasks=[0], output=str(tmp_path / "fewer")))  # fmt: skip
    refused("are not those that start=.* was learnt from", logs=str(fewer))
    shutil.rmtree(Path(long) / "checkpoints" / "1")
    refused("has no whole checkpoint", start=long)


class ShortSuite(GaugeSuite):
    def horizon(self, task_id: int) -> int:
        return 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logged_share": 1.5}, "logged_share is 1.5; it must lie in"),
        ({"updates_per_step": 0.0}, "updates_per_step is 0.0; it must be a positive number"),
        ({"exploration_noise": 0.0}, "exploration_noise is 0.0; it must be a positive number"),
        ({"success_levels": [0.5, 2.0]}, "success_levels is"),
        ({"target_success": 0.5, "evaluate_every": 0}, "target_success needs evaluations"),
        ({"episodes_per_round": 0}, "episodes_per_round is 0"),
    ],
)
def test_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=message):
        config("nowhere", tmp_path / "run", **changes)
