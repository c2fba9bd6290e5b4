"""Goals in hindsight: which rows, which rewards, what is stitched, and that policies reach what they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.contract import ObservationBatch
from tests.vla.data.samples import make_episode, write_dataset
from tests.vla.offline.corridor import ROBOT, SPEED
from tests.vla.offline.test_command import config
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.algorithms.iql import IQL
from vla.offline.command import train_from_logs
from vla.offline.goals import (
    GoalSettings,
    find_clusters,
    future_rows,
    last_rows,
    stitched_rows,
    success_ends,
    with_goals,
)
from vla.offline.training import OfflineSettings, train_offline
from vla.offline.transitions import Transitions, chunk_transitions
from vla.policies.gaussian import GaussianPolicy
from vla.policies.registry import load_policy

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def walks(*places: list[float], success: bool = True) -> Transitions:
    """Episodes through these places; after the last action nothing is known, as in a recorded data set."""
    count = [len(walk) if success else len(walk) - 1 for walk in places]
    observed = np.concatenate([walk[:kept] for walk, kept in zip(places, count, strict=True)])
    following = np.concatenate([[*walk[1:], walk[-1]][:kept] for walk, kept in zip(places, count, strict=True)])
    episodes = np.repeat(np.arange(len(places)), count)
    return Transitions(
        observations=observed.astype(np.float32)[:, None],
        actions=((following - observed) / SPEED).astype(np.float32)[:, None],
        rewards=np.zeros(len(observed), np.float32),
        next_observations=following.astype(np.float32)[:, None],
        terminals=np.append(np.diff(episodes) != 0, True) & success,
        episodes=episodes,
        frames=np.concatenate([np.arange(kept) for kept in count]),
        successes=np.full(len(observed), success),
        embodiment=ROBOT,
        spans=np.ones(len(observed), np.int64),
    )


@given(LENGTHS, st.integers(1, 30), st.integers(0, 99))
def test_a_goal_is_never_before_its_state_and_never_beyond_its_episode(
    lengths: list[int], steps: int, seed: int
) -> None:
    episodes = np.repeat(np.arange(len(lengths)) * 3, lengths)  # their numbers have gaps
    last = last_rows(episodes)
    found = future_rows(last, steps, np.random.default_rng(seed))
    assert (found >= np.arange(len(episodes))).all() and (found <= last).all()
    assert (episodes[found] == episodes).all()
    assert (last[:-1][np.diff(episodes) != 0] == np.flatnonzero(np.diff(episodes))).all()


@given(LENGTHS, st.integers(1, 4), st.integers(0, 99))
def test_a_stitched_goal_comes_after_a_row_of_the_same_cluster(lengths: list[int], count: int, seed: int) -> None:
    episodes, generator = np.repeat(np.arange(len(lengths)), lengths), np.random.default_rng(seed)
    clusters, goals = generator.integers(0, count, len(episodes)), generator.permutation(len(episodes))
    found = stitched_rows(goals, clusters, last_rows(episodes), generator)
    for goal, row in zip(goals, found, strict=True):
        before = (episodes == episodes[row]) & (np.arange(len(episodes)) <= row)
        assert clusters[goal] in clusters[before]


def test_the_distance_of_goals_is_geometric_and_ends_with_the_episode() -> None:
    last = np.full(20_000, 19_999)
    ahead = future_rows(last, 5.0, np.random.default_rng(0))[:10_000] - np.arange(10_000) + 1
    assert ahead.mean() == pytest.approx(5.0, rel=0.05) and (ahead == 1).mean() == pytest.approx(0.2, abs=0.02)
    assert future_rows(last_rows(np.array([4, 4, 4])), 1e9, np.random.default_rng(0)).tolist() == [2, 2, 2]


def test_each_step_costs_one_until_the_goal_is_next() -> None:
    """One success through 0, 1 and 2: row 0 may have the goal 1 (next: reward 0) or 2 (the last recorded)."""
    data = with_goals(walks([0, 1, 2]), GoalSettings(method="hindsight", each=50, others=0.0), 0.9, {}, seed=0)
    seen = {tuple(row) for row in np.column_stack([data.observations, data.next_observations[:, 0], data.rewards])}
    # (place, goal, next place, reward); after the last action nothing is recorded, so it has its own end as the goal
    assert seen == {(0, 1, 1, 0), (0, 2, 1, -1), (1, 2, 2, 0), (2, 2, 2, 0)}
    np.testing.assert_array_equal(data.terminals, data.rewards == 0)
    np.testing.assert_array_equal(data.next_observations[:, 1], data.observations[:, 1])
    assert len(data) == 150 and data.actions[:3].tolist() == data.actions[147:].tolist()


def test_goals_of_any_episode_are_drawn_but_not_after_an_action_whose_outcome_is_unknown() -> None:
    data = with_goals(walks([0, 1], [8, 9]), GoalSettings(method="hindsight", each=200, others=0.5), 0.9, {}, seed=0)
    seen = {(start, goal) for start, goal in data.observations.tolist()}
    # Next observations are 1, 1, 9 and 9: rows 0 and 2 may have both, the ends only their own.
    assert seen == {(0, 1), (0, 9), (8, 1), (8, 9), (1, 1), (9, 9)}
    share = (data.observations[:, 1] == 9)[data.observations[:, 0] == 0].mean()
    assert share == pytest.approx(0.25, abs=0.08)  # half are of any episode, and half of those of the other


def test_a_chunk_that_ends_at_its_goal_has_cost_one_step_less() -> None:
    chunks = chunk_transitions(walks([0, 1, 2, 3]), 2, 0.5)
    assert chunks.spans.tolist() == [2, 2, 2, 1] and chunks.next_observations[:, 0].tolist() == [2, 3, 3, 3]
    data = with_goals(chunks, GoalSettings(method="hindsight", each=50, steps=3, others=0.0), 0.5, {}, seed=0)
    seen = {tuple(row) for row in np.column_stack([data.observations, data.rewards])}
    assert seen == {(0, 2, -1), (0, 3, -1.5), (1, 3, -1), (2, 3, -1), (3, 3, 0)}
    undiscounted = with_goals(chunks, GoalSettings(method="hindsight", others=0.0), 1.0, {}, seed=0)
    assert set(undiscounted.rewards.tolist()) <= {-2.0, -1.0, 0.0}


def test_stitching_leads_on_where_another_episode_passes() -> None:
    """No episode goes from 0 to 4: one goes from 0 to 2, another passes 2 and goes on to 4."""
    data = walks([0, 1, 2], [3, 2, 3, 4])
    for method, expected in (("hindsight", {1, 2}), ("stitched", {1, 2, 3, 4})):
        settings = GoalSettings(method=method, each=200, others=0.0, clusters=4)  # type: ignore[arg-type]
        found = with_goals(data, settings, 0.9, {}, seed=1)
        assert set(found.observations[found.observations[:, 0] == 0, 1].tolist()) == expected


def test_clusters_hold_what_is_near_at_the_scale_of_the_data() -> None:
    """The third number varies most, and tells nothing apart; the last one never changes."""
    generator = np.random.default_rng(0)
    sides = np.repeat([0.0, 1.0], 50) + generator.normal(0, 0.01, 100)
    points = np.column_stack([sides, 2 * sides, generator.normal(0, 1000, 100), np.ones(100)])
    clusters = find_clusters(points.astype(np.float32), 2, generator)
    assert len(set(clusters[:50].tolist())) == len(set(clusters[50:].tolist())) == 1 and clusters[0] != clusters[-1]
    assert set(find_clusters(np.ones((3, 2), np.float32), 40, generator).tolist()) == {0}


def test_the_goal_to_act_for_is_the_usual_end_of_a_success() -> None:
    data = walks([0, 5.0], [0, 5.2], [0, 9], [0, -3])
    ends = success_ends(data, {0: "up", 1: "up", 2: "up", 3: "down"})
    assert {name: end.tolist() for name, end in ends.items()} == {"up": [pytest.approx(5.2)], "down": [-3.0]}
    with pytest.raises(ReflexError, match="no episode succeeded: the goal that a policy is given"):
        success_ends(walks([0, 5], success=False), {0: "up"})


def test_a_policy_goes_where_it_is_told() -> None:
    """Random walks without reward or purpose; goals on both sides of where they begin."""
    generator = np.random.default_rng(0)
    places = [np.cumsum([0, *(SPEED * generator.uniform(-1, 1, 15) + generator.uniform(-0.1, 0.1))]) for _ in range(80)]
    data = walks(*(walk.tolist() for walk in places), success=False)
    ends = {"left": np.array([-0.6], np.float32), "right": np.array([0.6], np.float32)}
    found = with_goals(data, GoalSettings(method="hindsight", steps=8), 0.95, ends, seed=0)
    algorithm = IQL(discount=0.95, temperature=10.0, learning_rate=3e-3)
    settings = OfflineSettings(
        algorithm, updates=400, hidden=(32, 32), reward_scale="values", device="cpu", compiled=False
    )
    policy = train_offline(found, settings, seed=0)
    for instruction, wanted in ends.items():
        place, nearest = 0.0, 9.0
        for _ in range(12):
            seen = ObservationBatch(images={}, state=np.array([[place]], np.float32), instruction=[instruction])
            place += SPEED * float(policy.act(seen).actions[0, 0, 0])
            nearest = min(nearest, abs(place - float(wanted[0])))
        assert nearest < 0.1, instruction


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six episodes of two tasks, every third of which failed."""
    episodes = [make_episode(seed, length=6, task_id=seed % 2, success=seed % 3 != 0) for seed in range(6)]
    return str(write_dataset(tmp_path_factory.mktemp("written") / "demos", episodes))


@pytest.mark.parametrize("encoder", [None, "pixels"])
def test_a_run_keeps_its_goals_in_the_policy(dataset: str, tmp_path: Path, encoder: str | None) -> None:
    wanted = {"goals": GoalSettings(method="stitched", each=2, clusters=4), "encoder": encoder, "chunk_horizon": 2}
    summary = train_from_logs(config(dataset, tmp_path / "run", suite="tabletop", controls=["bc"], **wanted),
                              on_evaluate=lambda policy: {"eval/success_rate": 0.5})  # fmt: skip
    assert summary["episodes"] == 6 and summary["controls"] == {"bc": 0.5}
    assert not (tmp_path / "run" / "advantages.parquet").exists()  # an action has one for every goal
    policy = load_policy(tmp_path / "run")
    assert isinstance(policy, GaussianPolicy) and policy.instructions == ("fill gauge 0", "fill gauge 1")
    opened = LeRobotDataset(dataset)
    ends = {opened.episode(index).states[-1].tobytes() for index in range(6) if opened.episode(index).success}
    assert all(goal[:8].numpy().tobytes() in ends for goal in policy.goals)
    episode = opened.episode(1)

    def told(instruction: str) -> ObservationBatch:
        pictures = {"image": episode.images["image"][:1]}
        return ObservationBatch(images=pictures, state=episode.states[:1], instruction=[instruction])

    chosen = [policy.act(told(f"fill gauge {task}")).actions for task in (0, 1)]
    assert (chosen[0] != chosen[1]).any()
    with pytest.raises(ReflexError, match="has a goal for 'fill gauge 0', 'fill gauge 1', and is asked for 'dance'"):
        policy.act(told("dance"))


def test_no_reward_is_needed(dataset: str, tmp_path: Path) -> None:
    """A data set of somebody else's: no rewards, no successes, which makes every episode a demonstration."""
    opened = LeRobotDataset(dataset)
    plain = [replace(opened.episode(index), success=True) for index in range(3)]
    folder = write_dataset(tmp_path / "plain", plain)
    info = json.loads((folder / "meta/info.json").read_text())
    del info["features"]["next.reward"]
    (folder / "meta/info.json").write_text(json.dumps(info))
    summary = train_from_logs(config(str(folder), tmp_path / "run", goals=GoalSettings(method="hindsight")))
    assert summary["successful_episodes"] == 3 and summary["transitions"] == 4 * 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "next.progress"}, "reward=next.progress goes by a dataset's rewards.*set reward to next.reward"),
        ({"reward_scale": "returns"}, "set reward_scale to none or nonpositive or values"),
        ({"ends": "absorbing"}, "ends=absorbing goes by"),
        ({"episode_weighting": "best"}, "set episode_weighting to uniform or success"),
        (
            {"controls": ["zero"], "suite": "tabletop"},
            "controls has 'zero', which is of rewards",
        ),
        ({"dataset": "set.hdf5"}, r"set\.hdf5 is in Minari's format, which names no tasks"),
    ],
)
def test_what_goes_by_rewards_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"dataset": "nowhere", "goals": GoalSettings(method="hindsight"), **changes}
    with pytest.raises(ReflexError, match=message):
        config(output=tmp_path / "run", **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "her"}, r"goals\.method is 'her'; it must be one of none, hindsight, stitched"),
        ({"steps": 0.5}, r"goals\.steps is 0\.5; it must be at least 1: a goal is after its state"),
        ({"others": 1.5}, r"goals\.others is 1\.5; it must lie in \[0, 1\]"),
    ],
)
def test_settings_of_goals_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        GoalSettings(**changes)
