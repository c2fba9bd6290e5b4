"""The help page of a command that takes overrides: its groups, and every field with its default and docstring."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vla.conf.compose import Composed, default_options, list_groups, program
from vla.conf.schema import FieldInfo, fields_of, is_config, type_name
from vla.run.settings import strip_optional

COMMON = (
    "suite", "dataset", "labels", "goal", "backend", "model", "pairs", "demonstrations", "policy", "tasks", "output",
    "episodes_per_task", "demonstrations_per_task",
    "encoders", "modes", "rollouts", "steps", "batch_size", "learning_rate", "fine_tune_steps", "train_minutes",
    "iterations", "max_minutes", "resume", "seed", "device", "target_success", "split", "mode", "num_workers",
    "image_size", "pace",
)  # fmt: skip
"""What people set most often; a command's page begins with the first ten of them that it has."""


def render_help(command: str, summary: str, example: str, composed: Composed) -> str:
    """The page, as wide as the terminal. Defaults are those in force under the overrides given beside `--help`."""
    width = min(shutil.get_terminal_size((100, 20)).columns, 120)
    typed = program(command)
    lines = [f"{typed}: {summary}", "", f"usage: {typed} [field=value ...]", f"       {example}", ""]
    groups = list_groups(command)
    if groups:
        defaults = default_options(command)
        lines.append("groups (group=option)")
        for name, options in groups.items():
            shown = ", ".join(f"{option} (default)" if option == defaults.get(name) else option for option in options)
            lines.append(f"  {name:<8}{shown}")
        lines.append("")
    lines.append("fields (field=value; a list is written [0,1], nothing is written null)")
    of_methods: list[str] = []
    fields: dict[str, FieldInfo] = {}
    for info in fields_of(composed.config_class):
        inner, _ = strip_optional(info.annotation)
        if is_config(inner):
            of_methods += _settings(info.key, inner, width)
        elif info.key not in groups:
            fields[info.key] = info
    first = [key for key in COMMON if key in fields][:10]
    rest = [key for key in fields if key not in first]
    for key in [*first, *rest]:
        if rest and key == rest[0]:
            lines += ["", "more fields"]
        lines += _field(fields[key], _default(composed.values, key), width)
    if of_methods:
        lines += ["", "settings of rewards, advantages and variants", *of_methods]
    lines += ["", "options", "  --help         this page, with the defaults under the overrides given"]
    lines.append("  --show-config  print the whole configuration as YAML and stop")
    lines.append("  --debug        show the whole traceback of an error")
    return "\n".join(lines) + "\n"


def _settings(key: str, config_class: Any, width: int) -> list[str]:
    """The settings that a group of fields keeps by name, where its class says of what."""
    classes = config_class.settings_classes() if hasattr(config_class, "settings_classes") else {}
    lines: list[str] = []
    for name, settings in classes.items():
        defaults = settings()
        for info in fields_of(settings):
            shown = FieldInfo(f"{key}.settings.{name}.{info.key}", info.annotation, info.doc)
            lines += _field(shown, getattr(defaults, info.key), width)
    return lines


def _field(info: FieldInfo, default: Any, width: int) -> list[str]:
    text = textwrap.wrap(info.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [f"  {info.key}={default}    {type_name(info.annotation)}", *text]


def _default(values: DictConfig, key: str) -> Any:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(values, parent) if parent else values
    if node is None:
        return "null"
    if OmegaConf.is_missing(node, leaf):
        return "(must be given)"
    value = node[leaf]
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if OmegaConf.is_config(value):
        return str(OmegaConf.to_container(value)).replace(" ", "")
    return value
