"""From observations to tensors: frames (which stay uint8 until the forward pass), state and instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.feature_map import FeatureMap
from vla.data.images import resize_frames
from vla.errors import ReflexError
from vla.policies.blocks.text import InstructionTokenizer


@dataclass(frozen=True)
class ModelInputs:
    """What the network reads, for B samples. Index it with a tensor to make a minibatch."""

    images: torch.Tensor
    """[B, cameras, S, S, 3] uint8; once encoded, the policy's vision tokens [B, cameras * N, D]."""
    state: torch.Tensor
    """[B, state_size] float32, not yet normalised."""
    text: torch.Tensor
    """[B, max_text_tokens] int64, padded with 0."""
    text_length: torch.Tensor
    """[B] int64."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: torch.Tensor | slice) -> ModelInputs:
        return ModelInputs(*(getattr(self, entry.name)[index] for entry in fields(self)))

    def with_images(self, images: torch.Tensor) -> ModelInputs:
        """The same samples with other pictures (augmented or encoded)."""
        return replace(self, images=images)

    def to(self, device: str | torch.device) -> ModelInputs:
        """Copy to a device."""
        return ModelInputs(*(getattr(self, entry.name).to(device) for entry in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[ModelInputs]) -> ModelInputs:
        """Join along the batch axis."""
        return cls(*(torch.cat([getattr(part, entry.name) for part in parts]) for entry in fields(cls)))


@dataclass(frozen=True)
class Processor:
    """Turns an `ObservationBatch` into `ModelInputs`."""

    tokenizer: InstructionTokenizer
    cameras: tuple[str, ...]
    """The policy's own names."""
    image_size: int
    state_size: int
    """0 for a policy that does not look at it."""
    max_text_tokens: int
    prompt_template: str = "{instruction}"

    def __call__(self, observations: ObservationBatch, feature_map: FeatureMap) -> ModelInputs:
        """Check, resize and tokenise. Raises `ReflexError` on a missing camera, wrong shape or non-finite state.

        `feature_map` says what the observations call the policy's cameras.
        """
        cameras = [self._frames(observations["images"], camera, feature_map) for camera in self.cameras]
        frames = torch.stack([torch.from_numpy(frames) for frames in cameras], dim=1)
        text, lengths = self.encode_instructions(observations["instruction"])
        state = torch.from_numpy(self._state(observations))
        return ModelInputs(images=frames, state=state, text=text, text_length=lengths)

    def encode_instructions(self, instructions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded ids [B, max_text_tokens] and lengths [B]."""
        text = torch.zeros(len(instructions), self.max_text_tokens, dtype=torch.int64)
        lengths = torch.zeros(len(instructions), dtype=torch.int64)
        known: dict[str, list[int]] = {}
        for row, instruction in enumerate(instructions):
            ids = known.get(instruction)
            if ids is None:
                ids = self.tokenizer.encode(self.prompt_template.format(instruction=instruction))
                ids = known[instruction] = ids[: self.max_text_tokens]
            text[row, : len(ids)] = torch.tensor(ids)
            lengths[row] = len(ids)
        return text, lengths

    def _frames(
        self, images: Mapping[str, NDArray[np.uint8]], camera: str, feature_map: FeatureMap
    ) -> NDArray[np.uint8]:
        name = feature_map.camera(camera)
        if name not in images:
            raise ReflexError(
                f"the policy's camera {camera!r} is to be {name!r} here, and the observation has "
                f"{', '.join(sorted(images)) or 'no pictures'}; set feature_map.cameras.{camera} to one of them"
            )
        frames = np.asarray(images[name])
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ReflexError(f"{name}: expected uint8 frames [B, H, W, 3], got {frames.dtype} {frames.shape}")
        return np.ascontiguousarray(resize_frames(frames, self.image_size, self.image_size))

    def _state(self, observations: ObservationBatch) -> NDArray[np.float32]:
        if self.state_size == 0:
            return np.zeros((len(observations["instruction"]), 0), np.float32)
        state = np.ascontiguousarray(observations["state"], dtype=np.float32)
        if state.ndim != 2 or state.shape[1] != self.state_size:
            raise ReflexError(f"state: expected [B, {self.state_size}], got {list(state.shape)}")
        if not np.isfinite(state).all():
            rows = np.flatnonzero(~np.isfinite(state).all(axis=1)).tolist()
            raise ReflexError(f"state holds NaN or infinity in rows {rows} of the batch")
        return state
