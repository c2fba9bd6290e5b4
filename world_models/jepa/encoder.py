"""A trained small world model as a video encoder: clip embeddings, and its folder on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_models.encoders.base import Clip, check_clips, check_embeddings, resize_frames
from world_models.errors import WorldModelError
from world_models.folders import WEIGHTS_FILE, read_config, read_weights, write_model_folder
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
        write_model_folder(folder, MODEL_TYPE, asdict(self.config), self.model.state_dict(), telemetry)

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
        state = read_weights(folder)
        model = Jepa(config)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise WorldModelError(f"{folder / WEIGHTS_FILE} does not fit {folder / 'config.json'}: {reason}") from error
        return cls(model, config, device)


def pool_latents(latents: NDArray[np.float32], pooling: str, last_frames: int) -> NDArray[np.float32]:
    """Clip embedding of frame latents [T, D]: [D], or [2 D] for "mean_last". Short clips average what they have."""
    mean, last = latents.mean(axis=0), latents[-last_frames:].mean(axis=0)
    pooled: NDArray[np.float32] = mean if pooling == "mean" else last
    return np.concatenate([mean, last]) if pooling == "mean_last" else pooled
