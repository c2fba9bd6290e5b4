"""What a policy must offer to be trained, evaluated and deployed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import Observation, ObservationBatch
from sim.embodiments import Embodiment
from vla.data.feature_map import FeatureMap
from vla.policies.normalisation import ScaleFrom
from vla.policies.sampling import GREEDY, Sampling


@dataclass(frozen=True)
class PolicySpec:
    """What a policy needs to see and what it emits."""

    embodiment: Embodiment
    """What it was made for: its own camera names with the sizes its network takes, its state and its action."""
    uses_state: bool
    chunk_horizon: int
    """H: actions in a chunk."""
    execute_steps: int
    """How many of them are executed before the next decision."""
    unit_steps: tuple[int, ...]
    """[U] for each number of a decision's log-probabilities, the step of the chunk (from 0) whose execution makes it
    count: tokens and denoising steps belong to one action, a Gaussian over a whole chunk to the first."""


@dataclass(frozen=True)
class PolicyOutput:
    """One decision for each of B environments."""

    actions: NDArray[np.float32]
    """[B, H, A] in the units of the policy's embodiment, within its limits."""
    decision: NDArray[Any]
    """[B, ...] what the policy needs to score the decision again: tokens, a denoising chain, a Gaussian's sample. Only
    the policy opens it."""
    log_probs: NDArray[np.float32]
    """[B, U] of the decision's units, under the sampling that made it."""
    features: NDArray[np.float32] | None = None
    """[B, D] the hidden state that the decision was made from; None for a policy that has none to give."""
    inputs: Any = None
    """The B observations as the network took them, for a policy that can be trained on them again
    (`PreparedInputs`); None for one that keeps nothing."""


@runtime_checkable
class Policy(Protocol):
    """Decides on chunks of actions from what it sees."""

    @property
    def spec(self) -> PolicySpec: ...

    policy_id: str
    """Short name written into episodes, e.g. "reflex-tiny"."""

    feature_map: FeatureMap
    """What the policy's cameras are called where it acts or learns. Whoever lets it act elsewhere sets it."""

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """Decide for B environments.

        `generators` (one per environment, required unless `sampling.greedy`) make an episode's samples depend on its
        own seed only, never on which episodes share its batch.
        """

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The greedy policy's chunk [H, A] after one observation, ours or a LeRobot dataset's (`as_observation`)."""

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that `vla.policies.registry.load_policy` reads, atomically.

        Its config.json names the family; the class has `from_pretrained(folder, device)` to read it with.
        """


class PreparedInputs(Protocol):
    """A policy's inputs, B samples long: a dataclass of tensors and tuples of text, so that it can be stored."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: torch.Tensor | slice) -> Self:
        """The samples at `index` [b]."""

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> Self:
        """Join along the batch axis."""


@runtime_checkable
class PicturedInputs(Protocol):
    """Inputs whose pictures can be augmented."""

    @property
    def images(self) -> torch.Tensor:
        """[B, cameras, H, W, 3] uint8."""

    def with_images(self, images: torch.Tensor) -> Self:
        """The same samples with other pictures."""


@runtime_checkable
class TrainablePolicy(Policy, Protocol):
    """A policy whose log-probabilities can be differentiated on inputs prepared once."""

    @property
    def has_normalisation(self) -> bool:
        """Whether the scale of its actions and states was taken from data."""

    def fit_normalisation(
        self, actions: NDArray[np.float32], states: NDArray[np.float32], scale: ScaleFrom = "quantiles"
    ) -> None:
        """Take the scale of actions [N, A] and states [N, S] from data; a family may have one way only."""

    def load_weights_from(self, folder: Path) -> None:
        """Take weights and normalisation of a folder that such a policy wrote, in place."""

    def prepare(self, observations: ObservationBatch) -> Any:
        """Observations as `PreparedInputs` on the CPU, pictures as uint8 at the network's resolution."""

    def log_prob(self, inputs: Any, decisions: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [B, U] and entropies [B, U] of decisions [B, ...] made under `sampling`, differentiable.

        Which units count is the business of the caller, who knows how many actions were executed (`spec.unit_steps`).
        """

    def imitation_loss(self, inputs: Any, actions: NDArray[np.float32]) -> tuple[torch.Tensor, dict[str, float]]:
        """What supervised fine-tuning on chunks of actions [B, H, A] minimises, [B], differentiable, and metrics."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The same as `parameters`, with names."""

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


@runtime_checkable
class SoftLabels(Protocol):
    """A policy over bins, whose targets in supervised fine-tuning are spread over neighbouring bins."""

    label_sigma: float
    """Standard deviation, in bins; 0 gives one-hot targets."""


@dataclass(frozen=True)
class Adapted:
    """A policy for another embodiment, made from a trained one."""

    policy: TrainablePolicy
    taken: tuple[str, ...]
    """Parts of the network whose weights are the trained policy's."""
    fresh: tuple[str, ...]
    """Parts with random weights."""

    def describe(self) -> str:
        """One line for messages."""
        fresh = ", ".join(self.fresh) or "none"
        return f"weights taken over: {', '.join(self.taken)}; fresh ones: {fresh}"


@runtime_checkable
class AdaptablePolicy(Protocol):
    """A policy from which one for another robot can be made."""

    def adapt(
        self, embodiment: Embodiment, *, chunk_horizon: int | None = None, execute_steps: int | None = None
    ) -> Adapted:
        """A policy for `embodiment`, with the same weights where they mean the same.

        Args:
            embodiment: the new policy's; its pictures get the size that the network takes.
            chunk_horizon: actions in a chunk; None for as many as now.
            execute_steps: how many of them are executed; None for as many as now, or the whole chunk if it is shorter.
        """
