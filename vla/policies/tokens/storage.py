"""Folders of token policies: beside what every policy has, a tokenizer and normalisation.json."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from sim.embodiments import Embodiment
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies.blocks.text import HuggingFaceTokenizer, InstructionTokenizer, WordTokenizer
from vla.policies.normalisation import Normalisation
from vla.policies.storage import (
    CONFIG_FILE,
    INCOMPLETE,
    read_config,
    read_surroundings,
    read_weights,
    write_policy_folder,
)
from vla.policies.tokens.coding import ActionCoding
from vla.run.files import read_json_object, write_json

NORMALISATION_FILE = "normalisation.json"

FIRST_FORMAT = "reflex-prismatic-1"
"""What folders from before there were families say of themselves."""


def write_folder(
    policy: ActionCoding,
    config: dict[str, Any],
    feature_map: FeatureMap,
    tokenizer: InstructionTokenizer,
    folder: Path,
    dtype: str | None,
) -> None:
    """Write a policy folder, replacing an earlier one; see `write_policy_folder`."""

    def more(temporary: Path) -> None:
        tokenizer.save(temporary)
        values = {entry.name: getattr(policy.normalisation, entry.name).tolist() for entry in fields(Normalisation)}
        write_json(temporary / NORMALISATION_FILE, {"from_data": policy.has_normalisation, **values})

    write_policy_folder(folder, config, policy.embodiment, feature_map, policy.state_dict(), dtype=dtype, more=more)


def read_folder(
    folder: Path, config_class: type[Any]
) -> tuple[Any, InstructionTokenizer, Embodiment | None, FeatureMap]:
    """Configuration, tokenizer, embodiment and feature map of a policy folder.

    Raises `ReflexError` naming the file that is missing, damaged or of another format.
    """
    content = read_config(folder)
    content.pop("family", None)
    found = content.pop("format", FIRST_FORMAT)
    if found != FIRST_FORMAT:
        raise ReflexError(f"{folder / CONFIG_FILE}: format is {found!r}, which this version cannot read")
    try:
        config = config_class.from_dict(content)
    except ReflexError as error:
        raise ReflexError(f"{folder / CONFIG_FILE}: {error}") from error
    words = getattr(config, "tokenizer", "words") == "words"
    return config, WordTokenizer.load(folder) if words else HuggingFaceTokenizer(folder), *read_surroundings(folder)


def read_into(policy: ActionCoding, folder: Path) -> None:
    """Read weights and normalisation into a policy of the same configuration. Raises `ReflexError` naming the file."""
    read_weights(policy, folder)
    path = folder / NORMALISATION_FILE
    content = read_json_object(path, INCOMPLETE)
    try:
        from_data = bool(content.pop("from_data"))
        policy.set_normalisation(**content)
    except (TypeError, ValueError, KeyError, ReflexError) as error:
        raise ReflexError(f"{path}: unusable normalisation ({error})") from error
    policy.has_normalisation = from_data
