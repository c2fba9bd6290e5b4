"""Folders of trained models: config.json, model.safetensors and telemetry.json, all of them or none."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from world_models.errors import WorldModelError

WEIGHTS_FILE = "model.safetensors"


def write_model_folder(
    folder: Path,
    model_type: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    telemetry: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's folder; one that holds an earlier model of the same type is replaced.

    Raises `WorldModelError` when it holds anything else, or when it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not _is_replaceable(folder, model_type):
        raise WorldModelError(f"{folder} exists and is no saved {model_type}; name another output folder or remove it")
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, temporary / WEIGHTS_FILE)
        _write_json(temporary / "config.json", {"model_type": model_type, **config})
        if telemetry is not None:
            _write_json(temporary / "telemetry.json", telemetry)
        for path in temporary.iterdir():
            _sync(path)
        _replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise WorldModelError(f"cannot write the model to {folder}: {error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in `folder`/config.json. Raises `WorldModelError` when it is missing or damaged."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorldModelError(f"{folder} has no config.json, so it is not a saved model") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WorldModelError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise WorldModelError(f"{path} must hold a JSON object, found a {type(values).__name__}")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a model's folder, by name. Raises `WorldModelError` when they are missing or damaged."""
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WorldModelError(f"cannot read the weights {path}: {error}; train the model again") from error


def _is_replaceable(folder: Path, model_type: str) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return read_config(folder).get("model_type") == model_type
    except WorldModelError:
        return False


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; a directory cannot be renamed over a full one, so the old one steps aside."""
    if not folder.exists():
        new.replace(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.replace(aside)
    try:
        new.replace(folder)
    except OSError:
        aside.replace(folder)
        raise
    shutil.rmtree(aside)
