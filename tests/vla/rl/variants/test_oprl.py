"""Implicit rewards of decisions, by hand and as a judge that learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vla.rl.helpers import FakeInputs, TrainableFakePolicy, training_parts
from vla.rl.batch import Rollout
from vla.rl.config import AlgoConfig
from vla.rl.variants.oprl import FOLDER, Oprl, decision_rewards, preference_loss, preference_pairs


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_pairs_are_of_one_group_and_leave_nobody_out(rollouts: list[tuple[bool, int]], seed: int):
    won, groups = (np.array(column) for column in zip(*rollouts, strict=True))
    pairs = preference_pairs(won, groups, np.random.default_rng(seed))
    assert won[pairs[:, 0]].all() and not won[pairs[:, 1]].any()
    assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
    both = [group for group in range(3) if len(set(won[groups == group].tolist())) == 2]
    assert set(pairs.ravel().tolist()) == set(np.flatnonzero(np.isin(groups, both)).tolist())
    again = preference_pairs(won, groups, np.random.default_rng(seed))
    np.testing.assert_array_equal(again, pairs)


def test_a_decisions_reward_is_its_executed_units_log_ratio():
    judged, sampled = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, -1.0, -1.0]])
    executed = torch.tensor([[True, True, False]])
    assert decision_rewards(judged, sampled, executed, beta=0.1).tolist() == pytest.approx([0.1 * (0.5 - 1.0)])


def test_the_loss_compares_sums_over_rollouts():
    # Rollout 0 has 0.5 + 1.0, rollout 1 has -0.5: the difference is 2.
    loss = preference_loss(torch.tensor([0.5, 1.0, -0.5]), torch.tensor([0, 0, 1]), torch.tensor([[0, 1]]))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2.0)))


def rollout(success: bool, sideways: float) -> Rollout:
    """Two decisions of a policy that was as likely to do anything; the first token of each moves it sideways."""
    tokens = np.full((2, 56), 4)
    tokens[:, 1::7] = 4 + round(4 * sideways)
    inputs = FakeInputs(torch.zeros(2, 8), ("reach the red target", "reach the red target"))
    return Rollout(
        task_id=0,
        success=success,
        record={"steps": 16},
        decisions=tokens,
        log_probs=np.full((2, 56), -math.log(9), dtype=np.float32),
        executed=np.ones((2, 56), dtype=bool),
        states=np.zeros((2, 8), dtype=np.float32),
        elapsed=np.array([0, 8]),
        features=None,
        inputs=inputs,
    )


def saved_judges(folder: str) -> TrainableFakePolicy:
    """A judge as `load` reads it: the toy policy keeps all of itself in a file of torch's."""
    policy = TrainableFakePolicy()
    weights = Path(folder) / "judge.pt"
    if weights.exists():
        policy.load_state_dict(torch.load(weights, weights_only=True))
    return policy


def make_oprl(learning_rate: float = 5e-4) -> Oprl:
    algo = AlgoConfig(variants=["oprl"], learning_rate=learning_rate)
    return Oprl(Oprl.Settings(), training_parts(algo, trainable=saved_judges))


def test_the_judge_learns_what_won_and_keeps_it_in_a_checkpoint(tmp_path: Path):
    rollouts = [rollout(True, 1.0), rollout(False, -1.0), rollout(True, 0.5), rollout(False, -0.5)]
    oprl = make_oprl(learning_rate=0.05)
    generator = np.random.default_rng(0)
    losses = [
        oprl.learn_from(rollouts, [True, False, True, False], [0, 0, 0, 0], generator)["advantage/preference_loss"]
        for _ in range(30)
    ]
    assert losses[-1] < 0.5 * losses[0]
    rewards = oprl.rewards_of(rollouts)
    assert [len(steps) for steps in rewards] == [2, 2, 2, 2]
    assert min(rewards[0].sum(), rewards[2].sum()) > max(rewards[1].sum(), rewards[3].sum())
    oprl.save(tmp_path)
    torch.save(oprl.judge.state_dict(), tmp_path / FOLDER / "judge.pt")  # type: ignore[attr-defined]
    again = make_oprl(learning_rate=0.05)
    again.load(tmp_path)
    for left, right in zip(again.rewards_of(rollouts), rewards, strict=True):
        np.testing.assert_array_equal(left, right)
    # The optimiser goes on too: one more pass over the same pairs leaves the same judge.
    for judge in (oprl, again):
        judge.learn_from(rollouts, [True, False, True, False], [0, 0, 0, 0], np.random.default_rng(5))
    for left, right in zip(again.rewards_of(rollouts), oprl.rewards_of(rollouts), strict=True):
        np.testing.assert_array_equal(left, right)


def test_without_a_contrast_there_is_nothing_to_learn_and_dropped_rollouts_get_nothing():
    oprl = make_oprl()
    alike = [rollout(True, 1.0), rollout(True, 0.5)]
    assert oprl.learn_from(alike, [True, True], [0, 0], np.random.default_rng(0)) == {}
    alike[0].inputs = None
    assert oprl.rewards_of(alike)[0].tolist() == [0.0, 0.0]
