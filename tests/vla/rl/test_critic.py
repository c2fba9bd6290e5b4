"""The critic: its mathematics by hand, and whether it learns what can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
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
                decisions=np.zeros((10, 56), np.int64),
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


def test_a_critic_judges_the_same_twice() -> None:
    """Without dropout."""
    critic, (unseen, _) = trained(1), rollouts(5, seed=9)
    first, second = critic.values(unseen), critic.values(unseen)
    assert first is not None and second is not None
    assert np.array_equal(np.concatenate(first), np.concatenate(second))


def steps_of(critic: Critic) -> int:
    """That its optimiser has made."""
    optimiser = critic._optimiser
    assert optimiser is not None
    return int(next(iter(optimiser.state.values()))["step"])


def test_an_iteration_is_passed_over_as_often_as_the_window_is_long() -> None:
    """Alone four times, with one more twice, with two more twice (rounded up), then once; a pass has 1 to 4 steps."""
    torch.manual_seed(0)
    critic = Critic({2: 80, 5: 96}, window=4)
    done = []
    for number in range(6):
        critic.learn(*rollouts(25, seed=number))  # 250 decisions: one step of 256
        done.append(steps_of(critic))
    # Steps of a pass: 1, 2, 3, 4, and 4 once the window is full.
    assert np.diff([0, *done]).tolist() == [4 * 1, 2 * 2, 2 * 3, 1 * 4, 1 * 4, 1 * 4]


def row_of(rollout: Rollout, horizons: dict[int, int]) -> np.ndarray:  # type: ignore[type-arg]
    return Critic(horizons, window=1)._rows(rollout)


def test_what_the_critic_sees_of_a_decision_by_hand() -> None:
    """Features, state, the share of time that has passed, the time left against the longest task's, and the task."""
    (one, *_), _ = rollouts(1, seed=0)
    one.task_id, one.elapsed = 5, np.arange(10) * 4
    row = row_of(one, {2: 80, 5: 50})[3]
    assert one.features is not None
    assert row[:3].tolist() == one.features[3].tolist()
    assert row[3:11].tolist() == one.states[3].tolist()
    assert row[11:13].tolist() == pytest.approx([12 / 50, (50 - 12) / 80])
    assert row[13:].tolist() == [0.0, 1.0]
    assert row.dtype == np.float32


def test_what_hardly_varies_is_not_blown_up() -> None:
    """Inputs are standardised over the window, by a deviation of 0.1 at least."""
    critic = Critic({0: 8}, window=2)
    critic._seen.append((torch.tensor([[0.0, 5.0], [2.0, 5.02]]), torch.zeros(2)))
    found = critic._standardised(torch.tensor([[3.0, 5.11]]))
    assert found.tolist()[0] == pytest.approx([2.0, 1.0], abs=1e-4)


@given(VALUES, st.floats(0.0, 1.0, width=32), st.floats(0.0, 1.0))
def test_what_is_credited_adds_up(values: list[float], reward: float, decay: float) -> None:
    """The telescope: an advantage less `decay` times the next is one change of mind, and these lead to the reward."""
    judged = np.array(values)
    credited = generalised_advantages(judged, reward, decay).astype(np.float64)
    changes = credited - decay * np.append(credited[1:], 0.0)
    assert changes == pytest.approx(np.append(judged[1:], reward) - judged, abs=1e-5)
    assert changes.sum() == pytest.approx(reward - judged[0], abs=1e-5)


BATCHES = st.lists(
    st.tuples(VALUES, st.floats(0.0, 1.0, width=32), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6
)


@given(BATCHES, st.floats(0.0, 1.0), st.integers(0, 1000))
def test_the_order_of_rollouts_does_not_matter_and_those_without_weight_get_nothing(
    batch: list[tuple[list[float], float, float]], decay: float, seed: int
) -> None:
    values = [np.array(judged, np.float32) for judged, _, _ in batch]
    rewards, weights = (np.array([rollout[column] for rollout in batch], np.float32) for column in (1, 2))
    found = critic_advantages(values, rewards, weights, decay, 0.3)
    assume(np.abs(np.concatenate(found)).max() < 1e3)  # else a rounding error is what they are divided by
    order = np.random.default_rng(seed).permutation(len(batch))
    again = critic_advantages([values[index] for index in order], rewards[order], weights[order], decay, 0.3)
    for position, index in enumerate(order):
        assert again[position] == pytest.approx(found[index], rel=1e-3, abs=1e-3)
        assert len(found[index]) == len(values[index])
        assert weights[index] > 0 or not found[index].any()


@given(BATCHES, st.floats(0.0, 1.0))
def test_negative_advantages_count_less_and_positive_ones_as_much(
    batch: list[tuple[list[float], float, float]], decay: float
) -> None:
    values = [np.array(judged, np.float32) for judged, _, _ in batch]
    rewards, weights = (np.array([rollout[column] for rollout in batch], np.float32) for column in (1, 2))
    full = np.concatenate(critic_advantages(values, rewards, weights, decay, 1.0))
    less = np.concatenate(critic_advantages(values, rewards, weights, decay, 0.25))
    assert less == pytest.approx(np.where(full < 0, 0.25 * full, full), rel=1e-5)


def test_equal_judgements_are_divided_by_almost_nothing_and_stay_finite() -> None:
    (found,) = critic_advantages(
        [np.array([0.5], np.float32)], np.ones(1, np.float32), np.ones(1, np.float32), 1.0, 1.0
    )
    assert found.tolist() == pytest.approx([0.5 / 1e-6], rel=1e-4)
    assert found.dtype == np.float32


def test_a_later_change_of_mind_is_credited_less_the_further_away_it_is() -> None:
    credited = generalised_advantages(np.array([0.5, 0.5, 0.5]), 1.0, 0.5)
    assert credited.tolist() == pytest.approx([0.125, 0.25, 0.5]) and credited.dtype == np.float32


def test_variance_is_explained_over_decisions_and_not_over_rollouts() -> None:
    values = [np.array([0.0, 0.0, 0.0]), np.array([1.0])]
    # Rewards 0 0 0 0.5: variance 3/64; one error of 0.5: 1/16 left.
    assert explained_variance(values, np.array([0.0, 0.5])) == pytest.approx(1 - (1 / 16) / (3 / 64))


@pytest.mark.parametrize(("rollouts_of_rewards", "rollouts_of_weights"), [(1, 2), (2, 1), (3, 2), (2, 3)])
def test_a_rollout_without_a_reward_or_a_weight_is_an_error(rollouts_of_rewards: int, rollouts_of_weights: int) -> None:
    values = [np.array([0.5, 0.2], np.float32)] * 2
    rewards, weights = np.ones(rollouts_of_rewards, np.float32), np.zeros(rollouts_of_weights, np.float32)
    with pytest.raises(ValueError, match="zip"):
        critic_advantages(values, rewards, weights, 1.0, 1.0)
