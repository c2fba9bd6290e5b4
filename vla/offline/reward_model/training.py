"""The fit of an ensemble: every member by itself, in one forward pass; held-out episodes say when each stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vla.rewards.models.ensemble import EnsembleShape, RewardEnsemble
from vla.rewards.models.networks import NetworkKind, standardise
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

Objective = Literal["return", "advantage"]


@dataclass(frozen=True)
class FitSettings:
    """How a reward model is fitted, to preferences or to outcomes."""

    network: NetworkKind = "mlp"
    """What it is: "mlp" on features, or "cnn" on pictures as in RL-VLM-F."""
    objective: Objective = "return"
    """What of a segment is compared: "return", the sum of its rewards, or "advantage", how much a value gained between
    its first and last moment (regret). Single moments know only "return"."""
    members: int = 3
    """Networks in the ensemble; their mean is the reward, their spread says where it is unsure."""
    hidden: int = 256
    """Width of both hidden layers of an mlp."""
    bounded: bool | None = None
    """Keep rewards in [-1, 1] by tanh, as in the paper, so that no preference is more certain than 88 %. Null: for a
    cnn only; an mlp that stops by held-out episodes orders moments better without."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    batch_size: int = 64
    """Pairs in a gradient step."""
    max_epochs: int = 100
    """Passes over the pairs, at most."""
    patience: int = 10
    """Passes without a better held-out likelihood after which a fit ends."""
    held_out: float = 0.1
    """Share of the episodes that is kept to decide when to stop: a pair with a moment of one of them is never fitted
    to. 0 keeps none, and the fit runs for max_epochs."""
    error_rate: float = 0.0
    """How often labels are thought to be the opposite of what they should be, in [0, 0.5)."""

    def __post_init__(self) -> None:
        check = Checks(self, "fit.")
        check.literals()
        check.at_least(1, "members", "hidden", "batch_size", "max_epochs", "patience")
        check.positive("learning_rate")
        check.within(0, 0.9, "held_out", reason="a share of the episodes")
        check.within(0, 0.49, "error_rate", reason="with half of the answers wrong they say nothing")


Losses = Callable[[torch.Tensor], torch.Tensor]
"""Items [M, B] that each member is given -> their losses [M, B]."""


def new_ensemble(shape: EnsembleShape, features: NDArray[Any], seed: int, device: torch.device) -> RewardEnsemble:
    """An ensemble before its fit, with features [N, ...] standardised. Torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("reward parameters", seed))
        network = shape.build()
    if shape.network != "cnn":
        standardise(network, torch.from_numpy(np.asarray(features, np.float32)))
    return RewardEnsemble(shape, network.to(device))


def train_members(
    ensemble: RewardEnsemble,
    losses: Losses,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    settings: FitSettings,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Fit in place; each member ends with the parameters of its own best pass.

    Args:
        ensemble: to be fitted.
        losses: of items that are numbered as in the next two.
        fitted: [n] items to fit to, shuffled for each member by itself.
        held_out: [m] items whose mean loss decides; none, and every pass is better than the one before.
        settings: step size, batch, passes and patience.
        generator: of the shuffling.

    Returns:
        `epochs`, and `best_epoch` and `held_out_loss` of each member.
    """
    members, place = ensemble.shape.members, ensemble.device
    parameters = dict(ensemble.network.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, foreach=True)
    best = {name: value.detach().clone() for name, value in parameters.items()}
    least = torch.full((members,), torch.inf, device=place)
    best_epoch = torch.zeros(members, dtype=torch.int64, device=place)
    size = min(settings.batch_size, len(fitted))
    epoch = 0
    for epoch in range(1, settings.max_epochs + 1):
        shuffled = np.stack([generator.permutation(fitted) for _ in range(members)])
        order = torch.from_numpy(shuffled).to(place)
        for first in range(0, len(fitted) - size + 1, size):
            optimiser.zero_grad(set_to_none=True)
            losses(order[:, first : first + size]).mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        found = _held_out_loss(losses, held_out, members, settings.batch_size, place)
        better = torch.ones_like(least, dtype=torch.bool) if found is None else found < least
        for name, value in parameters.items():
            best[name][better] = value.detach()[better]
        least = least if found is None else torch.where(better, found, least)
        best_epoch[better] = epoch
        if epoch - int(best_epoch.max()) >= settings.patience:
            break
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(best[name])
    loss = least.tolist() if len(held_out) else None
    return {"epochs": epoch, "best_epoch": best_epoch.tolist(), "held_out_loss": loss}


@torch.no_grad()
def _held_out_loss(
    losses: Losses, held_out: NDArray[np.int64], members: int, size: int, place: torch.device
) -> torch.Tensor | None:
    """The mean loss of each member [M]; None where nothing is held out."""
    if len(held_out) == 0:
        return None
    parts = torch.split(torch.from_numpy(held_out).to(place), size)
    total = torch.stack([losses(part.expand(members, -1)).sum(dim=1) for part in parts]).sum(dim=0)
    return total / len(held_out)
