"""Values as people type them: text stays text, `~` is home, numbers may be written in any way, in every command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from vla.cli import _load
from vla.commands import CONFIGURED
from vla.conf.compose import compose_config
from vla.conf.overrides import is_text, read_text, spell_value
from vla.conf.schema import fields_of
from vla.errors import ReflexError
from vla.run.settings import strip_optional

AS_TYPED = ["1e-3", "007", "true", "lr=1e-3,seed=0", "my data (1)", "a[0]{b}", "a:b", "12:30", "$5", "a\\b", "é"]

GIVEN = {
    "model": "m", "dataset": "d", "output": "o", "suite": "libero_spatial", "demonstrations": "f", "labels": "l",
    "reward": "r", "models": "[m]", "start": "s",
}  # fmt: skip


def settings(command: str) -> Any:
    return _load(CONFIGURED[command].config)


def commands_with(setting: str) -> list[str]:
    return sorted(name for name in CONFIGURED if setting in get_type_hints(settings(name)))


def composed(command: str, *overrides: str) -> Any:
    """The configuration of a command, with what has no default filled in."""
    hints = get_type_hints(settings(command))
    named = {override.partition("=")[0] for override in overrides}
    filled = [f"{name}={value}" for name, value in GIVEN.items() if name in hints and name not in named]
    return compose_config(command, settings(command), [*filled, *overrides]).build()


@pytest.mark.parametrize("text", AS_TYPED)
def test_text_stays_as_it_was_typed(text: str) -> None:
    for override in (f"output={text}", f"output='{text}'", f'output="{text}"'):
        assert composed("collect", override).output == text


@pytest.mark.parametrize("command", commands_with("output"))
def test_text_stays_as_it_was_typed_in_every_command(command: str) -> None:
    assert composed(command, "output=1e-3,a=[0] (1)").output == "1e-3,a=[0] (1)"


@pytest.mark.parametrize("command", commands_with("output"))
def test_tilde_is_home_in_every_text_setting_of_every_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    of_text = [info.key for info in fields_of(settings(command)) if strip_optional(info.annotation)[0] is str]
    paths = [
        key for key in of_text if "." not in key and key not in ("shard", "protocol", "algo", "rerun")
    ]  # these have forms of theirs
    assert "output" in paths
    for typed in ("~/x y", "'~/x y'", '"~/x y"'):
        config = composed(command, *(f"{key}={typed}" for key in paths))
        assert {getattr(config, key) for key in paths} == {"/home/somebody/x y"}


def test_a_tilde_elsewhere_is_a_letter() -> None:
    for text in ("~nobody-of-this-name/x", "a~/x", "~x"):
        assert composed("collect", f"output={text}").output == text


def test_an_environment_variable_can_be_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DS", "~/data=1,2")
    assert composed("sft", "dataset=${oc.env:DS}").dataset == "/home/somebody/data=1,2"


@pytest.mark.parametrize("command", commands_with("output"))
def test_null_is_no_text(command: str) -> None:
    with pytest.raises(ReflexError, match="output must be text, not null"):
        composed(command, "output=null")
    assert composed(command, "output='null'").output == "null"


def test_null_is_none_where_text_may_be_missing() -> None:
    assert composed("train", "demonstrations=null").demonstrations is None
    assert composed("train", "demonstrations='null'").demonstrations == "null"
    with pytest.raises(ReflexError, match="demonstrations is empty; give it a value, or demonstrations=null for none"):
        composed("train", "demonstrations=")


@pytest.mark.parametrize(("typed", "value"), [("1e3", 1000), ("1000.0", 1000), ("1_000", 1000), ("'12'", 12)])
def test_a_whole_number_however_it_is_written(typed: str, value: int) -> None:
    assert composed("sft", f"steps={typed}").steps == value


@pytest.mark.parametrize("typed", ["1.5", "1e-3", "1e400", "nan", "inf", "true", "x", "null"])
def test_what_is_no_whole_number_is_refused(typed: str) -> None:
    with pytest.raises(ReflexError, match="steps must be an integer"):
        composed("sft", f"steps={typed}")


@pytest.mark.parametrize("command", commands_with("tasks"))
def test_tasks_mean_the_same_in_every_command(command: str) -> None:
    assert composed(command, "tasks=3").tasks == composed(command, "tasks=[3]").tasks == [3]
    assert composed(command, "tasks=[2,0]").tasks == [2, 0]
    for wrong in ("[]", "[0,0]"):
        with pytest.raises(ReflexError, match=r"tasks is .*; it must name at least one task, and each task once"):
            composed(command, f"tasks={wrong}")


@pytest.mark.parametrize("command", commands_with("image_size"))
def test_picture_sizes_are_checked_before_anything_runs(command: str) -> None:
    assert composed(command, "image_size=64").image_size == 64
    for wrong, rule in ((0, "at least 16"), (15, "at least 16"), (65, "even number"), (4096, "up to 2048")):
        with pytest.raises(ReflexError, match=rf"image_size is {wrong}; it must be .*{rule}"):
            composed(command, f"image_size={wrong}")


@pytest.mark.parametrize(
    ("typed", "items"),
    [
        ("[a,b]", ["a", "b"]),
        ("[a, 'b,c' , \"d e\"]", ["a", "b,c", "d e"]),
        ("pkg.module:Class", ["pkg.module:Class"]),
        ("[1e-3,true]", ["1e-3", "true"]),
        ("[]", []),
        ("[~/x]", ["~/x"]),
    ],
)
def test_lists_of_text(typed: str, items: list[str]) -> None:
    assert read_text("encoders", typed, list[str]) == items


def test_what_is_text_and_what_is_not() -> None:
    kinds: list[Any] = [str, Path, str | None, list[str], tuple[str, ...], Literal["a", "b"] | None]
    assert all(is_text(kind) for kind in kinds)
    assert not any(is_text(kind) for kind in (int, float | None, list[int], dict[str, int], Literal[1, 2], bool))
    assert spell_value("1e3", float) == "1e3"
    assert spell_value("null", list[int] | None) == "null"
    assert spell_value("0,1", list[int]) == "0,1", "several values, which the parser refuses"
    with pytest.raises(ReflexError, match="begins a list that does not end"):
        read_text("modes", "[a", list[str])


def test_every_command_that_writes_has_an_output() -> None:
    beside_its_subject = {"audit labels", "relabel"}  # audit.json belongs to the labels, a column to its dataset
    for command in set(CONFIGURED) - {"check", "serve", "robot emulate", "robot calibrate"} - beside_its_subject:
        assert "output" in {field.name for field in dataclasses.fields(settings(command))}
