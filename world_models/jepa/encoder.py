"""A trained small world model as a video encoder: clip embeddings, and its folder on disk."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from world_models.encoders.base import Clip, check_clips, check_embeddings, resize_frames
from world_models.errors import WorldModelError
from world_models.jepa.config import JepaConfig
from world_models.jepa.model import Jepa

MODEL_TYPE = "reflex_jepa"
"""`model_type` in the config.json of a saved encoder."""

_FRAMES_PER_CALL = 256


class JepaEncoder:
    """Embeds clips with a trained `Jepa`.

    An embedding pools the latents of a clip's frames as `JepaConfig.pooling` says. The end of a clip shows how far a
    rollout got, the mean shows what it did on the way; "mean_last" keeps both, [mean, mean of the last frames].
    """

    def __init__(self, model: Jepa, config: JepaConfig, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.config = config
        self.device = torch.device(device)

    @property
    def name(self) -> str:
        return f"jepa-{self.config.latent_size}-{self.config.pooling}"

    @property
    def embedding_size(self) -> int:
        return self.config.latent_size * (2 if self.config.pooling == "mean_last" else 1)

    def encode_frames(self, clip: Clip) -> NDArray[np.float32]:
        """Latents [T, D] of the frames of one clip. Raises `WorldModelError` as `encode` does."""
        check_clips([clip])
        with torch.inference_mode():
            frames = torch.from_numpy(np.ascontiguousarray(clip))
            parts = [
                self.model.encoder(resize_frames(part.to(self.device), self.config.image_size))
                for part in torch.split(frames, _FRAMES_PER_CALL)
            ]
            latents: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
        return latents

    def encode(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """As `VideoEncoder.encode`.

        Each clip passes through the network alone, so that an embedding does not even differ in its last bit with the
        company it is encoded in, and equal clips get equal rewards.
        """
        rows = [self._pool(self.encode_frames(clip)) for clip in check_clips(clips)]
        embeddings = np.stack(rows) if rows else np.zeros((0, self.embedding_size), np.float32)
        return check_embeddings(embeddings, self.name)

    def _pool(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        return pool_latents(latents, self.config.pooling, self.config.last_frames)

    def save(self, folder: Path, telemetry: dict[str, Any] | None = None) -> None:
        """Write config.json, model.safetensors and, if given, telemetry.json: all of them or none.

        A folder that holds an earlier small encoder is replaced. Raises `WorldModelError` when it holds anything else,
        or when it cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not _is_replaceable(folder):
            raise WorldModelError(f"{folder} exists and is no saved encoder; name another output folder or remove it")
        temporary: Path | None = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            temporary.chmod(0o755)
            state = {name: tensor.contiguous().cpu() for name, tensor in self.model.state_dict().items()}
            save_file(state, temporary / "model.safetensors")
            _write_json(temporary / "config.json", {"model_type": MODEL_TYPE, **asdict(self.config)})
            if telemetry is not None:
                _write_json(temporary / "telemetry.json", telemetry)
            for path in temporary.iterdir():
                _sync(path)
            _replace_folder(temporary, folder)
        except (OSError, SafetensorError) as error:
            raise WorldModelError(f"cannot write the encoder to {folder}: {error}") from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> JepaEncoder:
        """Read a folder written by `save`. Raises `WorldModelError` naming the missing, damaged or mismatched file."""
        folder = Path(folder)
        values = read_config(folder)
        if values.pop("model_type", None) != MODEL_TYPE:
            raise WorldModelError(
                f"{folder / 'config.json'} does not describe a small world model (model_type {MODEL_TYPE})"
            )
        config = JepaConfig.from_dict(values, str(folder / "config.json"))
        weights = folder / "model.safetensors"
        try:
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise WorldModelError(f"cannot read the weights {weights}: {error}; train the encoder again") from error
        model = Jepa(config)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise WorldModelError(f"{weights} does not fit {folder / 'config.json'}: {reason}") from error
        return cls(model, config, device)


def pool_latents(latents: NDArray[np.float32], pooling: str, last_frames: int) -> NDArray[np.float32]:
    """Clip embedding of frame latents [T, D]: [D], or [2 D] for "mean_last". Short clips average what they have."""
    mean, last = latents.mean(axis=0), latents[-last_frames:].mean(axis=0)
    pooled: NDArray[np.float32] = mean if pooling == "mean" else last
    return np.concatenate([mean, last]) if pooling == "mean_last" else pooled


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in `folder`/config.json. Raises `WorldModelError` when it is missing or damaged."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorldModelError(f"{folder} has no config.json, so it is not a saved encoder") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WorldModelError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise WorldModelError(f"{path} must hold a JSON object, found a {type(values).__name__}")
    return values


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return read_config(folder).get("model_type") == MODEL_TYPE
    except WorldModelError:
        return False


def _write_json(path: Path, values: dict[str, Any]) -> None:
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
