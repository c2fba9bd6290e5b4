"""Reading frozen networks from transformers: whole or not at all."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from world_models.errors import WorldModelError

Arithmetic = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of a network; "auto" is bfloat16 on CUDA and float32 elsewhere."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

_ADVICE = "give a folder with config.json and model.safetensors, or a hub id while the network is reachable"


def load_pretrained(model_class: type[PreTrainedModel], source: str, label: str, needed: str = "") -> PreTrainedModel:
    """A model with float32 weights, from a local folder or a hub id.

    Args:
        model_class: of transformers.
        source: folder or hub id.
        label: what to call the network in messages.
        needed: beginning of the names of the weights that must be there.

    Raises:
        WorldModelError: the folder or hub entry is missing, damaged or of another network, or lacks needed weights.
    """
    loaded: Any  # transformers declares a model only, and returns a pair when asked for the loading report
    try:
        loaded = model_class.from_pretrained(
            source, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WorldModelError(f"cannot load {label} from {source!r}: {reason} ({_ADVICE})") from error
    model, report = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    # transformers would fill weights it does not find with random numbers and go on.
    missing = sorted(key for key in report["missing_keys"] if key.startswith(needed))
    if missing:
        raise WorldModelError(f"{source!r} lacks {len(missing)} {label} weights, the first is {missing[0]}")
    return model


def arithmetic(choice: Arithmetic, device: torch.device) -> torch.dtype:
    """The dtype a setting means on a device."""
    if choice == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


def normalised(planes: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Planes [T, 3, H, W] of 0..255 as a network was trained on them, with mean and deviation [1, 3, 1, 1] of 0..1."""
    return (planes / 255 - mean.to(planes.device)) / deviation.to(planes.device)
