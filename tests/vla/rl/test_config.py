"""Configuration values are checked, and the message names field and range."""

from __future__ import annotations

import pytest

from vla.rl.config import AlgoConfig, ConfigError, TrainConfig


def test_what_a_critic_makes_pointless_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.step_credit is 'shared', but the critic"):
        AlgoConfig(advantage="critic", step_credit="shared")
    with pytest.raises(ConfigError, match=r"algo\.likely_success_bonus is 0\.5, but the critic"):
        AlgoConfig(advantage="critic", likely_success_bonus=0.5)


def test_references_kept_by_task_need_that_scope():
    with pytest.raises(ConfigError, match=r"algo\.reference_scope is 'group'; a success bank"):
        AlgoConfig(reference_scope="group", success_bank=4)
    with pytest.raises(ConfigError, match=r"algo\.reference_scope is 'batch', but demonstrations"):
        TrainConfig(algo=AlgoConfig(reference_scope="batch"), demonstrations="datasets/demos")


def test_the_pull_to_the_starting_policy_weakens_with_its_demonstrations():
    assert AlgoConfig(kl_coefficient=0.3).kl_weight == 0.3
    assert AlgoConfig(kl_coefficient=0.3, kl_demonstrations=30).kl_weight == pytest.approx(0.01)


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
        ("advantage", "gae", "critic, grpo, lite_ppo, pacs, raft, rloo"),
        ("step_credit", "both", "none, progress, shared"),
        ("step_weight", -0.5, "at least 0"),
        ("pacs_beta", 0.0, "positive"),
        ("kl_demonstrations", 0, "at least 1"),
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
