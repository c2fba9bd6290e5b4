"""The critic: its mathematics by hand, and whether it learns what can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.errors import ReflexError
from vla.rl.batch import Rollout
from vla.rl.critic import Critic, critic_advantages, explained_variance, generalised_advantages

VALUES = st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=9)


def test_advantages_by_hand() -> None:
    # Changes of mind: 0.2 -> 0.6 -> 0.4 -> 1.
    values = np.array([0.2, 0.6, 0.4])
    assert generalised_advantages(values, 1.0, 0.0) == pytest.approx([0.4, -0.2, 0.6])
    assert generalised_advantages(values, 1.0, 1.0) == pytest.approx([0.8, 0.4, 0.6])
    assert generalised_advantages(values, 1.0, 0.5) == pytest.approx([0.4 + 0.5 * 0.1, -0.2 + 0.5 * 0.6, 0.6])


@given(VALUES, st.floats(0.0, 1.0, width=32))
def test_with_all_credit_a_decision_gets_what_the_critic_did_not_expect(values: list[float], reward: float) -> None:
    judged = np.array(values)
    assert generalised_advantages(judged, reward, 1.0) == pytest.approx(reward - judged, abs=1e-6)


@given(VALUES, st.floats(0.0, 1.0, width=32), st.floats(0.0, 1.0))
def test_a_critic_that_knows_leaves_nothing_to_credit(values: list[float], reward: float, decay: float) -> None:
    assert not generalised_advantages(np.full(len(values), reward), reward, decay).any()


def test_explained_variance_by_hand() -> None:
    values = [np.array([1.0, 1.0]), np.array([0.5, 0.5])]
    # Rewards 1 1 0 0 have variance 1/4; errors 0 0 1/4 1/4 leave 1/8.
    assert explained_variance(values, np.array([1.0, 0.0])) == pytest.approx(0.5)
    assert explained_variance(values, np.array([1.0, 1.0])) == 0.0


def test_batch_advantages_have_deviation_one_before_the_negative_weight() -> None:
    values = [np.array([0.5, 0.5], np.float32), np.array([0.5], np.float32), np.array([0.9], np.float32)]
    rewards, weights = np.array([1.0, 0.0, 0.0], np.float32), np.array([1.0, 1.0, 0.0], np.float32)
    found = critic_advantages(values, rewards, weights, decay=1.0, negative_weight=0.5)
    # Raw 0.5 0.5 -0.5, deviation 0.5 * sqrt(8) / 3; the third rollout's group taught nothing.
    scale = 3 / np.sqrt(8)
    assert found[0] == pytest.approx([scale, scale], rel=1e-4)
    assert found[1] == pytest.approx([-scale * 0.5], rel=1e-4)
    assert found[2].tolist() == [0.0]
    nothing = critic_advantages(values, np.zeros(3, np.float32), np.zeros(3, np.float32), 1.0, 0.5)
    assert not np.concatenate(nothing).any()


def rollouts(count: int, seed: int) -> tuple[list[Rollout], np.ndarray]:  # type: ignore[type-arg]
    """Ten decisions each; from the fifth on the first feature tells success, which is a coin's toss."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        success = bool(generator.random() < 0.5)
        features = generator.normal(size=(10, 3)).astype(np.float32)
        features[5:, 0] += 4.0 if success else -4.0
        made.append(
            Rollout(
                task_id=int(generator.choice([2, 5])),
                success=success,
                record={},
                tokens=np.zeros((10, 56), np.int64),
                log_probs=np.zeros((10, 56), np.float32),
                executed=np.ones((10, 56), bool),
                states=generator.normal(size=(10, 8)).astype(np.float32),
                elapsed=np.arange(10) * 8,
                features=features,
                inputs=None,
            )
        )
    return made, np.array([rollout.success for rollout in made], np.float32)


def trained(iterations: int) -> Critic:
    torch.manual_seed(0)
    critic = Critic({2: 80, 5: 96}, window=4)
    for number in range(iterations):
        critic.learn(*rollouts(300, seed=number))
    return critic


def test_it_learns_what_can_be_known_and_no_more() -> None:
    unseen, rewards = rollouts(200, seed=99)
    assert trained(0).values(unseen) is None
    values = trained(6).values(unseen)
    assert values is not None
    assert all(len(value) == 10 and 0.0 <= value.min() <= value.max() <= 1.0 for value in values)
    assert explained_variance([value[5:] for value in values], rewards) > 0.9
    assert -0.15 < explained_variance([value[:5] for value in values], rewards) < 0.1


def test_an_episode_that_goes_on_from_a_demonstration_has_less_time_left() -> None:
    """Its rows are those of an episode that is as far: 16 led steps count as 16 of its own."""
    (whole, led), _ = rollouts(2, seed=3)
    led.task_id, led.features, led.states = whole.task_id, whole.features, whole.states
    whole.elapsed, led.elapsed, led.lead_steps = np.arange(10) * 8 + 16, np.arange(10) * 8, 16
    critic = Critic({2: 160, 5: 192}, window=4)
    rows = [critic._rows(rollout) for rollout in (whole, led)]
    np.testing.assert_array_equal(rows[0], rows[1])
    horizon = 160 if whole.task_id == 2 else 192
    time = rows[0][:, 3 + 8 : 3 + 8 + 2]  # after three features and eight numbers of state
    np.testing.assert_allclose(time[0], [16 / horizon, (horizon - 16) / 192], rtol=1e-6)


def test_it_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    critic = trained(2)
    critic.save(tmp_path)
    again = Critic({2: 80, 5: 96}, window=4)
    again.load(tmp_path)
    for number, judge in enumerate((critic, again)):
        torch.manual_seed(7)
        judge.learn(*rollouts(60, seed=50))
        values = judge.values(rollouts(5, seed=51)[0])
        assert values is not None
        if number == 0:
            first = np.concatenate(values)
    assert np.array_equal(np.concatenate(values), first)


def test_a_checkpoint_before_anything_was_learnt(tmp_path: Path) -> None:
    trained(0).save(tmp_path)
    again = Critic({2: 80, 5: 96}, window=4)
    again.load(tmp_path)
    assert again.values(rollouts(1, seed=0)[0]) is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"critic\.pt"):
        trained(0).load(tmp_path)


def test_a_policy_without_features_is_refused() -> None:
    made, rewards = rollouts(2, seed=0)
    made[1].features = None
    with pytest.raises(ReflexError, match=r"PolicyOutput\.features"):
        trained(0).learn(made, rewards)
