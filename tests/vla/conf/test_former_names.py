"""Who writes a former name, or what other software calls a setting, is told the name that works."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.pretraining.pretrain import PretrainConfig
from vla.cli import _load, main
from vla.commands import CONFIGURED
from vla.conf import former_names
from vla.conf.compose import compose_config
from vla.conf.former_names import (
    FORMER_CHOICES,
    FORMER_METHODS,
    FORMER_SETTINGS,
    OTHER_NAMES,
    explain_choice,
    explain_setting,
)
from vla.conf.schema import fields_of
from vla.errors import ReflexError
from vla.rl.config import TrainConfig


def all_settings() -> dict[str, dict[str, Any]]:
    """Dotted setting -> its type, of each command and of the pretraining script."""
    classes = {name: _load(entry.config) for name, entry in CONFIGURED.items()} | {"pretraining": PretrainConfig}
    return {name: {info.key: info.annotation for info in fields_of(found)} for name, found in classes.items()}


def test_every_new_name_exists_and_no_former_one_does() -> None:
    known = {name for settings in all_settings().values() for name in settings}
    of_methods = {name for name in FORMER_SETTINGS.values() if name.startswith("algo.settings.")}
    assert set(FORMER_SETTINGS.values()) - of_methods <= known
    assert not known & {*FORMER_SETTINGS, *FORMER_METHODS}
    assert {name for ours in OTHER_NAMES.values() for name in ours} <= known


def written(advice: str, value: str) -> list[str]:
    """What a piece of advice says to write, as overrides."""
    return [word for word in advice.format(value=value).split() if "=" in word]


@pytest.mark.parametrize(
    ("former", "value"),
    [
        ("algo.alpha", "0.5"), ("algo.critic_decay", "0.5"), ("algo.critic_window", "4"), ("algo.implicit_beta", "0.1"),
        ("algo.likely_success_margin", "0.1"), ("algo.metric", "cosine"), ("algo.minimum_deviation", "0.1"),
        ("algo.pacs_beta", "2.0"), ("algo.step_tolerance", "0.2"), ("algo.step_weight", "0.2"),
        ("algo.success_age", "3"), ("algo.demonstration_starts", "0.5"), ("algo.difficulty_weight", "true"),
        ("algo.kl_demonstrations", "30"), ("algo.likely_success_bonus", "0.5"),
        ("algo.pay_failures", "without_success"), ("algo.reference_scope", "batch"), ("algo.replay", "16"),
        ("algo.step_credit", "shared"), ("algo.success_bank", "16"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_former_method_works(former: str, value: str) -> None:
    """With the method of a setting chosen as well, where only the setting's new name is said."""
    now = FORMER_SETTINGS.get(former)
    if now is None:
        overrides = written(FORMER_METHODS[former], value)
    else:
        method = now.split(".")[2]
        kind = {"srpo": "reward", "success_bank": "reward", "critic": "advantage", "pacs": "advantage"}
        chosen = kind.get(method, "advantage" if method == "group_mean" else "variants")
        overrides = [f"algo.{chosen}=" + (f"[{method}]" if chosen == "variants" else method), f"{now}={value}"]
    beside = {
        "algo.demonstration_starts": ["demonstrations=a/dataset"],
        "algo.kl_demonstrations": ["algo.kl_coefficient=1"],
    }
    needed = beside.get(former, [])
    config = compose_config("train", TrainConfig, overrides + needed).build()
    assert config != compose_config("train", TrainConfig, needed).build()


def test_every_former_method_is_tried_above() -> None:
    (mark,) = (mark for mark in test_what_is_said_of_a_former_method_works.pytestmark if mark.name == "parametrize")
    methods = {name for name, now in FORMER_SETTINGS.items() if now.startswith("algo.settings.")} | set(FORMER_METHODS)
    assert {former for former, _ in mark.args[1]} == methods


def test_every_new_choice_works_and_no_former_one_does() -> None:
    for setting, choices in FORMER_CHOICES.items():
        for former, now in choices.items():
            compose_config("train", TrainConfig, now.split() if "=" in now else [f"{setting}={now}"]).build()
            with pytest.raises(ReflexError, match=f"{setting}={former} is now"):
                compose_config("train", TrainConfig, [f"{setting}={former}"])


@pytest.mark.parametrize("command", sorted(CONFIGURED))
def test_every_command_answers_a_former_name_with_the_new_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = all_settings()[command]
    for former, now in FORMER_SETTINGS.items():
        if now in settings or ("algo.settings" in settings and now.startswith("algo.settings.")):
            assert main([*command.split(), f"{former}=2"]) == 2
            assert capsys.readouterr().err == f"vla: vla {command}: {former} is now {now}: write {now}=2\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train lr=1e-4", "lr is called algo.learning_rate here"),
        ("train algo.lr=1e-4", "algo.lr is called algo.learning_rate here"),
        ("sft lr=1e-4", "lr is called learning_rate here"),
        ("sft max_steps=10", "max_steps is called steps here"),
        ("train max_steps=10", "max_steps is called iterations or max_minutes here"),
        ("demo max_steps=10", "max_steps is called fine_tune_steps or train_minutes here"),
        ("sft epochs=2", "epochs is called steps here"),
        ("train epochs=2", "epochs is called iterations or algo.update_epochs here"),
        ("train batch_size=8", "batch_size is called algo.minibatch_size or num_slots here"),
        ("eval batch_size=8", "batch_size is called num_slots here"),
        ("train num_envs=8", "num_envs is called num_slots or num_workers here"),
        ("collect n_envs=8", "n_envs is called num_workers here"),
        ("eval workers=8", "workers is called num_workers here"),
        ("audit out=x", "out is called output here"),
        ("sft num_train_epochs=3", "num_train_epochs is called steps here"),
        ("sft per_device_train_batch_size=8", "per_device_train_batch_size is called batch_size here"),
        ("sft dataset.repo_id=a/b", "dataset.repo_id is called dataset here"),
        ("train temperature=1", "temperature is called algo.sampling.temperature here"),
        ("train n_envs=8", "n_envs is called num_slots or num_workers here"),
        ("train total_steps=8", "total_steps is called iterations or max_minutes here"),
        ("eval n_eval_episodes=8", "n_eval_episodes is called episodes_per_task here"),
        ("eval task_id=8", "task_id is called tasks here"),
        ("train run_name=a", "run_name is called output here"),
        ("libero pack output_dir=x", "output_dir is called output here"),
        ("eval model=x", "model is called policy here"),
        ("train checkpoint=x", "checkpoint is called policy here"),
        ("collect env=libero_10", "env is called suite here"),
    ],
)
def test_what_others_call_a_setting(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    assert f"{said}\n" in capsys.readouterr().err


def test_a_name_that_a_command_lacks_is_answered_as_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["libero", "pack", "torch_threads=2"]) == 2
    assert "has no field 'torch_threads'" in capsys.readouterr().err
    assert explain_setting("lr", "1", {"seed"}) is None


def test_a_former_choice_is_answered_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(former_names.FORMER_CHOICES, "algo.aggregation", {"rollout": "episode"})
    assert main(["train", "algo.aggregation=rollout"]) == 2
    assert "vla train: algo.aggregation=rollout is now algo.aggregation=episode\n" in capsys.readouterr().err
    assert explain_choice("algo.aggregation", "token") is None and explain_choice("seed", "rollout") is None
