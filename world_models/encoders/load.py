"""One door to every encoder: by name, saved folder or hub id."""

from __future__ import annotations

import re
from pathlib import Path

from world_models.encoders.base import CachedEncoder, VideoEncoder
from world_models.encoders.pixels import PixelEncoder
from world_models.errors import WorldModelError
from world_models.jepa.encoder import MODEL_TYPE, JepaEncoder, read_config

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]*vjepa2[\w.-]*", re.IGNORECASE)

CHECKPOINTS = {
    "vjepa2-vitl": "facebook/vjepa2-vitl-fpc64-256",
    "vjepa2-vith": "facebook/vjepa2-vith-fpc64-256",
    "vjepa2-vitg": "facebook/vjepa2-vitg-fpc64-256",
    "vjepa2-vitg-384": "facebook/vjepa2-vitg-fpc64-384",
}
"""Short names of the released V-JEPA 2 checkpoints."""


def load_encoder(name_or_path: str, device: str = "cpu", cache_clips: int = 0) -> VideoEncoder:
    """Load an encoder.

    `name_or_path` is "pixels", a folder written by `train_jepa`, a folder with a V-JEPA 2 checkpoint, a short name of
    a released one ("vjepa2-vitl"), or its hub id. With `cache_clips`, that many embeddings are remembered by content.

    Raises:
        WorldModelError: nothing of that name is known, or what is there cannot be read.
    """
    encoder = _load(str(name_or_path), device)
    return CachedEncoder(encoder, cache_clips) if cache_clips else encoder


def _load(name: str, device: str) -> VideoEncoder:
    if name == "pixels":
        return PixelEncoder()
    folder = Path(name)
    if folder.is_dir():
        kind = read_config(folder).get("model_type")
        if kind == MODEL_TYPE:
            return JepaEncoder.load(folder, device)
        if kind == "vjepa2":
            return _load_vjepa2(name, device)
        raise WorldModelError(
            f"{folder / 'config.json'} has model_type {kind!r}; known are {MODEL_TYPE!r} (written by train_jepa) and "
            "'vjepa2'"
        )
    if name in CHECKPOINTS or (_HUB_ID.fullmatch(name) and not folder.exists()):
        return _load_vjepa2(name, device)
    raise WorldModelError(
        f"unknown encoder {name!r} (and no such folder); choose 'pixels', a folder written by train_jepa, a V-JEPA 2 "
        f"folder or hub id such as 'facebook/vjepa2-vitl-fpc64-256', or one of {', '.join(CHECKPOINTS)}"
    )


def _load_vjepa2(name: str, device: str) -> VideoEncoder:
    # Importing transformers' models takes seconds; the other encoders should not wait for it.
    from world_models.encoders.vjepa2 import VJepa2Encoder

    return VJepa2Encoder.from_pretrained(CHECKPOINTS.get(name, name), device=device)
