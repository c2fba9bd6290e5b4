"""Choosing initial states and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.rl.sampling import (
    GroupRequest,
    choose_groups,
    last_success_rates,
    rollout_seeds,
    state_weight,
    stream_generator,
)
from vla.rl.variants.webrl_gate import gated_tasks
from vla.run.seeding import derive_seed


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


@pytest.mark.parametrize("initial_states", ["even", "uncertain"])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 149, 150, 151])
def test_as_many_groups_as_were_asked_for_and_no_more(count, initial_states):
    assert len(choose(count=count, initial_states=initial_states)) == min(count, 150)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 5), st.integers(1, 6), min_size=1),
    st.integers(1, 20),
    st.sampled_from(["even", "uncertain"]),
    st.integers(0, 2**31),
    st.data(),
)
def test_no_start_is_chosen_twice_and_none_that_was_excluded(init_states, count, initial_states, seed, data):
    starts = [(task, state, 0) for task, total in init_states.items() for state in range(total)]
    taken = set(data.draw(st.lists(st.sampled_from(starts), unique=True)))
    rates = data.draw(st.dictionaries(st.sampled_from(starts), st.sampled_from([0.0, 0.5, 1.0])))
    groups = choose_groups(
        init_states, count, 3, seed=seed, iteration=1, exclude=taken, initial_states=initial_states,
        success_rates=rates,
    )  # fmt: skip
    found = [group.start for group in groups]
    assert len(set(found)) == len(found) == min(count, len(starts) - len(taken))
    assert set(found) <= set(starts) - taken
    assert all(len(group.seeds) == 3 for group in groups)
    assert len({seed for group in groups for seed in group.seeds}) == 3 * len(groups)


def test_weights_are_looked_up_by_start_and_decide_how_often_one_is_drawn():
    """Half the rollouts of one state succeeded, the others always do: weights 1 and 0.1."""
    rates = {(0, state, 0): 1.0 for state in range(10)} | {(0, 4, 0): 0.5}
    first = [
        choose_groups(
            {0: 10}, 1, 2, seed=0, iteration=iteration, initial_states="uncertain", success_rates=rates
        )[0].init_state_id
        for iteration in range(200)
    ]  # fmt: skip
    assert 0.4 < first.count(4) / 200 < 0.65  # 1 / 1.9
    assert len(set(first)) > 5, "the others are looked at still"


def test_a_group_s_start_holds_the_steps_of_its_lead():
    lead = ((0.0,) * 7,) * 3
    assert GroupRequest(2, 5, (1, 2), lead).start == (2, 5, 3)
    assert GroupRequest(2, 5, (1, 2)).start == (2, 5, 0)


def test_groups_from_along_a_demonstration_are_counted_apart():
    def line(lead_steps, success):
        return {"split": "train", "task_id": 1, "init_state_id": 2, "step": 3, "success": success, **lead_steps}

    lines = [line({"lead_steps": 4}, True), line({"lead_steps": 0}, False), line({}, True)]
    assert last_success_rates(lines) == {(1, 2, 4): 1.0, (1, 2, 0): 0.5}


def test_seeds_of_a_round_are_its_own():
    one = rollout_seeds(3, 0, 0)
    others = [rollout_seeds(3, 1, 0), rollout_seeds(3, 0, 1), rollout_seeds(3, 0, 0, 1)]
    assert one == rollout_seeds(3, 0, 0) == rollout_seeds(5, 0, 0)[:3]
    assert not any(set(one) & set(other) for other in others)
    streams = [stream_generator("groups", *of).random() for of in ((0, 0), (1, 0), (0, 1), (0, 0, 1))]
    assert len(set(streams)) == 4


def test_evaluations_between_training_episodes_end_nothing():
    train = {"split": "train", "task_id": 1, "init_state_id": 2, "step": 3, "success": True}
    assert last_success_rates([train | {"split": "eval"}, train]) == {(1, 2, 0): 1.0}


def test_states_are_drawn_from_a_stream_of_their_own_for_each_seed_iteration_and_round():
    for of in ((0, 0, 0), (3, 4, 5), (3, 4, 6), (3, 5, 5), (4, 4, 5)):
        (group,) = choose_groups({0: 1000}, 1, 2, **dict(zip(("seed", "iteration", "sampling_round"), of, strict=True)))
        assert group.init_state_id == stream_generator("groups", *of).permutation(1000)[-1]
        assert list(group.seeds) == rollout_seeds(2, *of)


def test_rollouts_seeds_are_of_a_stream_that_nothing_else_draws_from():
    assert rollout_seeds(2, 3, 4, 5) == [derive_seed("rollouts", 3, 4, 5, index) for index in range(2)]
