"""Choosing initial states and seeds."""

from __future__ import annotations

from vla.rl.sampler import choose_groups, stream_generator


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
    taken = {(0, state) for state in range(50)} | {(3, state) for state in range(49)}
    groups = choose_groups({0: 50, 3: 50}, 5, 2, seed=0, iteration=0, exclude=taken)
    assert [group.start for group in groups] == [(3, 49)]


def test_streams_differ():
    draws = [stream_generator(name, 0, 0).random() for name in ("groups", "rollouts", "samples", "encoder")]
    assert len(set(draws)) == 4
