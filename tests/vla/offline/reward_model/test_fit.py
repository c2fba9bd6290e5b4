"""A reward fitted to preferences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.vla.offline.reward_model.moments import make_moments
from vla.errors import ReflexError
from vla.offline.reward_model.fit import FitSettings, fit, held_out_pairs
from vla.rewards.models.ensemble import EnsembleShape, RewardEnsemble

QUICK = FitSettings(hidden=32, max_epochs=30, learning_rate=3e-3)


def test_it_finds_the_order_behind_the_labels() -> None:
    moments = make_moments(0)
    ensemble = fit(moments.features, moments.pairs, moments.answers, moments.episodes, QUICK)
    scores = ensemble.score_features(moments.features)
    assert scores.shape == (3, len(moments.features))
    assert spearmanr(scores.mean(axis=0), moments.progress).statistic > 0.95
    assert ensemble.record["held_out_accuracy"] > 0.85
    assert not np.allclose(scores[0], scores[1])  # members began differently


def test_the_same_seed_gives_the_same_reward_and_another_does_not() -> None:
    moments = make_moments(1)
    data = (moments.features, moments.pairs, moments.answers, moments.episodes)
    first, again, other = (fit(*data, QUICK, seed).mean_score(moments.features) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_of_a_held_out_episode_is_fitted_to() -> None:
    moments = make_moments(2)
    held = held_out_pairs(moments.pairs[..., None], moments.episodes, 0.2, np.random.default_rng(0))
    fitted_episodes = set(moments.episodes[moments.pairs[~held]].ravel())
    assert len(fitted_episodes) == 24
    touching = ~np.isin(moments.episodes[moments.pairs], list(fitted_episodes)).all(axis=1)
    assert np.array_equal(held, touching)


def test_knowing_the_error_rate_helps_where_labels_are_wrong() -> None:
    found = {}
    for rate in (0.0, 0.3):
        settings = FitSettings(hidden=32, max_epochs=30, learning_rate=3e-3, error_rate=rate)
        fits = [make_moments(seed, 0.3, pairs=1500) for seed in range(3)]
        found[rate] = np.mean(
            [
                spearmanr(
                    fit(one.features, one.pairs, one.answers, one.episodes, settings).mean_score(one.features),
                    one.progress,
                ).statistic
                for one in fits
            ]
        )
    assert found[0.3] > found[0.0]


def test_it_stops_where_held_out_episodes_are_no_longer_predicted_better() -> None:
    moments = make_moments(3, 0.4)
    settings = FitSettings(hidden=32, learning_rate=1e-2, patience=3)
    record = fit(moments.features, moments.pairs, moments.answers, moments.episodes, settings).record
    assert record["epochs"] == max(record["best_epoch"]) + 3
    assert record["epochs"] < settings.max_epochs


def test_members_are_the_networks_they_would_be_alone() -> None:
    for shape, inputs in (
        (EnsembleShape("mlp", 2, (7,), 16), torch.randn(2, 5, 7)),
        (EnsembleShape("cnn", 2, (48, 64, 3)), torch.randint(0, 256, (2, 5, 48, 64, 3), dtype=torch.uint8)),
    ):
        ensemble = RewardEnsemble(shape, shape.build())
        alone_shape = EnsembleShape(shape.network, 1, shape.inputs, shape.hidden)
        for member in range(2):
            alone = RewardEnsemble(alone_shape, alone_shape.build())
            state = ensemble.network.state_dict()
            shared = {"mean", "deviation"}
            alone.network.load_state_dict(
                {name: value if name in shared else value[member : member + 1] for name, value in state.items()}
            )
            expected = alone.forward(inputs[member : member + 1])[0]
            assert torch.allclose(ensemble.forward(inputs)[member], expected, atol=1e-5)


def test_pictures_are_ordered_by_the_papers_network() -> None:
    generator = np.random.default_rng(0)
    progress = np.tile(np.linspace(0, 1, 8), 10)
    pictures = generator.integers(0, 60, (80, 48, 48, 3), dtype=np.uint8)
    for picture, place in zip(pictures, progress, strict=True):
        picture[: 8 + int(32 * place), 20:28] = 255
    pairs = generator.integers(0, 80, (200, 2))
    answers = np.where(progress[pairs[:, 0]] == progress[pairs[:, 1]], 2, progress[pairs[:, 1]] > progress[pairs[:, 0]])
    settings = FitSettings(network="cnn", members=2, max_epochs=12, learning_rate=2e-3)
    ensemble = fit(pictures, pairs, answers.astype(np.int64), np.repeat(np.arange(10), 8), settings)
    scores = ensemble.mean_score(pictures)
    assert np.abs(scores).max() <= 1
    assert spearmanr(scores, progress).statistic > 0.9


def test_segments_are_compared_by_return_or_by_advantage() -> None:
    moments = make_moments(5)
    starts = np.random.default_rng(5).integers(0, 15, (800, 2)) + 20 * np.random.default_rng(6).integers(
        0, 30, (800, 2)
    )
    segments = starts[..., None] + np.arange(5)
    for objective, truth in (
        ("return", moments.progress[segments].sum(-1)),
        ("advantage", moments.progress[segments[..., -1]] - moments.progress[segments[..., 0]]),
    ):
        answers = (truth[:, 1] > truth[:, 0]).astype(np.int64)
        settings = FitSettings(hidden=32, max_epochs=30, learning_rate=3e-3, objective=objective)  # type: ignore[arg-type]
        ensemble = fit(moments.features, segments, answers, moments.episodes, settings)
        assert ensemble.record["held_out_accuracy"] > 0.8
        assert spearmanr(ensemble.mean_score(moments.features), moments.progress).statistic > 0.85


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": np.zeros((0, 2), np.int64), "answers": np.zeros(0, np.int64)}, "no pair with an answer"),
        ({"pairs": np.full((600, 2), 10_000)}, "names row 10000"),
        ({"answers": np.zeros(3, np.int64)}, "must be"),
        ({"episodes": np.zeros(600, np.int64)}, "leaves no pair"),
        ({"episodes": np.zeros(3, np.int64)}, "as many episode numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    moments = make_moments(0)
    data = {name: getattr(moments, name) for name in ("features", "pairs", "answers", "episodes")} | change
    with pytest.raises(ReflexError, match=message):
        fit(**data, settings=QUICK)


def test_a_feature_that_is_not_finite_is_named() -> None:
    moments = make_moments(0)
    moments.features[7, 2] = np.nan
    with pytest.raises(ReflexError, match="row 7 of the features is not finite"):
        fit(moments.features, moments.pairs, moments.answers, moments.episodes, QUICK)


def test_a_model_asked_about_other_features_says_so() -> None:
    shape = EnsembleShape("mlp", 1, (4,), 8)
    ensemble = RewardEnsemble(shape, shape.build())
    with pytest.raises(ReflexError, match=r"rows of shape \[4\] and is given \[5\]"):
        ensemble.score_features(np.zeros((2, 5), np.float32))
    assert ensemble.score_features(np.zeros((0, 4), np.float32)).shape == (1, 0)
