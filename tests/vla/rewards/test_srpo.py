"""The SRPO reward: worked by hand, every edge case, and the behaviours that published code has lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla.rewards.embeddings import ProprioceptionEmbedding
from vla.rewards.reward import RewardParts, make_reward
from vla.rewards.srpo import RewardError, cluster_successes, failure_rewards, linked_components, srpo_rewards


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def two_modes(noise: float, size: int = 10, dimension: int = 64) -> np.ndarray:
    """Two ways to succeed, `size` rollouts each, in alternating order."""
    generator = np.random.default_rng(0)
    modes = generator.standard_normal((2, dimension)) * 3
    return np.concatenate([modes + noise * generator.standard_normal((2, dimension)) for _ in range(size)])


class TestWorkedByHand:
    def test_one_success_and_three_failures(self):
        # Distances 1, 2, 3: mean 2, population deviation sqrt(2/3), z = -1.2247, 0, 1.2247.
        result = srpo_rewards([[0, 0], [1, 0], [0, 2], [0, -3]], [1, 0, 0, 0], [0] * 4)
        z = 1 / math.sqrt(2 / 3)
        assert result.rewards.tolist() == pytest.approx([1, 0.8 * sigmoid(z), 0.4, 0.8 * sigmoid(-z)], abs=1e-6)
        assert result.distances[1:].tolist() == pytest.approx([1, 2, 3])
        assert math.isnan(result.distances[0])

    def test_the_nearest_of_two_successes_counts(self):
        result = srpo_rewards([[0, 0], [10, 0], [9, 0], [4, 0]], [1, 1, 0, 0], [0] * 4)
        assert result.distances[2:].tolist() == [1, 4]
        assert result.rewards[2:].tolist() == pytest.approx([0.8 * sigmoid(1), 0.8 * sigmoid(-1)], abs=1e-6)

    def test_alpha_scales_the_output(self):
        embeddings, successes = [[0.0], [1.0], [3.0]], [1, 0, 0]
        base = srpo_rewards(embeddings, successes, [0] * 3, alpha=0.8).rewards
        half = srpo_rewards(embeddings, successes, [0] * 3, alpha=0.4).rewards
        assert half[1:] == pytest.approx(base[1:] / 2)
        assert srpo_rewards(embeddings, successes, [0] * 3, alpha=0.0).rewards.tolist() == [1, 0, 0]

    def test_tasks_never_share_references_mean_or_deviation(self):
        task_0 = srpo_rewards([[0.0], [1.0], [3.0]], [1, 0, 0], [0] * 3).rewards
        both = srpo_rewards(
            [[0.0], [1.0], [3.0], [1.0], [500.0], [900.0]], [1, 0, 0, 1, 0, 0], [0, 0, 0, 7, 7, 7]
        ).rewards
        assert both[:3].tolist() == task_0.tolist()
        assert both[4:].tolist() == pytest.approx([0.8 * sigmoid(1), 0.8 * sigmoid(-1)], abs=1e-6)

    def test_cosine_metric_ignores_length(self):
        result = srpo_rewards([[1, 0], [100, 0], [0, 5]], [1, 0, 0], [0] * 3, metric="cosine")
        assert result.distances[1:].tolist() == pytest.approx([0, math.sqrt(2)])


class TestEdgeCases:
    def test_no_success_gives_every_failure_zero(self):
        result = srpo_rewards(np.eye(3), [0, 0, 0], [4] * 3)
        assert result.rewards.tolist() == [0, 0, 0]
        assert result.clusters_per_task == {4: 0} and result.centres_per_task == {4: 0}

    def test_demonstrations_stand_in_for_the_successes_a_task_has_not(self):
        embeddings, tasks = [[1.0], [3.0], [1.0], [3.0], [0.0]], [4, 4, 5, 5, 5]
        demonstrations = {4: np.array([[0.0], [50.0]]), 5: np.array([[3.0]])}
        result = srpo_rewards(embeddings, [0, 0, 0, 0, 1], tasks, demonstrations=demonstrations)
        # Task 4 is scored by its nearest demonstration; task 5 has a success of its own, so only that counts.
        expected = [0.8 * sigmoid(1), 0.8 * sigmoid(-1)]
        assert result.rewards.tolist() == pytest.approx([*expected, *expected, 1.0], abs=1e-6)
        assert result.centres_per_task == {4: 2, 5: 1} and result.clusters_per_task == {4: 0, 5: 0}

    def test_no_failure_leaves_the_successes(self):
        assert srpo_rewards(np.eye(3), [1, 1, 1], [0] * 3).rewards.tolist() == [1, 1, 1]

    def test_one_failure_gets_half_of_alpha_however_far(self):
        assert srpo_rewards([[0.0], [1e9]], [1, 0], [0, 0]).rewards.tolist() == pytest.approx([1, 0.4])

    def test_equal_failures_tie_at_half_of_alpha(self):
        rewards = srpo_rewards([[0, 0], [3, 4], [3, 4], [-5, 0]], [1, 0, 0, 0], [0] * 4).rewards
        assert rewards.tolist() == pytest.approx([1, 0.4, 0.4, 0.4])

    def test_a_tie_inside_a_spread_stays_a_tie(self):
        rewards = srpo_rewards([[0, 0], [3, 4], [0, 5], [9, 0]], [1, 0, 0, 0], [0] * 4).rewards
        assert rewards[1] == rewards[2] > rewards[3]

    def test_empty_batch(self):
        assert srpo_rewards(np.zeros((0, 3)), [], []).rewards.shape == (0,)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_embedding_is_an_error_that_names_the_rollout(self, bad):
        with pytest.raises(RewardError, match="rollout 2"):
            srpo_rewards([[0.0], [1.0], [bad]], [1, 0, 0], [0] * 3)
        with pytest.raises(RewardError, match="task 3, state 7"):
            srpo_rewards([[0.0], [bad]], [1, 0], [3, 3], names=["a", "task 3, state 7"])

    def test_non_finite_failure_can_be_counted_and_gets_zero_without_touching_the_others(self):
        clean = srpo_rewards([[0.0], [1.0], [3.0]], [1, 0, 0], [0] * 3)
        result = srpo_rewards([[0.0], [1.0], [np.nan], [3.0]], [1, 0, 0, 0], [0] * 4, invalid="zero")
        assert result.rewards.tolist() == [1, clean.rewards[1], 0, clean.rewards[2]]
        assert (result.invalid_failures, result.invalid_successes) == (1, 0)

    def test_no_failure_reaches_a_success_even_where_the_sigmoid_saturates(self):
        embeddings = np.concatenate([[[0.0], [1e-3]], np.full((5000, 1), 1e6)])
        rewards = srpo_rewards(embeddings, [1] + [0] * 5001, [0] * 5002, alpha=1.0).rewards
        assert 0.999 < rewards[1] < 1.0 == rewards[0]

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
    def test_alpha_outside_its_range_is_refused(self, alpha):
        with pytest.raises(RewardError, match="alpha"):
            srpo_rewards([[0.0]], [1], [0], alpha=alpha)

    def test_mismatched_shapes_are_refused(self):
        with pytest.raises(RewardError, match="shapes"):
            srpo_rewards([[0.0], [1.0]], [1], [0, 0])


class TestBehavioursOtherCodeHasLost:
    def test_a_success_with_an_odd_embedding_keeps_reward_one(self):
        embeddings = [[0.0, 0.0], [np.nan, 0.0], [1e12, 0.0], [1.0, 0.0], [2.0, 0.0]]
        result = srpo_rewards(embeddings, [1, 1, 1, 0, 0], [0] * 5, invalid="zero")
        assert result.rewards[:3].tolist() == [1, 1, 1]
        assert result.invalid_successes == 1
        assert result.distances[3:].tolist() == [1, 2]  # the NaN success is no reference, the zero one is

    def test_noise_between_equal_failures_is_not_ranked(self):
        generator = np.random.default_rng(0)
        failure = generator.standard_normal(1408)
        copies = failure * (1 + 1e-6 * generator.standard_normal((7, 1408)))
        embeddings = np.concatenate([generator.standard_normal((1, 1408)), copies])
        rewards = srpo_rewards(embeddings, [1] + [0] * 7, [0] * 8).rewards
        assert rewards[1:].tolist() == pytest.approx([0.4] * 7, abs=1e-7)

    def test_two_failures_nearly_equally_near_are_not_torn_apart_when_others_are_far(self):
        rewards = srpo_rewards([[0.0], [1.0], [1.001], [9.0], [12.0]], [1, 0, 0, 0, 0], [0] * 5).rewards
        assert abs(rewards[1] - rewards[2]) < 1e-3 < rewards[1] - rewards[3]

    @pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.3, 1.0])
    @pytest.mark.parametrize("size", [2, 4, 16])
    @pytest.mark.parametrize("dimension", [16, 1408])
    def test_two_ways_to_succeed_give_two_centres(self, noise, size, dimension):
        vectors = two_modes(noise, size, dimension)
        clusters = cluster_successes(vectors)
        assert clusters.count == len(clusters.centres) == 2
        assert sorted(int(centre) % 2 for centre in clusters.centres) == [0, 1]

    def test_a_centre_is_one_of_the_successes_and_not_a_mean_between_them(self):
        vectors = two_modes(0.01)
        between = vectors[:2].mean(axis=0)
        result = srpo_rewards(
            np.concatenate([vectors, [between, vectors[0] + 0.05, between]]), [1] * 20 + [0] * 3, [0] * 23
        )
        assert result.rewards[21] > result.rewards[20]  # the mean of the successes is not a success
        assert result.clusters_per_task == {0: 2}

    def test_eight_rollouts_of_one_prompt_get_eight_rewards(self):
        generator = np.random.default_rng(1)
        rewards = srpo_rewards(generator.standard_normal((9, 32)), [1] + [0] * 8, [0] * 9).rewards
        assert len(set(rewards.tolist())) == 9


class TestClusters:
    def test_one_mode_is_one_cluster_in_few_and_many_dimensions(self):
        for dimension in (2, 16, 1024):
            vectors = np.random.default_rng(dimension).standard_normal((40, dimension))
            clusters = cluster_successes(vectors)
            largest = np.bincount(clusters.labels[clusters.labels >= 0]).max()
            assert largest >= 34, dimension

    def test_an_outlier_is_noise_and_no_centre(self):
        vectors = np.concatenate([two_modes(0.01, size=8), [np.full(64, 100.0)]])
        clusters = cluster_successes(vectors)
        assert clusters.count == 2 and clusters.labels[-1] == -1 and 16 not in clusters.centres

    def test_few_successes_are_each_a_centre(self):
        for count in range(4):
            clusters = cluster_successes(np.arange(float(count))[:, None])
            assert clusters.centres.tolist() == list(range(count)) and clusters.count == 0

    def test_equal_successes_are_one_cluster(self):
        assert cluster_successes(np.ones((6, 5))).count == 1

    def test_scale_does_not_matter(self):
        vectors = two_modes(0.1)
        for scale in (1e-6, 1e6):
            assert cluster_successes(vectors * scale).labels.tolist() == cluster_successes(vectors).labels.tolist()

    def test_a_node_linked_to_itself_alone_is_in_no_component(self):
        assert linked_components(np.eye(3, dtype=bool)).tolist() == [-1, -1, -1]


BATCHES = st.integers(2, 14).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (n, 3), elements=st.floats(-10, 10, width=32)),
        arrays(np.bool_, n),
        arrays(np.int64, n, elements=st.integers(0, 2)),
        st.permutations(range(n)),
    )
)


def test_the_centre_of_a_pair_does_not_depend_on_the_order_of_the_rollouts():
    # Two pairs of successes; in each the member with the smaller first coordinate is the centre.
    successes = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [10.0, 0.0]])
    failures = np.array([[1.5, 0.0], [5.0, 0.0]])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2], [3, 0, 1, 2]):
        vectors = np.concatenate([successes[order], failures])
        result = srpo_rewards(vectors, [True] * 4 + [False] * 2, [0] * 6)
        assert result.distances[4:] == pytest.approx([1.5, 4.0])
        assert result.clusters_per_task == {0: 2}


class TestProperties:
    @settings(max_examples=150, deadline=None)
    @given(BATCHES, st.floats(0, 1))
    def test_no_failure_reaches_a_success_and_all_is_finite(self, batch, alpha):
        embeddings, successes, tasks, _ = batch
        rewards = srpo_rewards(embeddings, successes, tasks, alpha=alpha).rewards
        assert np.isfinite(rewards).all()
        assert (rewards[successes] == 1).all()
        assert (rewards[~successes] < 1).all() and (rewards[~successes] >= 0).all()
        assert (rewards[~successes] <= np.float32(alpha)).all()

    @settings(max_examples=150, deadline=None)
    @given(BATCHES)
    def test_order_of_the_rollouts_does_not_matter(self, batch):
        embeddings, successes, tasks, order = batch
        # Distinct, generic positions: between exactly equal candidates for a medoid any choice is right.
        embeddings = embeddings + np.sin(np.arange(embeddings.size)).reshape(embeddings.shape)
        permutation = np.array(order)
        direct = srpo_rewards(embeddings, successes, tasks).rewards
        permuted = srpo_rewards(embeddings[permutation], successes[permutation], tasks[permutation]).rewards
        assert permuted == pytest.approx(direct[permutation], abs=1e-6)

    @settings(max_examples=100, deadline=None)
    @given(arrays(np.float64, st.integers(2, 12), elements=st.floats(0, 100)))
    def test_nearer_is_never_worth_less(self, distances):
        rewards = failure_rewards(distances, 0.8)
        order = np.argsort(distances)
        assert (np.diff(rewards[order]) <= 0).all()

    @settings(max_examples=80, deadline=None)
    @given(BATCHES, st.integers(0, 10_000), st.floats(0.01, 100.0))
    def test_scale_and_place_of_the_embeddings_do_not_matter(self, batch, seed, scale):
        """Of embeddings no two distances of which are nearly equal: what is noise depends on how long they are."""
        _, successes, tasks, _ = batch
        generator = np.random.default_rng(seed)
        embeddings, offset = generator.normal(size=(len(tasks), 3)), generator.normal(size=3)
        direct, scaled, moved = (
            srpo_rewards(rows, successes, tasks, noise_tolerance=0.0)
            for rows in (embeddings, scale * embeddings, embeddings + offset)
        )
        for other, factor in ((scaled, scale), (moved, 1.0)):
            assert other.rewards == pytest.approx(direct.rewards, abs=1e-4)
            assert other.clusters_per_task == direct.clusters_per_task
            np.testing.assert_allclose(other.distances / factor, direct.distances, rtol=1e-6, atol=1e-9)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 10_000), min_size=1, max_size=12), st.floats(0, 1))
    def test_failures_scale_with_alpha_and_only_differences_of_distances_count(self, distances, alpha):
        distances = np.array(distances) / 100
        rewards, whole = failure_rewards(distances, alpha), failure_rewards(distances, 1.0)
        assert rewards == pytest.approx(alpha * whole, abs=1e-6)
        assert rewards.dtype == np.float32 and (rewards >= 0).all() and (rewards < 1).all()
        shifted = failure_rewards(distances + 7.0, alpha, 1e-6)
        assert shifted == pytest.approx(failure_rewards(distances, alpha, 1e-6), abs=1e-4)


class TestWhatIsCounted:
    def test_failures_far_from_the_origin_set_the_scale_of_what_is_noise(self):
        """The success is at the origin; two failures are equally far, up to a rounding error of their own size."""
        embeddings = [[0.0, 0.0], [3.0, 4.0], [5.0 + 1e-9, 0.0]]
        rewards = srpo_rewards(embeddings, [1, 0, 0], [0] * 3).rewards
        assert rewards.tolist() == pytest.approx([1, 0.4, 0.4], abs=1e-7)
        assert srpo_rewards(embeddings, [1, 0, 0], [0] * 3, noise_tolerance=0.0).rewards[1] > 0.5

    @pytest.mark.parametrize(("tolerance", "ranked"), [(0.24, True), (0.26, False)])
    def test_noise_is_measured_against_the_longest_embedding(self, tolerance, ranked):
        # Distances 3 and 1 from the success at 1; deviation 1, longest embedding 4.
        rewards = srpo_rewards([[1.0], [4.0], [2.0]], [1, 0, 0], [0] * 3, noise_tolerance=tolerance).rewards
        assert (rewards[1] != rewards[2]) == ranked

    def test_the_share_of_noise_is_of_the_successes(self):
        wins = np.concatenate([two_modes(0.01, size=2), [np.full(64, 100.0)]])
        embeddings = np.concatenate([wins, np.ones((5, 64))])
        result = srpo_rewards(embeddings, [1] * 5 + [0] * 5, [0] * 10)
        assert result.noise_share == pytest.approx(1 / 5)
        assert result.clusters_per_task == {0: 2} and result.centres_per_task == {0: 2}
        assert srpo_rewards(np.ones((2, 3)), [0, 0], [0, 0]).noise_share == 0.0
        both = srpo_rewards(np.concatenate([wins, np.eye(2, 64)]), [1] * 7, [0] * 5 + [1] * 2)
        assert both.noise_share == pytest.approx(3 / 7), "the two that are too few to cluster are noise as well"

    def test_invalid_successes_and_failures_are_counted_apart(self):
        rows = [[0.0], [np.nan], [np.inf], [np.nan], [1.0]]
        result = srpo_rewards(rows, [1, 1, 0, 0, 0], [0] * 5, invalid="zero")
        assert (result.invalid_successes, result.invalid_failures) == (1, 2)

    def test_an_error_counts_those_that_are_not_finite(self):
        with pytest.raises(RewardError, match=r"rollout 1 holds NaN or infinity \(2 of 3 rollouts do\)"):
            srpo_rewards([[0.0], [np.nan], [np.inf]], [1, 0, 0], [0] * 3)

    def test_a_demonstration_s_length_does_not_matter_under_the_cosine_either(self):
        demonstrations = {0: np.array([[0.0, 70.0]])}
        result = srpo_rewards([[3.0, 0.0], [0.0, 2.0]], [0, 0], [0, 0], metric="cosine", demonstrations=demonstrations)
        assert result.distances.tolist() == pytest.approx([math.sqrt(2), 0.0])
        zero = srpo_rewards([[0.0, 0.0], [0.0, 2.0]], [1, 0], [0, 0], metric="cosine")
        assert zero.distances[1] == pytest.approx(1.0), "a row of zeros stays where it is"
        short = srpo_rewards([[0.1, 0.0], [0.0, 0.2]], [1, 0], [0, 0], metric="cosine")
        assert short.distances[1] == pytest.approx(math.sqrt(2)), "those shorter than 1 are scaled as well"

    def test_a_demonstration_s_length_matters_under_the_euclidean_distance(self):
        result = srpo_rewards([[1.0], [3.0]], [0, 0], [0, 0], demonstrations={0: np.array([[4.0]])})
        assert result.distances.tolist() == [3.0, 1.0] and result.rewards.dtype == np.float32


class TestRadius:
    def test_it_is_half_as_much_again_as_neighbours_are_apart_and_an_outlier_has_no_say(self):
        """Five rows: the quantile 0.9 lies between the fourth distance and the outlier's; the lower one counts."""
        rows = np.array([[0.0], [1.0], [2.0], [3.0], [100.0]])
        clusters = cluster_successes(rows)
        assert clusters.radius == pytest.approx(1.5)
        assert clusters.labels.tolist() == [0, 0, 0, 0, -1] and clusters.count == 1
        assert clusters.centres.tolist() == [1]

    def test_pairs_at_the_radius_are_joined_and_those_beyond_are_not(self):
        # Neighbours 1 apart: rows are joined up to 1.5.
        rows = np.array([[0.0], [1.0], [2.5], [3.5], [5.1], [6.1]])
        assert cluster_successes(rows).labels.tolist() == [0, 0, 0, 0, 1, 1]

    def test_three_are_too_few_and_four_are_not(self):
        rows = np.array([[0.0], [1.0], [10.0], [11.0]])
        assert cluster_successes(rows[:3]).radius == 0.0 and cluster_successes(rows[:3]).count == 0
        assert cluster_successes(rows).labels.tolist() == [0, 0, 1, 1]
        assert cluster_successes(rows[:3], minimum_size=3).radius == pytest.approx(1.5)
        assert cluster_successes(rows, minimum_size=5).count == 0

    def test_the_centre_is_the_member_with_the_least_distance_to_the_others(self):
        rows = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.4]])
        assert cluster_successes(rows).centres.tolist() == [2]

    def test_components_are_numbered_without_a_gap_where_nodes_are_alone(self):
        linked = np.eye(5, dtype=bool)
        linked[1, 3] = linked[3, 1] = linked[2, 4] = linked[4, 2] = True
        assert linked_components(linked).tolist() == [-1, 0, 1, 0, 1]
        assert linked_components(np.ones((2, 2), dtype=bool)).tolist() == [0, 0]


def test_what_a_batch_is_said_to_hold_by_hand() -> None:
    """Task 0: four successes in two places two apart, and a failure. Task 1: two failures. Task 2: one success."""
    places = [[0.0], [0.1], [9.0], [9.1], [4.0], [0.0], [1.0], [5.0]]
    won = [True, True, True, True, False, False, False, True]
    tasks = [0, 0, 0, 0, 0, 1, 1, 2]
    model = make_reward("srpo", RewardParts(ProprioceptionEmbedding(2)))
    arrays = np.array(places, np.float32), np.array(won), np.array(tasks)
    found = model.score(*arrays, np.arange(8))
    assert found.metrics["reward/clusters"] == pytest.approx(2 / 3), "two of task 0, none of the others"
    assert found.metrics["reward/centres"] == pytest.approx((2 + 0 + 1) / 3)
    assert found.metrics["reward/noise_share"] == pytest.approx(1 / 5), "task 2's only success"
    assert found.metrics["reward/tasks_without_success"] == 1.0
    assert found.metrics["reward/invalid_embeddings"] == 0.0
    assert found.metrics["reward/failure_mean"] == pytest.approx((0.4 + 0 + 0) / 3)
