"""Policies on disk: config.json, tokenizer, normalisation.json and model.safetensors, written and read whole."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vla.errors import ReflexError, writing
from vla.policies.action_tokenizer import Normalisation
from vla.policies.configuration_prismatic import PrismaticConfig
from vla.policies.prismatic import PrismaticPolicy
from vla.policies.processing_prismatic import HuggingFaceTokenizer, InstructionTokenizer, WordTokenizer
from vla.run.checkpoints import newest_checkpoint

CONFIG_FILE = "config.json"
NORMALISATION_FILE = "normalisation.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "reflex-prismatic-1"

SHIPPED_WEIGHTS = Path(__file__).parent / "weights"

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_policy(policy: PrismaticPolicy, folder: Path, dtype: str | None) -> None:
    """Write a policy folder beside its final place, then swap it in; a crash leaves the old folder or the new one."""
    if dtype is not None and dtype not in _DTYPES:
        raise ReflexError(f"cannot store weights as {dtype!r}; choose one of {', '.join(_DTYPES)}")
    if policy.processor is None:
        raise ReflexError(f"policy {policy.policy_id} has no tokenizer and cannot be saved; pass one to from_config")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _fill_folder(policy, temporary, dtype)
            replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _fill_folder(policy: PrismaticPolicy, folder: Path, dtype: str | None) -> None:
    assert policy.processor is not None
    folder.chmod(0o755)
    (folder / CONFIG_FILE).write_text(json.dumps({"format": FORMAT, **policy.config.to_dict()}, indent=1))
    policy.processor.tokenizer.save(folder)
    (folder / NORMALISATION_FILE).write_text(json.dumps(_normalisation_to_dict(policy), indent=1))
    target = _DTYPES[dtype] if dtype is not None else None
    state = {name: value.detach().to("cpu", target).contiguous() for name, value in policy.state_dict().items()}
    save_file(state, str(folder / WEIGHTS_FILE))
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`, moving an existing target aside first and removing it last."""
    if not target.exists():
        source.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(aside / "previous")
    try:
        source.rename(target)
    except OSError:
        (aside / "previous").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_policy(folder: Path, device: str = "cpu") -> PrismaticPolicy:
    """Read a folder written by `write_policy`. Raises `ReflexError` naming the missing or damaged file."""
    if not folder.is_dir():
        raise ReflexError(f"{folder}: no such policy folder")
    content = _read_json(folder / CONFIG_FILE)
    found = content.pop("format", None)
    if found != FORMAT:
        raise ReflexError(f"{folder / CONFIG_FILE}: format is {found!r}, this version reads {FORMAT!r}")
    try:
        config = PrismaticConfig.from_dict(content)
    except ReflexError as error:
        raise ReflexError(f"{folder / CONFIG_FILE}: {error}") from error
    tokenizer: InstructionTokenizer
    tokenizer = WordTokenizer.load(folder) if config.tokenizer == "words" else HuggingFaceTokenizer(folder)
    policy = PrismaticPolicy.from_config(config, tokenizer)
    read_into(policy, folder)
    return policy.to(device).eval()


def read_into(policy: PrismaticPolicy, folder: Path) -> None:
    """Read weights and normalisation into a policy of the same configuration. Raises `ReflexError` naming the file."""
    _load_weights(policy, folder / WEIGHTS_FILE)
    _load_normalisation(policy, folder / NORMALISATION_FILE)


def _load_weights(policy: PrismaticPolicy, path: Path) -> None:
    try:
        with safe_open(str(path), framework="pt") as handle:
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ReflexError(f"{path}: the weights are missing; copy the whole folder again") from error
    except (SafetensorError, OSError) as error:
        raise ReflexError(f"{path}: the weights are truncated or damaged ({error}); copy the file again") from error
    expected = {name: value.shape for name, value in policy.state_dict().items()}
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
    policy.load_state_dict(state)


def _normalisation_to_dict(policy: PrismaticPolicy) -> dict[str, Any]:
    values = {entry.name: getattr(policy.normalisation, entry.name).tolist() for entry in fields(Normalisation)}
    return {"from_data": policy.has_normalisation, **values}


def _load_normalisation(policy: PrismaticPolicy, path: Path) -> None:
    content = _read_json(path)
    try:
        from_data = bool(content.pop("from_data"))
        policy.set_normalisation(**content)
    except (TypeError, ValueError, KeyError, ReflexError) as error:
        raise ReflexError(f"{path}: unusable normalisation ({error})") from error
    policy.has_normalisation = from_data


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ReflexError(f"{path}: missing; this is not a whole policy folder") from error
    except (OSError, ValueError) as error:
        raise ReflexError(f"{path}: cannot be read ({error}); the file is damaged, copy it again") from error
    if not isinstance(content, dict):
        raise ReflexError(f"{path}: expected a JSON object")
    return content


def shipped_names() -> list[str]:
    """Names of the policies packaged with the code."""
    return sorted(path.parent.name for path in SHIPPED_WEIGHTS.glob(f"*/{CONFIG_FILE}"))


def load_policy(path_or_name: str | Path, device: str = "cpu") -> PrismaticPolicy:
    """Load a policy folder, a run folder (its last checkpoint), or a shipped policy by name.

    Raises `ReflexError` naming what was looked for and the shipped names when nothing is found.
    """
    path = Path(path_or_name)
    for candidate in (path, path / "policy"):  # a checkpoint keeps its policy beside the optimiser's state
        if (candidate / CONFIG_FILE).is_file():
            return read_policy(candidate, device)
    if path.is_dir():
        last = _last_checkpoint(path)
        if last is not None:
            return read_policy(last, device)
        raise ReflexError(f"{path}: holds neither {CONFIG_FILE} nor a checkpoint; give a policy folder or a run folder")
    name = str(path_or_name)
    if (SHIPPED_WEIGHTS / name / CONFIG_FILE).is_file():
        return read_policy(SHIPPED_WEIGHTS / name, device)
    shipped = ", ".join(shipped_names()) or "none"
    raise ReflexError(f"no policy {name!r}: not a folder, and not a shipped policy (shipped: {shipped})")


def _last_checkpoint(run: Path) -> Path | None:
    """The policy folder in the newest checkpoint of a run folder."""
    last = newest_checkpoint(run / "checkpoints") if (run / "checkpoints").is_dir() else None
    if last is None:
        return None
    for candidate in (last[1], last[1] / "policy"):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    return None
