"""What a policy must offer to be trained, evaluated and deployed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch

Mode = Literal["greedy", "sample"]


@dataclass(frozen=True)
class PolicySpec:
    """What a policy needs to see and what it emits."""

    cameras: tuple[str, ...]
    """Observation keys it reads, e.g. ("image", "wrist_image")."""
    image_size: int
    """Side in pixels of the square frames its network consumes; other sizes are resized by its processor."""
    uses_state: bool
    chunk_horizon: int
    """H: actions in a chunk."""
    execute_steps: int
    """How many of them are executed before the next decision."""
    tokens_per_chunk: int
    """K: action tokens in a chunk (H * 7)."""


@dataclass(frozen=True)
class PolicyOutput:
    """One decision for each of B environments."""

    actions: NDArray[np.float32]  # [B, H, 7] in [-1, 1]
    tokens: NDArray[np.int64]  # [B, K]
    log_probs: NDArray[np.float32]  # [B, K] at the sampling temperature (greedy: at temperature 1)
    features: NDArray[np.float32] | None = None
    """[B, D] the hidden state that the decision was made from; None for a policy that has none to give."""
    inputs: Any = None
    """The B observations as the network took them, for a policy that can be trained on them again
    (`PreparedInputs`); None for one that keeps nothing."""


@runtime_checkable
class Policy(Protocol):
    """A token policy over action chunks."""

    @property
    def spec(self) -> PolicySpec: ...

    @property
    def policy_id(self) -> str:
        """Short name written into episodes, e.g. "reflex-tiny"."""

    def act(
        self,
        observations: ObservationBatch,
        mode: Mode = "greedy",
        temperature: float = 1.0,
        generators: Sequence[np.random.Generator] | None = None,
        token_noise: float = 0.0,
        chunk_correlation: float = 0.0,
    ) -> PolicyOutput:
        """Decide for B environments.

        `generators` (one per environment, required for mode "sample") make an episode's samples depend on its own
        seed only, never on which episodes share its batch. `token_noise` is the standard deviation, in bins, of noise
        that sampling adds to every token; log-probabilities are those of the noisy tokens
        (`vla.policies.decoding.add_token_noise`). `chunk_correlation` in [0, 1) is how alike the draws of one action
        dimension are over the steps of a chunk (`vla.policies.decoding.correlated_uniforms`).
        """

    def log_prob(
        self, observations: ObservationBatch, tokens: torch.Tensor, temperature: float = 1.0, token_noise: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [B, K] of `tokens` [B, K] and entropies [B, K], differentiable."""

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, processor files and model.safetensors, atomically."""


class PreparedInputs(Protocol):
    """A policy's inputs as tensors, B samples long."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: torch.Tensor | slice) -> Self:
        """The samples at `index` [b]."""

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> Self:
        """Join along the batch axis."""


class TrainablePolicy(Policy, Protocol):
    """A policy whose log-probabilities can be differentiated on inputs prepared once."""

    def prepare(self, observations: ObservationBatch) -> Any:
        """Observations as `PreparedInputs` on the CPU, pictures as uint8 at the network's resolution."""

    def log_prob_from_inputs(
        self, inputs: Any, tokens: torch.Tensor, temperature: float = 1.0, token_noise: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [B, K] of `tokens` [B, K] and entropies [B, K], differentiable."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What an optimiser may change, where it requires a gradient."""

    def eval(self) -> Any:
        """Switch off everything random in the network."""

    def set_precision(self, precision: str) -> None:
        """Compute in "float32", "bfloat16" or what suits the device ("auto")."""

    def freeze_vision(self) -> None:
        """Exclude what turns pictures into vision tokens from learning."""

    def encode_vision(self, inputs: Any) -> Any:
        """The same inputs with pictures replaced by vision tokens, for a policy whose vision is frozen."""

    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        """[B, D] the hidden states from which it would decide."""
