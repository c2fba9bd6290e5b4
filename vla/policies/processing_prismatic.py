"""From observations to tensors: frames (which stay uint8 until the forward pass), state and instruction."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies.configuration_prismatic import PrismaticConfig
from vla.policies.frames import resize_frames
from vla.policies.vocabulary import MANIPULATION_WORDS

TOKENIZER_FILE = "tokenizer.json"

_WORD = re.compile(r"[a-z0-9_]+")


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


class InstructionTokenizer(Protocol):
    """Instruction text to token ids."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder."""


class WordTokenizer:
    """Lower-case words; an unknown word falls into one of `num_buckets` hash buckets, so new nouns stay distinct.

    Ids: 0 padding, 1 beginning of text, then the buckets, then the vocabulary.
    """

    FIRST_BUCKET = 2

    def __init__(self, words: Sequence[str] = MANIPULATION_WORDS, num_buckets: int = 64) -> None:
        self.words = tuple(words)
        self.num_buckets = num_buckets
        first_word = self.FIRST_BUCKET + num_buckets
        self._ids = {word: first_word + index for index, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.FIRST_BUCKET + self.num_buckets + len(self.words)

    def encode(self, text: str) -> list[int]:
        """[1] followed by one id per word; punctuation is dropped."""
        ids = [1]
        for word in _WORD.findall(text.lower()):
            known = self._ids.get(word)
            # crc32 rather than hash(): the same in every process and on every machine
            ids.append(known if known is not None else self.FIRST_BUCKET + zlib.crc32(word.encode()) % self.num_buckets)
        return ids

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        content = {"type": "words", "num_buckets": self.num_buckets, "words": list(self.words)}
        (folder / TOKENIZER_FILE).write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        """Read tokenizer.json. Raises `ReflexError` naming the file when it is missing or malformed."""
        path = folder / TOKENIZER_FILE
        try:
            content = json.loads(path.read_text())
            return cls(content["words"], content["num_buckets"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReflexError(f"{path}: cannot read the tokenizer ({error}); copy the whole folder again") from error


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer folder or hub id, for checkpoints that bring their own."""

    def __init__(self, source: str | Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(source))
        except (OSError, ValueError) as error:
            raise ReflexError(f"{source}: cannot load the tokenizer ({error})") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids with the tokenizer's own special tokens (a beginning-of-text token for Llama)."""
        return [int(token) for token in self._tokenizer(text)["input_ids"]]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files."""
        self._tokenizer.save_pretrained(str(folder))


class PrismaticProcessor:
    """Turns an `ObservationBatch` into `ModelInputs`."""

    def __init__(self, config: PrismaticConfig, tokenizer: InstructionTokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self._encoded: dict[str, list[int]] = {}

    def __call__(self, observations: ObservationBatch, feature_map: FeatureMap) -> ModelInputs:
        """Check, resize and tokenise. Raises `ReflexError` on a missing camera, wrong shape or non-finite state.

        `feature_map` says what the observations call the policy's cameras.
        """
        cameras = [self._frames(observations["images"], camera, feature_map) for camera in self.config.cameras]
        frames = torch.stack([torch.from_numpy(frames) for frames in cameras], dim=1)
        text, lengths = self.encode_instructions(observations["instruction"])
        state = torch.from_numpy(self._state(observations))
        return ModelInputs(images=frames, state=state, text=text, text_length=lengths)

    def encode_instructions(self, instructions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded ids [B, max_text_tokens] and lengths [B]."""
        text = torch.zeros(len(instructions), self.config.max_text_tokens, dtype=torch.int64)
        lengths = torch.zeros(len(instructions), dtype=torch.int64)
        for row, instruction in enumerate(instructions):
            ids = self._encoded.get(instruction)
            if ids is None:
                ids = self.tokenizer.encode(self.config.prompt_template.format(instruction=instruction))
                ids = self._encoded[instruction] = ids[: self.config.max_text_tokens]
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
                f"{', '.join(sorted(images)) or 'no pictures'}; set cameras.{camera} to one of them"
            )
        frames = np.asarray(images[name])
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ReflexError(f"{name}: expected uint8 frames [B, H, W, 3], got {frames.dtype} {frames.shape}")
        return np.ascontiguousarray(resize_frames(frames, self.config.image_size, self.config.image_size))

    def _state(self, observations: ObservationBatch) -> NDArray[np.float32]:
        if self.config.state_size == 0:
            return np.zeros((len(observations["instruction"]), 0), np.float32)
        state = np.ascontiguousarray(observations["state"], dtype=np.float32)
        if state.ndim != 2 or state.shape[1] != self.config.state_size:
            raise ReflexError(f"state: expected [B, {self.config.state_size}], got {list(state.shape)}")
        if not np.isfinite(state).all():
            rows = np.flatnonzero(~np.isfinite(state).all(axis=1)).tolist()
            raise ReflexError(f"state holds NaN or infinity in rows {rows} of the batch")
        return state
