"""Scores to rewards, and what finishing is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.offline.reward_model.rescale import Terminal, end_success, scale_maps, to_unit_cost, transition_scores

SCORES = arrays(np.float32, st.integers(1, 20), elements=st.floats(-100, 100, width=32))
DISCOUNT = 0.9


def test_a_transition_has_the_score_of_what_it_leads_to() -> None:
    scores = np.array([1, 4, 2], np.float32)
    assert transition_scores(scores, "score").tolist() == [4, 2, 2]
    assert transition_scores(scores, "difference").tolist() == [3, -2, 0]


def test_the_scale_by_hand() -> None:
    scale = to_unit_cost(np.array([2, 4, 3], np.float32))
    assert (scale.factor, scale.offset) == (0.5, -2)
    assert scale(np.array([2, 4, 3], np.float32)).tolist() == [-1, 0, -0.5]


def test_one_odd_moment_does_not_take_the_scale_by_hand() -> None:
    scores = np.append(np.arange(1000, dtype=np.float32), np.float32(99_000))  # 1001 scores
    assert to_unit_cost(scores)(scores)[999] < -0.98  # the odd one has nearly all of it
    scale = to_unit_cost(scores, outliers=0.005)
    assert (scale.least, scale.greatest) == (5, 995)
    assert scale(np.array([0, 5, 500, 995, 99_000], np.float32)).tolist() == pytest.approx([-1, -1, -0.5, 0, 0])


def test_what_is_rare_in_a_reward_that_is_nearly_always_the_same_is_no_outlier() -> None:
    scores = np.zeros(1000, np.float32)
    scores[3] = 1
    assert to_unit_cost(scores, outliers=0.01)(scores).tolist() == [-1] * 3 + [0] + [-1] * 996


@given(SCORES)
def test_rewards_lie_between_minus_one_and_zero_and_keep_their_order(scores: np.ndarray) -> None:
    rewards = to_unit_cost(scores)(scores)
    assert rewards.min() >= -1 - 1e-5
    assert rewards.max() <= 1e-5
    order = np.argsort(scores, kind="stable")
    assert (np.diff(rewards[order]) >= -1e-6).all()


def test_tasks_may_have_scales_of_their_own() -> None:
    scores = [np.array([0, 1], np.float32), np.array([0, 10], np.float32)]
    assert scale_maps(scores, [5, 7], "dataset")[5] == scale_maps(scores, [5, 7], "dataset")[7]
    maps = scale_maps(scores, [5, 7], "task")
    assert maps[5](scores[0]).tolist() == maps[7](scores[1]).tolist() == [-1, 0]
    assert scale_maps(scores, [5, 7], "none")[7](scores[1]).tolist() == [0, 10]


def values_of_staying_and_finishing(stay: float, finish: np.ndarray) -> tuple[float, float]:
    """Two states: beside the goal a robot may stay for ever, or take the last step, after which nothing follows."""
    return stay / (1 - DISCOUNT), float(finish[-1])


def test_finishing_is_punished_where_rewards_are_above_zero_and_nothing_is_done() -> None:
    raw = np.array([0.8, 0.9], np.float32)  # staying, finishing
    staying, finishing = values_of_staying_and_finishing(0.8, end_success(raw[1:], "as_scored", DISCOUNT))
    assert finishing < staying  # the defect


@given(st.floats(-5, 5), st.floats(0.05, 5))
def test_finishing_is_worth_more_than_staying_where_it_is_scored_higher(stay: float, more: float) -> None:
    raw = np.array([stay, stay + more], np.float32)
    absorbed = end_success(raw[1:], "absorbing", DISCOUNT)
    staying, finishing = values_of_staying_and_finishing(float(raw[0]), absorbed)
    assert finishing > staying  # on any scale
    scaled = to_unit_cost(np.append(raw, np.float32(stay - 1)))
    terminals: tuple[Terminal, ...] = ("as_scored", "best", "absorbing")
    for terminal in terminals:
        staying, finishing = values_of_staying_and_finishing(
            float(scaled(raw[:1])[0]),
            end_success(scaled(raw[1:]), terminal, DISCOUNT),
        )
        assert finishing > staying


def test_best_finishes_well_where_the_model_errs_about_the_end() -> None:
    scores = to_unit_cost(np.array([0.0, 1.0, 0.5], np.float32))  # far, beside the goal, at the goal
    beside, goal = scores(np.array([1.0, 0.5], np.float32))
    staying, finishing = values_of_staying_and_finishing(beside, end_success(np.array([goal]), "best", DISCOUNT))
    assert finishing == staying == pytest.approx(0)
    staying, finishing = values_of_staying_and_finishing(beside, end_success(np.array([goal]), "as_scored", DISCOUNT))
    assert finishing < staying
