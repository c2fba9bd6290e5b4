"""Broken episodes are found, each for its own reason, and whole ones are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.embodiments import Action
from tests.vla.data.samples import make_episode
from vla.offline.data_report.broken import FROZEN_STEPS, frozen_pictures, longest_run, out_of_range, problems, too_short


def test_a_whole_episode_has_no_problem() -> None:
    assert list(problems(make_episode(0, length=20), usual_length=20.0)) == []


def test_what_is_not_finite_is_named_with_its_first_step() -> None:
    episode = make_episode(0, length=20)
    states, rewards = episode.states.copy(), episode.rewards.copy()
    states[[3, 7], 2] = np.nan
    rewards[19] = np.inf
    found = list(problems(replace(episode, states=states, rewards=rewards), 20.0))
    assert found == [
        "state is not finite in 2 of 20 steps, first in step 3",
        "reward is not finite in 1 of 20 steps, first in step 19",
    ]


def test_an_instruction_without_words_is_missing() -> None:
    for text in ("", "  ", "3"):
        (found,) = problems(replace(make_episode(0, length=20), instruction=text), 20.0)
        assert found == f"no task sentence: {text!r}"


@pytest.mark.parametrize(
    ("length", "usual", "short"), [(1, 1.0, True), (2, 3.0, False), (9, 100.0, True), (10, 100.0, False)]
)
def test_an_episode_is_too_short_by_the_usual_length(length: int, usual: float, short: bool) -> None:
    assert too_short(length, usual) == short


def test_commands_beyond_their_limits_are_named() -> None:
    commands = Action(("x", "y", "grip"), "joint_position", low=(-1, -1, 0), high=(1, 1, 10))
    actions = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, -3.0], [0.0, -1.019, 10.05]])
    assert list(out_of_range(actions, commands)) == ["action out of range in 1 of 3 steps (x, grip)"]
    assert list(out_of_range(actions[2:], commands)) == [], "within the tolerance of 1 % of the range"
    assert list(out_of_range(actions, Action(("x", "y", "grip"), "unknown"))) == []


def scene(steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A bright pixel and a state that both move, of which the spread is 1."""
    frames = np.zeros((steps, 8, 8, 3), np.uint8)
    frames[np.arange(steps), np.arange(steps) % 8, 0] = 255
    return {"front": frames}, np.arange(steps, dtype=np.float32)[:, None] * 0.1


def test_a_picture_is_frozen_where_it_stands_still_while_the_robot_moves() -> None:
    images, states = scene(30)
    assert list(frozen_pictures(images, states, np.ones(1))) == []
    frozen = {"front": images["front"].copy(), "wrist": images["front"]}
    frozen["front"][12:25] = frozen["front"][12]
    frozen["front"][15, :, 4:] += 3  # noise of a codec
    (found,) = frozen_pictures(frozen, states, np.ones(1))
    assert found == "camera front shows the same picture for 12 steps from step 12 while the robot moves"
    resting = states.copy()
    resting[12:] = resting[12]
    assert list(frozen_pictures(frozen, resting, np.ones(1))) == [], "a robot at rest sees a picture at rest"
    assert list(frozen_pictures(frozen, states, np.full(1, 100.0))) == [], "and so does one that hardly moves"
    short = {"front": images["front"].copy()}
    short["front"][5 : 5 + FROZEN_STEPS] = short["front"][5]
    assert list(frozen_pictures(short, states, np.ones(1))) == [], "one step too few"
    assert len(list(frozen_pictures(frozen, np.zeros((30, 0)), np.zeros(0)))) == 1, "without a state"


@given(st.lists(st.booleans(), max_size=30))
def test_the_longest_run_is_the_longest(flags: list[bool]) -> None:
    start, length = longest_run(np.array(flags, dtype=np.bool_))
    words = "".join("x" if flag else " " for flag in flags).split()
    assert length == max(map(len, words), default=0)
    assert all(flags[start : start + length])
