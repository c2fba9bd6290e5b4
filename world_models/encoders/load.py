"""One door to every encoder: by name, saved folder or hub id."""

from __future__ import annotations

import re
from pathlib import Path

from world_models.encoders.base import CachedEncoder, VideoEncoder
from world_models.encoders.pixels import PixelEncoder
from world_models.errors import WorldModelError
from world_models.folders import read_config
from world_models.jepa.encoder import MODEL_TYPE, JepaEncoder

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]*(?:vjepa2|dinov2|dinov3|siglip)[\w.-]*", re.IGNORECASE)

CHECKPOINTS = {
    "vjepa2-vitl": "facebook/vjepa2-vitl-fpc64-256",
    "vjepa2-vith": "facebook/vjepa2-vith-fpc64-256",
    "vjepa2-vitg": "facebook/vjepa2-vitg-fpc64-256",
    "vjepa2-vitg-384": "facebook/vjepa2-vitg-fpc64-384",
    "dinov2-vits": "facebook/dinov2-with-registers-small",
    "dinov2-vitb": "facebook/dinov2-with-registers-base",
    "dinov2-vitl": "facebook/dinov2-with-registers-large",
    "dinov3-vits": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3-vitb": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3-vitl": "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "siglip2-base": "google/siglip2-base-patch16-224",
    "siglip2-large": "google/siglip2-large-patch16-256",
}
"""Short names of released checkpoints. DINOv3's ask for its licence to be accepted on the hub first."""


def load_encoder(name_or_path: str, device: str = "cpu", cache_clips: int = 0) -> VideoEncoder:
    """Load an encoder.

    `name_or_path` is "pixels", a folder written by `train_jepa`, a folder with a checkpoint of V-JEPA 2, DINOv2, DINOv3
    or SigLIP 2, a short name of a released one ("vjepa2-vitl"), or its hub id. With `cache_clips`, that many embeddings
    are remembered by content.

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
        return JepaEncoder.load(folder, device) if kind == MODEL_TYPE else _load_pretrained(name, str(kind), device)
    if name in CHECKPOINTS or (_HUB_ID.fullmatch(name) and not folder.exists()):
        source = CHECKPOINTS.get(name, name)
        return _load_pretrained(source, _kind_on_hub(source), device)
    raise WorldModelError(
        f"unknown encoder {name!r} (and no such folder); choose 'pixels', a folder written by train_jepa, a folder or "
        f"hub id of V-JEPA 2, DINOv2, DINOv3 or SigLIP 2 such as 'facebook/vjepa2-vitl-fpc64-256', or one of "
        f"{', '.join(CHECKPOINTS)}"
    )


def _load_pretrained(source: str, kind: str, device: str) -> VideoEncoder:
    # Importing transformers' models takes seconds; the other encoders should not wait for it.
    if kind == "vjepa2":
        from world_models.encoders.vjepa2 import VJepa2Encoder

        return VJepa2Encoder.from_pretrained(source, device=device)
    from world_models.encoders.images import FAMILIES, ImageEncoder

    if kind not in FAMILIES:
        raise WorldModelError(
            f"{source}/config.json has model_type {kind!r}; known are {MODEL_TYPE!r} (written by train_jepa), "
            f"'vjepa2', {', '.join(map(repr, FAMILIES))}"
        )
    return ImageEncoder.from_pretrained(source, kind, device=device)


def _kind_on_hub(source: str) -> str:
    """The `model_type` of a hub id, by its name: nothing has to be fetched to say that it cannot be."""
    lowered = source.lower()
    if "dinov2" in lowered:
        return "dinov2_with_registers" if "registers" in lowered else "dinov2"
    if "dinov3" in lowered:
        return "dinov3_vit"
    return "siglip" if "siglip" in lowered else "vjepa2"
