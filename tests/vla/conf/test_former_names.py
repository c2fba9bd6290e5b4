"""Who writes a former name, or what other software calls a setting, is told the name that works."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from scripts.pretraining.pretrain import PretrainConfig
from vla.cli import CONFIGURED, _load, main
from vla.conf import former_names
from vla.conf.former_names import FORMER_CHOICES, FORMER_SETTINGS, OTHER_NAMES, explain_choice, explain_setting
from vla.conf.schema import fields_of
from vla.run.settings import strip_optional


def all_settings() -> dict[str, dict[str, Any]]:
    """Dotted setting -> its type, of each command and of the pretraining script."""
    classes = {name: _load(entry.config) for name, entry in CONFIGURED.items()} | {"pretraining": PretrainConfig}
    return {name: {info.key: info.annotation for info in fields_of(found)} for name, found in classes.items()}


def test_every_new_name_exists_and_no_former_one_does() -> None:
    known = {name for settings in all_settings().values() for name in settings}
    assert set(FORMER_SETTINGS.values()) <= known
    assert not known & set(FORMER_SETTINGS)
    assert {name for ours in OTHER_NAMES.values() for name in ours} <= known


def test_every_new_choice_exists_and_no_former_one_does() -> None:
    for setting, choices in FORMER_CHOICES.items():
        allowed = [
            set(get_args(strip_optional(settings[setting])[0]))
            for settings in all_settings().values()
            if setting in settings
        ]
        assert allowed, f"no command has {setting}"
        for one in allowed:
            assert set(choices.values()) <= one and not set(choices) & one


@pytest.mark.parametrize("command", sorted(CONFIGURED))
def test_every_command_answers_a_former_name_with_the_new_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = all_settings()[command]
    for former, now in FORMER_SETTINGS.items():
        if now in settings:
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
    monkeypatch.setitem(former_names.FORMER_CHOICES, "algo.metric", {"l2": "euclidean"})
    assert main(["train", "algo.metric=l2"]) == 2
    assert "vla train: algo.metric=l2 is now algo.metric=euclidean\n" in capsys.readouterr().err
    assert explain_choice("algo.metric", "cosine") is None and explain_choice("seed", "l2") is None
