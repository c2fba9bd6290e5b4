"""Transitions: what is checked, the scales of rewards, and chunks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vla.offline.corridor import ROBOT, corridor
from vla.errors import ReflexError
from vla.offline.transitions import Transitions, absorbing_ends, chunk_transitions, scale_rewards


def episodes(lengths: list[int], successes: list[bool], rewards: list[float] | None = None) -> Transitions:
    """Step t of an episode has the observation t, the action t / 10 and reward t + 1, or those given."""
    steps = np.concatenate([np.arange(length) for length in lengths]).astype(np.float32)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.append(numbers[1:] != numbers[:-1], True)
    success = np.array(successes)[numbers]
    return Transitions(
        observations=steps[:, None],
        actions=steps[:, None] / 10,
        rewards=steps + 1 if rewards is None else np.array(rewards, np.float32),
        next_observations=steps[:, None] + 1,
        terminals=ends & success,
        episodes=numbers,
        frames=steps.astype(np.int64),
        successes=success,
        embodiment=ROBOT,
        spans=np.ones(len(steps), np.int64),
    )


def test_returns_are_of_whole_episodes() -> None:
    data = episodes([2, 3], [True, False])
    assert data.episode_returns().tolist() == [3, 3, 6, 6, 6]
    assert data.episode_starts().tolist() == [0, 2]
    assert data.take(np.array([4, 0])).observations[:, 0].tolist() == [2, 0]


def test_what_is_not_finite_is_named() -> None:
    data = episodes([2, 3], [True, False])
    observations = data.observations.copy()
    observations[3] = np.nan
    with pytest.raises(ReflexError, match=r"observations of transition 3 \(episode 1\) hold NaN"):
        replace(data, observations=observations)


def test_lengths_and_sizes_are_checked() -> None:
    data = episodes([2], [True])
    with pytest.raises(ReflexError, match="1 rewards for 2 observations"):
        data.with_rewards(np.zeros(1))
    with pytest.raises(ReflexError, match="no transition to learn from"):
        data.take(np.zeros(2, bool))
    with pytest.raises(ReflexError, match="for a robot that has"):
        replace(data, actions=np.zeros((2, 3), np.float32))


def test_scales_of_rewards_by_hand() -> None:
    data = episodes([2, 3], [True, False])
    assert scale_rewards(data, "none", 0.99) is not None
    assert scale_rewards(data, "returns", 0.99).rewards.tolist() == pytest.approx(
        [1000 / 3, 2000 / 3, 1000 / 3, 2000 / 3, 1000]
    )
    assert scale_rewards(data, "nonpositive", 0.99).rewards.tolist() == pytest.approx([-1, -0.5, -1, -0.5, 0])
    assert scale_rewards(data, "values", 0.75).rewards.tolist() == pytest.approx([-0.25, -0.125, -0.25, -0.125, 0])


def test_where_nobody_knows_successes_every_end_goes_on_for_ever() -> None:
    data = absorbing_ends(episodes([2, 3], [True, False], [-1, -0.5, -1, -1, -0.2]), discount=0.9)
    assert data.terminals.tolist() == [False, True, False, False, True]
    assert data.rewards.tolist() == pytest.approx([-1, -5, -1, -1, -2])
    with pytest.raises(ReflexError, match="a discount of 1 makes infinite"):
        absorbing_ends(data, discount=1.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-10, 10, width=32), min_size=5, max_size=5), st.floats(0, 0.99))
def test_values_lie_between_minus_one_and_nothing(rewards: list[float], discount: float) -> None:
    data = absorbing_ends(scale_rewards(episodes([2, 3], [True, False], rewards), "values", discount), discount)
    first, second = data.rewards[:2], data.rewards[2:]
    for episode in (first, second):
        value = sum(reward * discount**step for step, reward in enumerate(episode.tolist()))
        assert -1 - 1e-4 <= value <= 1e-4


def test_returns_that_are_all_the_same_cannot_be_divided_by() -> None:
    data = episodes([2, 2], [True, False])
    with pytest.raises(ReflexError, match="all are 3"):
        scale_rewards(data, "returns", 0.99)
    constant = data.with_rewards(np.full(4, 2.0))
    assert scale_rewards(constant, "nonpositive", 0.99).rewards.tolist() == [0, 0, 0, 0]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4))
def test_with_rewards_up_to_nothing_finishing_is_never_worse_than_going_on(rewards: list[float]) -> None:
    data = scale_rewards(episodes([2, 2], [True, False], rewards), "nonpositive", 0.99)
    # After a terminal 0 is earned; going on earns a discounted sum of rewards.
    assert data.rewards.max() <= 0


def test_chunks_by_hand() -> None:
    data = chunk_transitions(episodes([4, 3], [True, False]), horizon=2, discount=0.5)
    # Of the success every step, since it ends in a terminal; of the truncation the last chunk is unknown.
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert data.actions == pytest.approx(np.array([[0, 1], [1, 2], [2, 3], [3, 3], [0, 1], [1, 2]]) / 10)
    assert data.rewards.tolist() == [1 + 1, 2 + 1.5, 3 + 2, 4, 1 + 1, 2 + 1.5]
    assert data.next_observations[:, 0].tolist() == [2, 3, 4, 4, 2, 3]
    assert data.terminals.tolist() == [False, False, True, True, False, False]
    assert data.spans.tolist() == [2, 2, 2, 1, 2, 2]
    assert data.frames.tolist() == [0, 1, 2, 3, 0, 1]
    assert data.chunk_horizon == 2
    with pytest.raises(ReflexError, match="chunks of 2 actions already"):
        chunk_transitions(data, 3, 0.5)
    assert chunk_transitions(data, 2, 0.5) is data


def test_no_episode_as_long_as_a_chunk() -> None:
    with pytest.raises(ReflexError, match="no episode has 9 steps"):
        chunk_transitions(episodes([4], [False]), 9, 0.99)


def test_the_corridor_is_what_it_says() -> None:
    data = corridor()
    assert data.terminals.sum() == data.successes[data.episode_starts()].sum() > 10
    assert np.array_equal(data.terminals, data.next_observations[:, 0] >= 1.0)
