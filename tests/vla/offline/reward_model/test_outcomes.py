"""Reward models that need no label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from vla.errors import ReflexError
from vla.offline.reward_model.outcomes import (
    OutcomeSettings,
    Timeline,
    counterexamples,
    fit_goals,
    fit_value,
    future_pairs,
    nearest_success,
    outcome_pairs,
)
from vla.offline.reward_model.training import FitSettings

QUICK = FitSettings(hidden=32, max_epochs=12, learning_rate=5e-3)
FEW = OutcomeSettings(draws=800, discount=0.9, future_steps=3)
LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=6)


def timeline_of(episodes: list[tuple[int, bool]]) -> Timeline:
    lengths = [length for length, _ in episodes]
    return Timeline(np.repeat(np.arange(len(episodes)), lengths), np.array([won for _, won in episodes]))


def scene(seed: int) -> tuple[np.ndarray, Timeline, np.ndarray]:
    """Features [N, F] in which progress is hidden, the timeline, and progress [N]; failures stop half-way."""
    generator = np.random.default_rng(seed)
    won = generator.random(30) < 0.5
    progress = np.concatenate([np.linspace(0, 1 if one else generator.uniform(0.1, 0.5), 15) for one in won])
    timeline = timeline_of([(15, bool(one)) for one in won])
    hidden = np.stack([3 * progress, *(generator.normal(size=30)[timeline.episodes] for _ in range(3))], axis=1)
    return np.tanh(hidden @ generator.normal(size=(4, 12)) / 4).astype(np.float32), timeline, progress


def test_values_by_hand() -> None:
    timeline = timeline_of([(3, True), (2, False)])
    assert timeline.first.tolist() == [0, 3]
    assert timeline.last.tolist() == [2, 4]
    assert timeline.values(0.5).tolist() == [0.25, 0.5, 1, 0, 0]


@given(LENGTHS, st.integers(0, 1000))
def test_the_second_of_a_pair_is_later_in_a_success_or_its_end_against_a_failure(
    episodes: list[tuple[int, bool]], seed: int
) -> None:
    if not any(won for _, won in episodes):
        with pytest.raises(ReflexError, match="succeeded"):
            timeline_of(episodes)
        return
    timeline = timeline_of(episodes)
    if all(won for _, won in episodes) and all(length == 1 for length, _ in episodes):
        with pytest.raises(ReflexError, match="one moment"):
            outcome_pairs(timeline, 20, np.random.default_rng(seed))
        return
    for worse, better in outcome_pairs(timeline, 20, np.random.default_rng(seed)).tolist():
        assert timeline.successes[timeline.episodes[better]]
        if timeline.episodes[worse] == timeline.episodes[better]:
            assert worse < better
        else:
            assert not timeline.successes[timeline.episodes[worse]]
            assert better == timeline.last[timeline.episodes[better]]


@given(LENGTHS.filter(lambda episodes: any(won for _, won in episodes)), st.integers(0, 1000))
def test_a_later_moment_is_of_the_same_success(episodes: list[tuple[int, bool]], seed: int) -> None:
    timeline = timeline_of(episodes)
    pairs = future_pairs(timeline, 20, 3.0, np.random.default_rng(seed))
    assert (timeline.episodes[pairs[:, 0]] == timeline.episodes[pairs[:, 1]]).all()
    assert timeline.successes[timeline.episodes[pairs[:, 0]]].all()
    ends = timeline.last[timeline.episodes[pairs[:, 0]]]
    assert ((pairs[:, 1] > pairs[:, 0]) | (pairs[:, 0] == ends)).all()


@pytest.mark.parametrize("method", [fit_value, fit_goals])
def test_progress_is_found_without_labels(method: object) -> None:
    features, timeline, progress = scene(0)
    ensemble = method(features, timeline, QUICK, FEW)  # type: ignore[operator]
    scores = ensemble.mean_score(features)
    assert ensemble.score_features(features).shape == (3, len(features))
    ends, won = scores[timeline.last], timeline.successes
    assert (ends[won][:, None] > ends[~won][None]).mean() > 0.9
    of_successes = np.flatnonzero(won[timeline.episodes])
    assert spearmanr(scores[of_successes], progress[of_successes]).statistic > 0.7


def test_a_value_is_the_discounted_outcome() -> None:
    features, timeline, _ = scene(1)
    ensemble = fit_value(features, timeline, QUICK, OutcomeSettings(draws=800, discount=0.9, value_weight=10))
    said = 1 / (1 + np.exp(-ensemble.mean_score(features)))
    truth = timeline.values(0.9)
    late = truth > 0.8
    assert said[late].mean() - said[~late & (truth == 0)].mean() > 0.5


def test_distance_to_the_nearest_success_by_hand() -> None:
    features = np.array([[0, 0], [3, 4], [0, 0], [3, 8]], np.float32)
    ensemble = nearest_success(features, timeline_of([(2, True), (2, False)]))
    assert ensemble.score_features(features)[0].tolist() == [-5, 0, -5, -4]


def test_counterexamples_are_of_the_same_episode_and_of_failures() -> None:
    timeline = timeline_of([(4, True), (3, False), (5, True)])
    pairs = np.array([[1, 3], [8, 9]])
    others = counterexamples(timeline, pairs, np.random.default_rng(0))
    assert others.shape == (2, 8)
    assert (timeline.episodes[others[:, :4]] == np.array([[0], [2]])).all()
    assert (timeline.episodes[others[:, 4:]] == 1).all()


def test_one_success_leaves_nothing_to_hold_out() -> None:
    features = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    with pytest.raises(ReflexError, match="leaves no pair"):
        fit_goals(features, timeline_of([(10, True)]), FitSettings(hidden=8), FEW)
