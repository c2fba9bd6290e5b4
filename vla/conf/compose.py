"""Command-line overrides -> a command's configuration dataclass, composed by Hydra, with errors that name the field.

A command's schema is made from its dataclass, which holds all defaults that no group changes. A command with groups has
a folder `vla/conf/<command>/` with `config.yaml` (its defaults list) and one folder for each group.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hydra import compose, initialize, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from vla.conf.former_names import explain_choice, explain_setting
from vla.conf.overrides import is_text, read_text, spell_value
from vla.conf.schema import FieldInfo, build, describe, fields_of, is_config, mirror
from vla.errors import ReflexError
from vla.run.settings import strip_optional


@dataclass(frozen=True)
class Composed:
    """A command's configuration, before and after it became its dataclass."""

    values: DictConfig
    """What Hydra composed; may still miss mandatory values."""
    config_class: type[Any]

    def build(self) -> Any:
        """The dataclass. Raises `ReflexError` naming a mandatory field without a value, or a value it refuses."""
        try:
            values = OmegaConf.to_container(self.values, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ReflexError(f"{error.full_key} has no default: give it as {error.full_key}=...") from error
        except OmegaConfBaseException as error:  # such as an environment variable in ${oc.env:...} that is not set
            reason = str(error).splitlines()[0].partition("resolving interpolation: ")
            raise ReflexError(f"{error.full_key}: {(reason[2] or reason[0]).strip(chr(34))}") from error
        assert isinstance(values, dict)
        return build(self.config_class, {str(key): value for key, value in values.items()})


def list_groups(command: str) -> dict[str, list[str]]:
    """The groups of a command and their options, from the packaged files."""
    root = resources.files("vla.conf") / _folder(command)
    if not root.is_dir():
        return {}
    return {
        group.name: sorted(
            entry.name.removesuffix(".yaml") for entry in group.iterdir() if entry.name.endswith(".yaml")
        )
        for group in sorted(root.iterdir(), key=lambda entry: entry.name)
        if group.is_dir() and not group.name.startswith("_")
    }


def default_options(command: str) -> dict[str, str]:
    """The option each group of a command has when nothing is said."""
    file = resources.files("vla.conf") / _folder(command) / "config.yaml"
    if not file.is_file():
        return {}
    config = OmegaConf.create(file.read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    return {
        str(key): str(value) for entry in config.defaults if not isinstance(entry, str) for key, value in entry.items()
    }


def compose_config(command: str, config_class: type[Any], overrides: Sequence[str]) -> Composed:
    """Compose a command's configuration.

    Raises:
        ReflexError: an override that cannot be read, names no field or no option of a group, or has the wrong type.
    """
    fields = {info.key: info for info in fields_of(config_class)}
    groups = list_groups(command)
    texts: dict[str, str | list[str] | None] = {}
    written: list[str] = []
    for override in overrides:
        key, equals, typed = override.partition("=")
        if equals and key in fields and key not in groups:
            if is_text(fields[key].annotation):
                _refuse_former_choice(key, typed, command)
                texts[key] = read_text(key, typed, fields[key].annotation)
                continue
            override = f"{key}={spell_value(typed, fields[key].annotation)}"
        _check(override, fields, groups, command)
        # A mapping's keys are not in the schema, so Hydra is told to add them; its owner checks what they may be.
        written.append(f"++{override}" if _names_key_of_mapping(override, fields) else override)
    ConfigStore.instance().store(name="schema", node=mirror(config_class))
    try:
        if groups:
            with initialize_config_module(f"vla.conf.{_folder(command)}", job_name="vla", version_base="1.3"):
                values = compose("config", overrides=written)
        else:
            with initialize(None, job_name="vla", version_base="1.3"):
                values = compose("schema", overrides=written)
        for key, text in texts.items():
            OmegaConf.update(values, key, text, merge=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise ReflexError(_explain(error, fields)) from error
    return Composed(values=values, config_class=config_class)


def program(command: str) -> str:
    """What is typed to run a command: one of `vla`'s, or a script's own."""
    return command if command.startswith("python ") else f"vla {command}"


def _folder(command: str) -> str:
    return command.replace(" ", "_")


def _parse(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        raise ReflexError(f"{text!r} is not an override: write field=value, such as seed=3")
    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except OverrideParseException as error:
        reason = str(error).splitlines()[0]
        raise ReflexError(
            f"cannot read {text!r} ({reason}); quote a value with special characters: \"field='a(b)'\""
        ) from error


def _check(text: str, fields: dict[str, FieldInfo], groups: dict[str, list[str]], command: str) -> None:
    override = _parse(text)
    key = str(override.key_or_group)
    if override.is_delete() or override.is_add() or override.package is not None:
        raise ReflexError(f"{text!r}: the fields are fixed, so only field=value is understood, without '+', '~' or '@'")
    if override.is_sweep_override():
        raise ReflexError(f"{text!r} names several values; one command is one run (a list is written {key}=[1,2])")
    if key in groups:
        option = str(override.value())
        if option not in groups[key]:
            raise ReflexError(
                f"{key} has no option {option!r}{_nearest(option, groups[key])}; it has {', '.join(groups[key])}"
            )
        return
    _refuse_former_choice(key, str(override.value()), command)
    if key in fields:
        inner, _ = strip_optional(fields[key].annotation)
        if is_config(inner):
            raise ReflexError(
                f"{key} is a group of fields: set them one by one, such as {_first_field(key, fields)}=..."
            )
        return
    if meant := explain_setting(key, text.partition("=")[2], {*fields, *groups}):
        raise ReflexError(f"{program(command)}: {meant}")
    if not _names_key_of_mapping(text, fields):
        raise ReflexError(
            f"{program(command)} has no field {key!r}{_nearest(key, [*fields, *groups])}; see {program(command)} --help"
        )


def _refuse_former_choice(key: str, value: str, command: str) -> None:
    if former := explain_choice(key, value):
        raise ReflexError(f"{program(command)}: {former}")


def _names_key_of_mapping(text: str, fields: dict[str, FieldInfo]) -> bool:
    key = text.partition("=")[0]
    return any(key.startswith(f"{known}.") and _is_mapping(info) for known, info in fields.items())


def _first_field(key: str, fields: dict[str, FieldInfo]) -> str:
    return next((name for name in fields if name.startswith(f"{key}.")), key)


def _is_mapping(info: FieldInfo) -> bool:
    inner, _ = strip_optional(info.annotation)
    return getattr(inner, "__origin__", inner) is dict


def _nearest(name: str, known: Sequence[str]) -> str:
    """ " (did you mean 'x'?)", looking at whole names first and then at the last part of dotted ones."""
    same_leaf = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    matches = same_leaf or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not matches:
        leaves = {key.rpartition(".")[2]: key for key in known}
        matches = [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.6)]
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _explain(error: BaseException, fields: dict[str, FieldInfo]) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError) and cause.full_key:
            key = cause.full_key.partition("[")[0]
            reason = str(cause).splitlines()[0]
            if key in fields:
                return f"{key} must be {describe(fields[key].annotation)} ({reason})"
            return f"{key}: {reason}"
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split())
