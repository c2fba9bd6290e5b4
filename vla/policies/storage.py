"""Policy folders of any family: config.json, what the policy was made for, and weights, written and read whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sim.embodiments import Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.run.files import read_json_object, replace_folder, write_json

CONFIG_FILE = "config.json"
EMBODIMENT_FILE = "embodiment.json"
FEATURE_MAP_FILE = "feature_map.json"
WEIGHTS_FILE = "model.safetensors"

INCOMPLETE = "this is not a whole policy folder: copy it again"

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_policy_folder(
    folder: Path,
    config: Mapping[str, Any],
    embodiment: Embodiment,
    feature_map: FeatureMap,
    weights: Mapping[str, torch.Tensor],
    *,
    dtype: str | None = None,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write a policy folder, replacing an earlier one; a crash leaves the old folder or the new one.

    Args:
        folder: where.
        config: JSON-ready, with the `family` that `vla.policies.registry` picks the class by.
        embodiment: what the policy was made for.
        feature_map: what its cameras are called where it acts.
        weights: by name.
        dtype: stored precision ("float16", "bfloat16", "float32"); None keeps the weights' own.
        more: writes further files into the folder that it is given.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ReflexError(f"cannot store weights as {dtype!r}; choose one of {', '.join(_DTYPES)}")

    def fill(temporary: Path) -> None:
        write_json(temporary / CONFIG_FILE, dict(config))
        write_json(temporary / EMBODIMENT_FILE, embodiment.to_dict())
        write_json(temporary / FEATURE_MAP_FILE, feature_map.to_dict())
        if more is not None:
            more(temporary)
        target = _DTYPES[dtype] if dtype is not None else None
        state = {name: value.detach().to("cpu", target).contiguous() for name, value in weights.items()}
        save_file(state, str(temporary / WEIGHTS_FILE))

    replace_folder(folder, fill)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a policy folder. Raises `ReflexError` when it is missing or damaged."""
    if not folder.is_dir():
        raise ReflexError(f"{folder}: no such policy folder")
    return read_json_object(folder / CONFIG_FILE, INCOMPLETE)


def read_surroundings(folder: Path) -> tuple[Embodiment | None, FeatureMap]:
    """What a policy was made for, and its names; no embodiment and the same names in a folder that does not say.

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
            feature_map = FeatureMap.from_dict(read_json_object(path, INCOMPLETE))
        except ReflexError as error:
            raise ReflexError(f"{path}: {error}") from error
    return embodiment, feature_map


def read_weights(module: torch.nn.Module, folder: Path) -> None:
    """Read the weights of a folder into a network of the same shape. Raises `ReflexError` naming what is wrong."""
    path = folder / WEIGHTS_FILE
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
