"""The other rewards for failures, worked by hand, and what all modes promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.vla.rl.helpers import reward
from tests.vla.rl.test_collection import episode_of
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rewards.reward import Scores
from vla.rewards.srpo import RewardError, srpo_rewards
from vla.rewards.variants.calibrated import calibrated_rewards
from vla.rewards.variants.siirl import siirl_rewards
from vla.rewards.variants.without_success import rewards_without_success


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def calibrated(embeddings, successes, task_ids, **options):
    """Rollouts that all began at the origin's far side: 10 along the first axis."""
    starts = np.zeros(np.shape(embeddings))
    starts[:, :1] = 10.0
    return calibrated_rewards(embeddings, starts, successes, task_ids, **options)


MODES = {
    "srpo": lambda *batch: srpo_rewards(*batch, invalid="zero").rewards,
    "siirl": siirl_rewards,
    "calibrated": calibrated,
}


class TestSiirl:
    def test_distances_are_scaled_between_the_nearest_and_the_farthest_failure(self):
        # One success: it is the mean. Distances 1, 2, 5 scale to 0, 1/4, 1.
        rewards = siirl_rewards([[0.0], [1.0], [2.0], [5.0]], [1, 0, 0, 0], [0] * 4)
        expected = [1, 0.6 * sigmoid(5), 0.6 * sigmoid(2.5), 0.6 * sigmoid(-5)]
        assert rewards.tolist() == pytest.approx(expected, abs=1e-6)

    def test_one_failure_gets_the_middle(self):
        assert siirl_rewards([[0.0], [7.0]], [1, 0], [0, 0]).tolist() == pytest.approx([1, 0.3])

    def test_two_failures_that_hardly_differ_are_torn_apart(self):
        rewards = siirl_rewards([[0.0], [1.0], [1.00001]], [1, 0, 0], [0] * 3)
        assert rewards[1] - rewards[2] > 0.59  # what a reward on an absolute scale must not do

    def test_two_ways_to_succeed_are_averaged_to_a_place_where_nobody_was(self):
        generator = np.random.default_rng(0)
        modes = np.zeros((2, 32))
        modes[1, 0] = 10.0
        wins = np.concatenate([modes + 0.01 * generator.standard_normal((2, 32)) for _ in range(8)])
        between, at_a_mode = modes.mean(axis=0), modes[1]
        batch = np.concatenate([wins, [between, at_a_mode]])
        rewards = siirl_rewards(batch, [1] * 16 + [0, 0], [0] * 18)
        # The noise of every dimension is blown up to deviation 1, so at radius 0.5 nothing is near anything.
        assert rewards[16] > 0.59 and rewards[17] < 0.01
        ours = srpo_rewards(batch, [1] * 16 + [0, 0], [0] * 18).rewards
        assert ours[17] > ours[16]


class TestCalibrated:
    def test_the_share_of_the_way_counts(self):
        # Successes at 0 and 1 are two centres, 1 apart. A failure at 3 is 2 from the nearest, its start 9.
        rewards = calibrated([[0.0], [1.0], [3.0], [10.0], [12.0]], [1, 1, 0, 0, 0], [0] * 5)
        assert rewards.tolist() == pytest.approx([1, 1, 0.8 * (9 - 2) / (9 - 1), 0, 0], abs=1e-6)

    def test_a_failure_as_near_as_successes_are_to_one_another_gets_alpha(self):
        assert calibrated([[0.0], [1.0], [1.5]], [1, 1, 0], [0] * 3)[2] == pytest.approx(0.8)
        assert calibrated([[0.0], [1.0], [1.5]], [1, 1, 0], [0] * 3, alpha=1.0)[2] < 1.0

    def test_a_failure_is_worth_the_same_whoever_else_failed(self):
        alone = calibrated([[0.0], [4.0]], [1, 0], [0] * 2)[1]
        among_others = calibrated([[0.0], [4.0], [1.0], [9.9]], [1, 0, 0, 0], [0] * 4)[1]
        assert alone == among_others == pytest.approx(0.8 * 0.6)

    def test_each_failure_is_measured_from_its_own_start(self):
        rewards = calibrated_rewards([[0.0], [2.0], [2.0]], [[9.0], [4.0], [8.0]], [1, 0, 0], [0] * 3)
        assert rewards.tolist() == pytest.approx([1, 0.8 / 2, 0.8 * 3 / 4])

    def test_where_not_moving_is_as_near_as_succeeding_nothing_is_said(self):
        successes, starts = [[0.0], [6.0]], [[0.0], [0.0], [1.0]]
        assert calibrated_rewards([*successes, [2.0]], starts, [1, 1, 0], [0] * 3)[2] == 0.0

    def test_demonstrations_stand_in_for_the_successes_a_task_has_not(self):
        rewards = calibrated([[5.0], [5.0]], [0, 0], [0, 1], demonstrations={0: np.array([[0.0]])})
        assert rewards.tolist() == pytest.approx([0.4, 0])

    def test_mismatched_starts_are_refused(self):
        with pytest.raises(RewardError, match=r"start embeddings have shape \(1, 1\)"):
            calibrated_rewards([[0.0], [1.0]], [[0.0]], [1, 0], [0, 0])
        with pytest.raises(RewardError, match="alpha is 2"):
            calibrated([[0.0], [1.0]], [1, 0], [0, 0], alpha=2)

    def test_a_start_that_is_not_finite_gives_nothing(self):
        assert calibrated_rewards([[0.0], [1.0]], [[5.0], [np.nan]], [1, 0], [0, 0]).tolist() == [1, 0]


@st.composite
def batches(draw):
    count = draw(st.integers(1, 12))
    numbers = st.floats(-100, 100, allow_nan=False, width=32)
    embeddings = draw(arrays(np.float64, (count, 3), elements=numbers))
    successes = draw(arrays(np.bool_, count))
    tasks = draw(arrays(np.int64, count, elements=st.integers(0, 2)))
    return embeddings, successes, tasks


class TestPaidWithoutSuccess:
    def test_failures_beside_a_success_get_nothing_and_others_keep_theirs(self):
        rewards, successes, groups = [1, 0.5, 0.2, 0.6, 0.3], [1, 0, 0, 0, 0], [4, 4, 4, 2, 2]
        assert rewards_without_success(rewards, successes, groups).tolist() == pytest.approx([1, 0, 0, 0.6, 0.3])

    def test_the_rewards_given_stay_as_they_are(self):
        rewards = np.array([1, 0.5], dtype=np.float32)
        rewards_without_success(rewards, [True, False], [0, 0])
        assert rewards.tolist() == [1, 0.5]


@pytest.mark.parametrize("mode", MODES)
class TestEveryMode:
    def test_eight_rollouts_of_one_prompt_get_eight_rewards(self, mode):
        generator = np.random.default_rng(1)
        embeddings = np.concatenate([np.zeros((1, 3)), generator.uniform(1.0, 5.0, (8, 3))])
        rewards = MODES[mode](embeddings, [1] + [0] * 8, [0] * 9)
        assert len(set(rewards[1:].tolist())) == 8

    @settings(max_examples=60, deadline=None)
    @given(batch=batches())
    def test_no_failure_reaches_a_success_and_all_is_finite(self, mode, batch):
        embeddings, successes, tasks = batch
        rewards = MODES[mode](embeddings, successes, tasks)
        assert np.isfinite(rewards).all()
        assert (rewards[successes] == 1).all()
        assert (rewards[~successes] < 1).all() and (rewards[~successes] >= 0).all()

    @settings(max_examples=60, deadline=None)
    @given(batch=batches(), seed=st.integers(0, 1000))
    def test_order_of_the_rollouts_does_not_matter(self, mode, batch, seed):
        embeddings, successes, tasks = batch
        order = np.random.default_rng(seed).permutation(len(tasks))
        rewards = MODES[mode](embeddings, successes, tasks)
        assert MODES[mode](embeddings[order], successes[order], tasks[order]) == pytest.approx(rewards[order], abs=1e-5)

    def test_a_failure_without_a_finite_embedding_gets_nothing_and_changes_nothing(self, mode):
        rows, successes = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]], [1, 0, 0]
        rewards = MODES[mode](np.array([*rows, [np.nan, 0.0]]), [*successes, 0], [0] * 4)
        assert rewards[3] == 0
        assert rewards[:3].tolist() == MODES[mode](np.array(rows), successes, [0] * 3).tolist()

    def test_a_success_with_an_embedding_of_zeros_keeps_its_reward(self, mode):
        assert MODES[mode](np.zeros((2, 2)), [1, 0], [0, 0])[0] == 1

    def test_a_task_without_a_success_teaches_nothing(self, mode):
        assert MODES[mode](np.array([[1.0], [2.0]]), [0, 0], [0, 0]).tolist() == [0, 0]


class StartAndEnd:
    """Embeds a rollout as its last frame's brightness, and one that stays as its first frame's."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        return np.array([[episode.images["image"][-1].mean()] for episode in episodes], dtype=np.float32)

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        return np.array([[episode.images["image"][0].mean()] for episode in episodes], dtype=np.float32)


def from_to(first: int, last: int) -> Episode:
    return episode_of(np.array([first, last], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8))


class TestRewardsScoreByTheirFormulas:
    """What a class does with a batch, beside the formula that is tried above."""

    SUCCESSES, TASKS, GROUPS = np.array([True, False, False, False]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2])
    ROWS = np.array([[0.0], [5.0], [2.0], [3.0]], np.float32)

    def score(self, name: str, **settings: Any) -> Scores:
        model = reward(name, StartAndEnd(), **settings)
        return model.score(self.ROWS, self.SUCCESSES, self.TASKS, self.GROUPS)

    @pytest.mark.parametrize(("name", "formula"), [("siirl", siirl_rewards), ("srpo", MODES["srpo"])])
    def test_of_embeddings_successes_and_tasks(self, name, formula):
        found = self.score(name)
        assert found.rewards.tolist() == formula(self.ROWS, self.SUCCESSES, self.TASKS).tolist()
        assert found.metrics["reward/failure_mean"] == pytest.approx(found.rewards[1:].mean())
        assert found.rewards[3] == 0.0 and 0 < found.rewards[1] < found.rewards[2] < 1, "another task"
        assert found.telling is None

    def test_srpo_s_metrics_are_means_over_tasks_and_counts(self):
        metrics = self.score("srpo").metrics
        assert metrics["reward/centres"] == 0.5 and metrics["reward/clusters"] == 0.0
        assert metrics["reward/noise_share"] == 1.0 and metrics["reward/tasks_without_success"] == 1.0
        assert metrics["reward/invalid_embeddings"] == 0.0
        rows = np.array([[np.nan], [1.0], [np.inf], [2.0]], np.float32)
        found = reward("srpo", StartAndEnd()).score(rows, self.SUCCESSES, self.TASKS, self.GROUPS)
        assert found.metrics["reward/invalid_embeddings"] == 2.0
        empty = np.zeros(0, np.int64)
        nothing = reward("srpo", StartAndEnd()).score(np.zeros((0, 1), np.float32), empty.astype(bool), empty, empty)
        assert nothing.metrics["reward/clusters"] == nothing.metrics["reward/centres"] == 0.0
        assert nothing.metrics["reward/failure_mean"] == 0.0

    def test_a_row_of_the_calibrated_reward_holds_the_end_and_then_the_start(self):
        model = reward("calibrated", StartAndEnd())
        rows = model.embed([from_to(100, 0), from_to(100, 60), from_to(40, 60)])
        assert rows.tolist() == [[0.0, 100.0], [60.0, 100.0], [60.0, 40.0]]
        zeros = np.zeros(3, np.int64)
        found = model.score(rows, np.array([True, False, False]), zeros, zeros)
        assert found.rewards.tolist() == pytest.approx([1.0, 0.8 * 0.4, 0.0])
        assert found.metrics == {"reward/failure_mean": pytest.approx(0.16)}

    @pytest.mark.parametrize(("name", "expected"), [("srpo", 0.4), ("calibrated", 0.8 * 0.4)])
    def test_demonstrations_of_the_run_stand_in(self, name, expected):
        model = reward(name, StartAndEnd(), {0: [from_to(100, 0)], 1: []})
        rows = model.embed([from_to(100, 60), from_to(100, 60)])
        found = model.score(rows, np.zeros(2, bool), np.array([0, 1]), np.array([0, 1]))
        assert found.rewards.tolist() == pytest.approx([expected, 0.0])

    def test_what_stands_in_for_a_task_keeps_to_it_and_what_is_alone_is_paid(self):
        found = self.score("without_success")
        assert found.rewards.tolist() == [1.0, 0.0, self.score("srpo").rewards[2], 0.0]
        assert found.telling is not None and found.telling.tolist() == [1.0, 0.0, 0.0, 0.0]
        assert found.metrics == self.score("srpo").metrics

    def test_a_scope_says_which_rollouts_are_compared(self):
        assert self.score("reference_scope").rewards.tolist() == pytest.approx([1.0, 0.4, 0.0, 0.0])
        batch = self.score("reference_scope", scope="batch").rewards
        zeros = np.zeros(4, np.int64)
        whole = reward("srpo", StartAndEnd()).score(self.ROWS, self.SUCCESSES, zeros, self.GROUPS).rewards
        assert batch.tolist() == whole.tolist() and batch[3] > 0

    def test_a_scope_and_what_stands_in_for_successes_exclude_one_another(self):
        for inner, demonstrations in (({"reward": "success_bank"}, None), ({}, {0: [from_to(1, 2)]})):
            with pytest.raises(ReflexError, match="compares within a batch, but demonstrations and a success bank"):
                reward("reference_scope", StartAndEnd(), demonstrations, scope="batch", **inner)


def generic(batch):
    """The batch with other rows, no two pairs of which are nearly as far from each other."""
    _, successes, tasks = batch
    return np.random.default_rng(len(tasks)).normal(size=(len(tasks), 3)), successes, tasks


@settings(max_examples=50, deadline=None)
@given(batch=batches(), scale=st.floats(0.1, 10), offset=st.floats(-20, 20))
def test_how_far_failures_came_does_not_depend_on_scale_or_place(batch, scale, offset):
    rows, successes, tasks = generic(batch)
    starts = rows[::-1]
    direct = calibrated_rewards(rows, starts, successes, tasks)
    changed = calibrated_rewards(scale * rows + offset, scale * starts + offset, successes, tasks)
    assert changed == pytest.approx(direct, abs=1e-4)
    assert siirl_rewards(rows + offset, successes, tasks) == pytest.approx(siirl_rewards(*generic(batch)), abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(batch=batches(), alpha=st.floats(0, 1))
def test_a_failure_is_worth_alpha_at_most(batch, alpha):
    rows, successes, tasks = generic(batch)
    whole, part = (calibrated_rewards(rows, rows[::-1], successes, tasks, alpha=value) for value in (1.0, alpha))
    assert part[~successes] == pytest.approx(alpha * whole[~successes], abs=1e-5)


def test_how_far_successes_are_from_one_another_is_a_median():
    """Successes at 0, 1 and 4: nearest neighbours 1, 1 and 3 away, so a failure 1 away has come all the way."""
    rows, successes = [[0.0], [1.0], [4.0], [5.0], [6.0]], [1, 1, 1, 0, 0]
    starts = [[10.0]] * 5
    found = calibrated_rewards(rows, starts, successes, [0] * 5)
    assert found.tolist() == pytest.approx([1, 1, 1, 0.8, 0.8 * 4 / 5])


def test_siirl_s_clusters_are_averaged_where_there_are_some():
    """Standardised, two pairs of successes are 0.2 apart within and 1.8 between: two centres, at 0.5 and at 10.5."""
    wins = [[0.0], [1.0], [10.0], [11.0]]
    rewards = siirl_rewards([*wins, [0.5], [2.5], [8.5]], [1] * 4 + [0] * 3, [0] * 7)
    assert rewards[4:].tolist() == pytest.approx([0.6 * sigmoid(5), 0.6 * sigmoid(-5), 0.6 * sigmoid(-5)], abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_task_without_a_success_or_a_failure_ends_nothing_for_those_after_it(mode):
    """Task 0 has failures only, task 1 a success only, task 2 both."""
    rows, successes, tasks = np.array([[3.0], [2.0], [1.0], [2.0], [5.0]]), [0, 1, 1, 0, 0], [0, 1, 2, 2, 2]
    rewards = MODES[mode](rows, successes, tasks)
    assert rewards[0] == 0 and rewards[1] == rewards[2] == 1
    assert rewards[3:].tolist() == MODES[mode](rows[2:], successes[2:], tasks[2:])[1:].tolist()
    assert rewards[3] > rewards[4] and rewards.dtype == np.float32
