"""Seeds, and the state of every random number generator as JSON: a resumed run draws what an unbroken one would."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.errors import ReflexError
from vla.run.files import read_json, write_json

__all__ = ["capture_rng", "derive_seed", "load_rng", "restore_rng", "save_rng", "seed_everything"]


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch (all devices).

    Args:
        seed: non-negative.
        deterministic: also make torch refuse operations that have no deterministic implementation.  On the CPU they
            all have one; on CUDA it costs speed.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries still draw from the legacy global generator
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and their order: the first 63 bits of a SHA-256.

    The same on every machine, and unlike ``seed + task`` two different tuples do not meet in practice.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


def capture_rng(generators: Mapping[str, np.random.Generator] | None = None) -> dict[str, Any]:
    """The state of the global generators, and of the named NumPy ones, as plain JSON values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), [int(key) for key in np.asarray(keys)], int(position), int(has_gauss), float(cached)],
        "torch": bytes(torch.get_rng_state().numpy()).hex(),
        "generators": {key: _plain(value.bit_generator.state) for key, value in (generators or {}).items()},
    }
    if torch.cuda.is_available():
        state["cuda"] = [bytes(item.cpu().numpy()).hex() for item in torch.cuda.get_rng_state_all()]
    return state


def restore_rng(state: Mapping[str, Any], generators: Mapping[str, np.random.Generator] | None = None) -> None:
    """Put every generator back to a captured state.

    Raises:
        ReflexError: the state is damaged, or lacks one of the named ``generators``.
    """
    try:
        version, internal, gauss = state["python"]
        name, keys, position, has_gauss, cached = state["numpy"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
        torch.set_rng_state(_tensor(state["torch"]))
        if torch.cuda.is_available() and len(state.get("cuda", [])) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([_tensor(item) for item in state["cuda"]])
        for key, generator in (generators or {}).items():
            generator.bit_generator.state = _arrays(state["generators"][key])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ReflexError(
            f"the saved random number state is damaged ({type(error).__name__}: {error}); "
            "resume from an older checkpoint"
        ) from error


def save_rng(path: Path, generators: Mapping[str, np.random.Generator] | None = None) -> None:
    """Write ``capture_rng`` to a JSON file, atomically."""
    write_json(path, capture_rng(generators))


def load_rng(path: Path, generators: Mapping[str, np.random.Generator] | None = None) -> None:
    """Restore from a file of ``save_rng``.  Raises ``ReflexError`` when it is missing or damaged."""
    state = read_json(path)
    if not isinstance(state, dict):
        raise ReflexError(f"{path} does not hold a random number state; resume from another checkpoint")
    restore_rng(state, generators)


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"array", "dtype"}:
            return np.array(value["array"], dtype=value["dtype"])
        return {key: _arrays(item) for key, item in value.items()}
    return value
