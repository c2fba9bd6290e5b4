"""Policies on disk: config.json, tokenizer, normalisation.json and model.safetensors, written and read whole."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sim.embodiments import Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.action_coding import ActionCoding
from vla.policies.action_tokenizer import Normalisation
from vla.policies.configuration_prismatic import PrismaticConfig
from vla.policies.processing_prismatic import HuggingFaceTokenizer, InstructionTokenizer, WordTokenizer
from vla.run.files import read_json_object, replace_folder, write_json

CONFIG_FILE = "config.json"
EMBODIMENT_FILE = "embodiment.json"
FEATURE_MAP_FILE = "feature_map.json"
NORMALISATION_FILE = "normalisation.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "reflex-prismatic-1"

INCOMPLETE = "this is not a whole policy folder: copy it again"

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_policy(policy: ActionCoding, tokenizer: InstructionTokenizer, folder: Path, dtype: str | None) -> None:
    """Write a policy folder, replacing an earlier one; a crash leaves the old folder or the new one."""
    if dtype is not None and dtype not in _DTYPES:
        raise ReflexError(f"cannot store weights as {dtype!r}; choose one of {', '.join(_DTYPES)}")

    def fill(temporary: Path) -> None:
        write_json(temporary / CONFIG_FILE, {"format": FORMAT, **policy.config.to_dict()})
        write_surroundings(temporary, policy.embodiment, policy.feature_map)
        tokenizer.save(temporary)
        write_json(temporary / NORMALISATION_FILE, _normalisation_to_dict(policy))
        target = _DTYPES[dtype] if dtype is not None else None
        state = {name: value.detach().to("cpu", target).contiguous() for name, value in policy.state_dict().items()}
        save_file(state, str(temporary / WEIGHTS_FILE))

    replace_folder(folder, fill)


def write_surroundings(folder: Path, embodiment: Embodiment, feature_map: FeatureMap) -> None:
    """Write what a policy of any family was made for beside its configuration."""
    write_json(folder / EMBODIMENT_FILE, embodiment.to_dict())
    write_json(folder / FEATURE_MAP_FILE, asdict(feature_map))


def read_surroundings(folder: Path) -> tuple[Embodiment | None, FeatureMap]:
    """What `write_surroundings` wrote; no embodiment and the same names in a folder that does not say.

    Raises `ReflexError` naming a damaged file.
    """
    embodiment, feature_map = None, SAME_NAMES
    path = folder / EMBODIMENT_FILE
    if path.exists():
        try:
            embodiment = Embodiment.from_dict(read_json_object(path, INCOMPLETE))
        except ValueError as error:
            raise ReflexError(f"{path}: {error}") from error
    path = folder / FEATURE_MAP_FILE
    if path.exists():
        try:
            feature_map = FeatureMap(**read_json_object(path, INCOMPLETE))
        except TypeError as error:
            raise ReflexError(f"{path}: {error}") from error
    return embodiment, feature_map


def read_description(folder: Path) -> tuple[PrismaticConfig, InstructionTokenizer]:
    """The configuration and the tokenizer of a policy folder.

    Raises `ReflexError` naming the file that is missing, damaged or of another format.
    """
    content = read_config(folder)
    content.pop("family", None)
    found = content.pop("format", None)
    if found != FORMAT:
        raise ReflexError(f"{folder / CONFIG_FILE}: format is {found!r}, this version reads {FORMAT!r}")
    try:
        config = PrismaticConfig.from_dict(content)
    except ReflexError as error:
        raise ReflexError(f"{folder / CONFIG_FILE}: {error}") from error
    return config, WordTokenizer.load(folder) if config.tokenizer == "words" else HuggingFaceTokenizer(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a policy folder of any family. Raises `ReflexError` when it is missing or damaged."""
    if not folder.is_dir():
        raise ReflexError(f"{folder}: no such policy folder")
    return read_json_object(folder / CONFIG_FILE, INCOMPLETE)


def read_into(policy: ActionCoding, folder: Path) -> None:
    """Read weights and normalisation into a policy of the same configuration. Raises `ReflexError` naming the file."""
    load_weights(policy, folder / WEIGHTS_FILE)
    _load_normalisation(policy, folder / NORMALISATION_FILE)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a network's weights. Raises `ReflexError` for a file that is damaged or of another network."""
    try:
        with safe_open(str(path), framework="pt") as handle:
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ReflexError(f"{path}: the weights are missing; copy the whole folder again") from error
    except (SafetensorError, OSError) as error:
        raise ReflexError(f"{path}: the weights are truncated or damaged ({error}); copy the file again") from error
    expected = {name: value.shape for name, value in module.state_dict().items()}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    for problem, names in (("lacks", missing), ("has unexpected", extra), ("has misshapen", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ReflexError(f"{path}: does not match {path.parent / CONFIG_FILE}: it {problem} {shown}")
    broken = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise ReflexError(f"{path}: {broken[0]} holds NaN or infinity; the checkpoint is unusable, take an earlier one")
    module.load_state_dict(state)


def _normalisation_to_dict(policy: ActionCoding) -> dict[str, Any]:
    values = {entry.name: getattr(policy.normalisation, entry.name).tolist() for entry in fields(Normalisation)}
    return {"from_data": policy.has_normalisation, **values}


def _load_normalisation(policy: ActionCoding, path: Path) -> None:
    content = read_json_object(path, INCOMPLETE)
    try:
        from_data = bool(content.pop("from_data"))
        policy.set_normalisation(**content)
    except (TypeError, ValueError, KeyError, ReflexError) as error:
        raise ReflexError(f"{path}: unusable normalisation ({error})") from error
    policy.has_normalisation = from_data
