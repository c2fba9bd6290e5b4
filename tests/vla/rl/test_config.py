"""Configuration values are checked, and the message names field and range."""

from __future__ import annotations

import pytest

from tests.vla.rl.helpers import training_parts
from vla.errors import ReflexError
from vla.policies.sampling import GREEDY, Sampling
from vla.rewards.srpo import SrpoReward
from vla.rl.config import AlgoConfig, TrainConfig
from vla.rl.parts import make_variants
from vla.run.plugins import settings_of


@pytest.mark.parametrize("variant", ["salt", "step_progress", "oprl", "grpo_care"])
def test_what_a_critic_makes_pointless_is_refused(variant):
    with pytest.raises(ReflexError, match=rf"algo\.variants has {variant}, but the critic"):
        AlgoConfig(advantage="critic", variants=[variant])


def test_references_kept_by_task_need_that_scope():
    banked = {"reference_scope": {"reward": "success_bank"}}
    for settings, demonstrations in ((banked, None), ({}, "datasets/demos")):
        with pytest.raises(ReflexError, match=r"algo\.reward=reference_scope compares within a group"):
            TrainConfig(algo=AlgoConfig(reward="reference_scope", settings=settings), demonstrations=demonstrations)


def test_starts_along_demonstrations_need_some():
    with pytest.raises(ReflexError, match="no demonstration to go on from"):
        TrainConfig(algo=AlgoConfig(variants=["demonstration_starts"]))


def test_the_pull_to_the_starting_policy_weakens_with_its_demonstrations():
    name = "demonstration_regularisation"
    algo = AlgoConfig(kl_coefficient=0.3, variants=[name], settings={name: {"demonstrations": 30}})
    (variant,) = make_variants(training_parts(algo))
    assert variant.kl_weight(algo.kl_coefficient) == pytest.approx(0.01)
    with pytest.raises(ReflexError, match=r"needs algo\.kl_coefficient"):
        AlgoConfig(variants=[name])


def test_defaults_are_valid_and_the_reward_is_the_only_difference():
    assert TrainConfig().algo.reward == "srpo"
    assert AlgoConfig(reward="binary") != AlgoConfig()


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("reward", "spro", "did you mean 'srpo'.*binary, calibrated"),
        ("group_size", 1, "at least 2"),
        ("groups_per_iteration", 0, "at least 1"),
        ("learning_rate", float("nan"), "positive"),
        ("learning_rate", float("inf"), "positive"),
        ("clip_low", 1.2, r"\[0, 1\]"),
        ("dual_clip", 1.1, r"1 \+ clip_high"),
        ("aggregation", "mean", "token, episode"),
        ("initial_states", "gate", "uncertain, even"),
        ("target_kl", -1.0, "positive"),
        ("kl_coefficient", -0.1, "at least 0"),
        ("micro_batch_size", 0, "at least 1"),
        ("negative_weight", 2.0, r"\[0, 1\]"),
        ("advantage", "gae", "critic, group_mean, lite_ppo, pacs, raft, rloo"),
        ("advantage", "salt", "critic, group_mean"),
        ("variants", ["salt", "salt"], "name each once"),
    ],
)
def test_bad_algorithm_value_names_the_field_and_what_would_be_right(field, value, advice):
    with pytest.raises(ReflexError, match=rf"algo\.{field} is .*{advice}"):
        AlgoConfig(**{field: value})


@pytest.mark.parametrize(
    ("algo", "advice"),
    [
        ({"settings": {"srpo": {"alpha": 1.5}}}, r"alpha is 1\.5; it must lie in \[0, 1\]"),
        ({"settings": {"srpo": {"metric": "manhattan"}}}, r"algo\.settings\.srpo\.metric is .*euclidean, cosine"),
        ({"settings": {"srpo": {"alpa": 0.5}}}, r"algo\.settings\.srpo\.alpa does not exist \(did you mean 'alpha'"),
        ({"settings": {"salt": {"tolerance": 1.0}}}, r"algo\.settings\.salt has no use"),
        (
            {"variants": ["salt"], "settings": {"salt": {"tolerance": "far"}}},
            "is 'far'; it must be a number",
        ),
        ({"variants": ["salt"], "settings": {"salt": {"tolerance": -1}}}, r"tolerance is -1; it must be at least 0"),
        ({"variants": ["oprl"], "settings": {"oprl": {"beta": 0.0}}}, "beta is 0.0; it must be a positive number"),
        ({"variants": ["step_progress"], "settings": {"step_progress": {"weight": -0.5}}}, "at least 0"),
        ({"advantage": "pacs", "settings": {"pacs": {"beta": 0.0}}}, "positive"),
        ({"advantage": "critic", "settings": {"critic": {"decay": 1.5}}}, r"lie in \[0, 1\]"),
        ({"advantage": "critic", "settings": {"critic": {"window": 0}}}, "at least 1"),
        ({"variants": ["webrl"]}, "webrl_gate, webrl_replay"),
        ({"variants": ["no.such.module:Thing"]}, r"algo\.variants: 'no\.such\.module:Thing' cannot be imp"),
        ({"reward": "vla.errors:ReflexError"}, "no subclass of vla.rewards.reward.Reward"),
        (
            {"reward": "without_success", "settings": {"without_success": {"reward": "without_success"}}},
            "made of itself",
        ),
    ],
)
def test_a_wrong_method_or_setting_of_one_names_it_and_what_would_be_right(algo, advice):
    with pytest.raises(ReflexError, match=advice):
        AlgoConfig(**algo)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("token_noise", -1.0), ("chunk_correlation", 1.0), ("flow_noise", -0.5)],
)
def test_bad_sampling_is_named(field, value):
    with pytest.raises(ReflexError, match=rf"sampling\.{field} is "):
        Sampling(**{field: value})


def test_greedy_rollouts_cannot_be_learnt_from():
    with pytest.raises(ReflexError, match=r"algo\.sampling\.temperature is 0, which is greedy"):
        AlgoConfig(sampling=GREEDY)


def test_a_whole_number_is_the_real_one_it_stands_for():
    algo = AlgoConfig(settings={"srpo": {"alpha": 1}})
    made = settings_of(SrpoReward, "srpo", algo.settings)
    assert made == SrpoReward.Settings(alpha=1.0) and isinstance(made.alpha, float)


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("tasks", [], "at least one task"),
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
    with pytest.raises(ReflexError, match=rf"{field} is .*{advice}"):
        TrainConfig(**{field: value})


def test_a_target_needs_evaluations():
    with pytest.raises(ReflexError, match="evaluate_every"):
        TrainConfig(target_success=0.9, evaluate_every=0)
