"""Configuration values are checked, and the message names field and range."""

from __future__ import annotations

import pytest

from vla.rl.config import AlgoConfig, ConfigError, TrainConfig


def test_defaults_are_valid_and_the_reward_is_the_only_difference():
    assert TrainConfig().algo.reward == "srpo"
    assert AlgoConfig(reward="binary") != AlgoConfig()


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("reward", "spro", "binary, calibrated, siirl, srpo"),
        ("alpha", 1.5, r"\[0, 1\]"),
        ("group_size", 1, "at least 2"),
        ("groups_per_iteration", 0, "at least 1"),
        ("temperature", 0.0, "positive"),
        ("learning_rate", float("nan"), "positive"),
        ("learning_rate", float("inf"), "positive"),
        ("clip_low", 1.2, r"\[0, 1\]"),
        ("dual_clip", 1.1, r"1 \+ clip_high"),
        ("aggregation", "mean", "episode, token"),
        ("target_kl", -1.0, "positive"),
        ("kl_coefficient", -0.1, "at least 0"),
        ("micro_batch_size", 0, "at least 1"),
        ("negative_weight", 2.0, r"\[0, 1\]"),
        ("token_noise", -1.0, "at least 0"),
    ],
)
def test_bad_algorithm_value_names_the_field_and_what_would_be_right(field, value, advice):
    with pytest.raises(ConfigError, match=rf"algo\.{field} is .*{advice}"):
        AlgoConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("tasks", [], "null for all"),
        ("tasks", [1, 1], "each task once"),
        ("iterations", 0, "at least 1"),
        ("policy", "", "give it a value"),
        ("max_minutes", 0.0, "positive"),
        ("target_success", 1.5, r"\[0, 1\]"),
        ("num_workers", -1, "at least 0"),
        ("seed", -1, "at least 0"),
    ],
)
def test_bad_run_value_names_the_field_and_what_would_be_right(field, value, advice):
    with pytest.raises(ConfigError, match=rf"{field} is .*{advice}"):
        TrainConfig(**{field: value})


def test_a_target_needs_evaluations():
    with pytest.raises(ConfigError, match="evaluate_every"):
        TrainConfig(target_success=0.9, evaluate_every=0)
