"""The supervised training loop, of every policy family: what `imitation_loss` says, resumable step for step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vla.errors import ReflexError, restoring
from vla.imitation.augmentation import AugmentationConfig, augment_frames
from vla.imitation.samples import SampleSource
from vla.policies.protocol import PicturedInputs, SoftLabels, TrainablePolicy
from vla.run.settings import Checks

Metrics = dict[str, float]

OPTIMISER_FILE = "optimiser.pt"


@dataclass
class ImitationConfig:
    """Optimisation of the supervised loss."""

    steps: int = 2000
    """Optimiser steps."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """"adamw", or "muon": Muon for the matrices of hidden layers and AdamW for the rest."""
    batch_size: int = 64
    """Samples a step."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    final_learning_rate: float = 0.02
    """Learning rate at the end of the cosine, as a share of the peak."""
    weight_decay: float = 0.02
    """AdamW decay of matrices; biases, norms and other vectors have none."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    label_sigma: float = 1.0
    """Standard deviation, in bins, of a token policy's Gaussian soft targets; 0 gives one-hot targets."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the training steps: "auto" is bfloat16 where the hardware multiplies it."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes of the pictures."""
    seed: int = 0
    """Determines data order and augmentation, each a function of (seed, step), and random weights."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "steps", "batch_size")
        check.positive("learning_rate", "gradient_clip")
        check.at_least(0, "warmup_steps", "weight_decay", "label_sigma", "final_learning_rate")


def learning_rate_at(step: int, config: ImitationConfig) -> float:
    """Learning rate of step 0 .. steps - 1: linear warm-up, then a cosine to `final_learning_rate` x peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    share = config.final_learning_rate + (1.0 - config.final_learning_rate) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * share


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Sample indices [batch_size] of a step: consecutive positions in an endless row of per-epoch permutations."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = positions // count, positions % count
    pairs = zip(epochs.tolist(), offsets.tolist(), strict=True)
    return np.array([_permutation(count, seed, epoch)[offset] for epoch, offset in pairs], dtype=np.int64)


class HasParameters(Protocol):
    """A policy or a module."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What may be learnt, with names."""


class AuxiliaryLoss(nn.Module):
    """Base of extra objectives (localisation, latent prediction): a module with heads of its own.

    It makes the forward pass, so that its heads see the hidden states that the policy's loss is made from.
    """

    def losses(
        self, inputs: Any, actions: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        """The policy's own losses [B], a scalar, already weighted, to add to their mean, and metrics.

        Args:
            inputs: the policy's, of B samples.
            actions: [B, H, A].
            indices: [B] of the samples.
        """
        raise NotImplementedError


def build_optimisers(modules: Sequence[HasParameters], config: ImitationConfig) -> list[torch.optim.Optimizer]:
    """AdamW with weight decay on matrices only; with "muon", Muon (K. Jordan, 2024) takes the hidden layers' matrices.

    Muon's steps have the size of AdamW's (`match_rms_adamw`, arXiv 2502.16982), so one learning rate serves both.
    Embeddings, heads and convolutions stay with AdamW, as its authors advise.
    """
    named = [pair for module in modules for pair in module.named_parameters() if pair[1].requires_grad]
    hidden = [value for name, value in named if config.optimiser == "muon" and value.dim() == 2 and _is_hidden(name)]
    taken = {id(value) for value in hidden}
    rest = [value for _, value in named if id(value) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [value for value in rest if value.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [value for value in rest if value.dim() < 2], "weight_decay": 0.0},
    ]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)]
    if hidden:
        optimisers.append(
            torch.optim.Muon(
                hidden, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimisers


def _is_hidden(name: str) -> bool:
    """Whether a parameter is inside the layers of a tower, the projector or the language model."""
    return any(part in name for part in (".layers.", ".stages.", "projector."))


class ImitationTrainer:
    """A policy, its optimiser and the number of steps done; `step` runs one more."""

    def __init__(
        self,
        policy: TrainablePolicy,
        samples: SampleSource,
        config: ImitationConfig,
        auxiliary: AuxiliaryLoss | None = None,
    ) -> None:
        self.policy, self.samples, self.config, self.auxiliary = policy, samples, config, auxiliary
        self.steps_done = 0
        policy.set_precision(config.precision)
        if isinstance(policy, SoftLabels):
            policy.label_sigma = config.label_sigma
        self._modules: list[HasParameters] = [policy] if auxiliary is None else [policy, auxiliary]
        self.optimisers = build_optimisers(self._modules, config)

    def step(self) -> Metrics:
        """One optimiser step. Raises `ReflexError` when the loss is not finite."""
        config, step = self.config, self.steps_done
        indices = batch_indices(len(self.samples), config.batch_size, step, config.seed)
        inputs, actions = self.samples.batch(indices)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        torch.manual_seed(config.seed * 1_000_003 + step)  # of a loss that draws, so that a resumed run draws the same
        if isinstance(inputs, PicturedInputs):
            inputs = inputs.with_images(augment_frames(inputs.images, config.augmentation, generator))
        rate = learning_rate_at(step, config)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        losses, extra, said = self._losses(inputs, actions, indices)
        weights = self._weights(indices)
        own = (losses if weights is None else losses * weights.to(losses.device)).mean()
        loss = own + extra
        if not torch.isfinite(loss.detach()):
            raise ReflexError(f"the loss became {float(loss.detach())} at step {step + 1}; lower learning_rate")
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # untyped in torch
        parameters = [parameter for module in self._modules for _, parameter in module.named_parameters()]
        norm = nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.steps_done += 1
        return {
            "train/loss": float(own.detach()),
            **{f"train/{name}": value for name, value in said.items()},
            "train/gradient_norm": float(norm),
            "train/learning_rate": rate,
        }

    def _losses(
        self, inputs: Any, actions: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        """The policy's losses [B], what an auxiliary objective adds to their mean, and metrics."""
        if self.auxiliary is not None:
            return self.auxiliary.losses(inputs, actions, indices)
        losses, metrics = self.policy.imitation_loss(inputs, actions)
        return losses, losses.new_zeros(()), metrics

    def _weights(self, indices: NDArray[np.int64]) -> torch.Tensor | None:
        weights = self.samples.weights
        return None if weights is None else torch.from_numpy(weights[indices])

    def save(self, folder: Path) -> None:
        """Write the policy to `folder`/policy and the optimiser's state beside it."""
        self.policy.save_pretrained(folder / "policy")
        state = {
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "steps_done": self.steps_done,
            "random": torch.get_rng_state(),
        }
        if self.auxiliary is not None:
            state["auxiliary"] = self.auxiliary.state_dict()
        torch.save(state, folder / OPTIMISER_FILE)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. Raises `ReflexError` naming a damaged file."""
        self.policy.load_weights_from(folder / "policy")
        path = folder / OPTIMISER_FILE
        with restoring(path):
            device = next(self.policy.parameters()).device
            state = torch.load(path, map_location=device, weights_only=True)
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.steps_done = int(state["steps_done"])
            torch.set_rng_state(state["random"].cpu())
            if self.auxiliary is not None:
                self.auxiliary.load_state_dict(state["auxiliary"])
