"""Choosing initial states and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.rl.sampling import choose_groups, last_success_rates, state_weight, stream_generator
from vla.rl.variants.webrl_gate import gated_tasks


def choose(count=12, **changes):
    arguments = {"seed": 0, "iteration": 0} | changes
    return choose_groups({0: 50, 3: 50, 5: 50}, count, 8, **arguments)


def test_tasks_are_balanced_and_no_state_is_chosen_twice():
    groups = choose(count=48)
    assert [sum(group.task_id == task for group in groups) for task in (0, 3, 5)] == [16, 16, 16]
    assert len({group.start for group in groups}) == 48


def test_every_rollout_has_its_own_seed():
    seeds = [seed for group in choose(48) for seed in group.seeds]
    assert len(set(seeds)) == 48 * 8 and all(0 <= seed < 2**63 for seed in seeds)


def test_seed_iteration_and_round_determine_the_choice():
    assert choose() == choose()
    variants = [choose(), choose(seed=1), choose(iteration=1), choose(sampling_round=1)]
    assert all(left != right for index, left in enumerate(variants) for right in variants[:index])


def test_excluded_states_are_left_out_and_exhaustion_ends_it():
    taken = {(0, state, 0) for state in range(50)} | {(3, state, 0) for state in range(49)}
    groups = choose_groups({0: 50, 3: 50}, 5, 2, seed=0, iteration=0, exclude=taken)
    assert [group.start for group in groups] == [(3, 49, 0)]


def test_states_with_both_outcomes_are_wanted_most():
    # 4 p (1 - p) with p = (k + 1) / (n + 2), n = 8: k = 4 gives 1/2, k = 2 gives 3/10, k = 1 gives 2/10, none 1/10.
    weights = [state_weight(rate, 8) for rate in (None, 0.5, 0.25, 0.75, 0.125, 0.875, 0.0, 1.0)]
    assert weights == pytest.approx([1.0, 1.0, 0.84, 0.84, 0.64, 0.64, 0.36, 0.1])


@given(st.integers(2, 64))
def test_one_success_outweighs_none_and_both_outweigh_a_mastered_state(group_size: int):
    none, one, all_of_them = (state_weight(successes / group_size, group_size) for successes in (0, 1, group_size))
    assert one > none and none > 0 and all_of_them == 0.1


def test_uncertain_states_are_drawn_more_often_and_never_twice():
    rates = {(0, state, 0): 0.5 for state in range(50)} | {(3, state, 0): 1.0 for state in range(50)}
    counts = np.zeros(2)
    for iteration in range(30):
        groups = choose_groups(
            {0: 50, 3: 50}, 10, 2, seed=0, iteration=iteration, initial_states="uncertain", success_rates=rates
        )
        assert len({group.start for group in groups}) == 10
        counts += [sum(group.task_id == task for group in groups) for task in (0, 3)]
    # ten to one in weight; the solved task is still looked at
    assert 0.02 < counts[1] / counts.sum() < 0.2
    everything = choose_groups({0: 5}, 50, 2, seed=0, iteration=0, initial_states="uncertain", success_rates=rates)
    assert sorted(group.start for group in everything) == [(0, state, 0) for state in range(5)]
    taken = {(0, state, 0) for state in range(5)}
    assert (
        choose_groups({0: 5}, 5, 2, seed=0, iteration=0, initial_states="uncertain", success_rates=rates, exclude=taken)
        == []
    )


def test_the_newest_group_of_a_training_state_counts():
    def line(step, state, success, split="train"):
        return {"split": split, "task_id": 4, "init_state_id": state, "step": step, "success": success}

    lines = [line(1, 7, True), line(1, 7, True), line(2, 7, True), line(2, 7, False), line(2, 8, False)]
    lines += [line(2, 8, True, "eval"), line(2, 9, True, "eval")]
    assert last_success_rates(lines) == {(4, 7, 0): 0.5, (4, 8, 0): 0.0}


def test_streams_differ():
    draws = [stream_generator(name, 0, 0).random() for name in ("groups", "rollouts", "samples", "encoder")]
    assert len(set(draws)) == 4


def test_the_gate_keeps_tasks_that_are_neither_hopeless_nor_mastered():
    rates = {(0, 1, 0): 1.0, (0, 2, 0): 0.6, (1, 0, 0): 0.0, (1, 4, 0): 0.25, (2, 0, 0): 0.0, (3, 0, 0): 0.75}
    # Means: 0.8 (mastered), 0.125, 0 (hopeless), 0.75 (just within); 4 was never tried.
    assert gated_tasks([0, 1, 2, 3, 4], rates) == [1, 3, 4]
    assert gated_tasks([0, 2], rates) == [0, 2], "all, where none is within"
    groups = choose_groups({0: 50, 1: 50}, 8, 2, seed=0, iteration=3, eligible=gated_tasks, success_rates=rates)
    assert {group.task_id for group in groups} == {1} and len({group.start for group in groups}) == 8
