"""From observations to tensors: frames (which stay uint8 until the forward pass), state and instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sim.contract import ObservationBatch
from vla.data.feature_map import FeatureMap
from vla.policies.base import PicturesAndState, camera_frames, finite_states
from vla.policies.blocks.text import InstructionTokenizer


@dataclass(frozen=True)
class ModelInputs(PicturesAndState):
    """What the network reads, for B samples. Index it with a tensor to make a minibatch.

    `images` are [B, cameras, S, S, 3] uint8; once encoded, the policy's vision tokens [B, cameras * N, D].
    """

    text: torch.Tensor
    """[B, max_text_tokens] int64, padded with 0."""
    text_length: torch.Tensor
    """[B] int64."""


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
        images, size = observations["images"], self.image_size
        frames = torch.stack([camera_frames(images, name, feature_map, size, size) for name in self.cameras], dim=1)
        text, lengths = self.encode_instructions(observations["instruction"])
        if self.state_size:
            state = finite_states(observations, self.state_size)
        else:
            state = torch.zeros(len(text), 0)
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
