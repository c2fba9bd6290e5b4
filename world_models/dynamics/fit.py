"""Fitting an ensemble of dynamics to logged steps, with held-out episodes to stop by and to choose members by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_models.dynamics.config import DynamicsConfig
from world_models.dynamics.ensemble import SHARED, DynamicsEnsemble
from world_models.errors import WorldModelError

Progress = Callable[[int, int, float], None]
"""Called with (updates done, updates at most, mean error on held-out episodes) after every measurement."""


@dataclass(frozen=True)
class Steps:
    """N logged steps of several episodes."""

    observations: NDArray[np.float32]
    """[N, O]"""
    actions: NDArray[np.float32]
    """[N, A]"""
    rewards: NDArray[np.float32]
    """[N]"""
    next_observations: NDArray[np.float32]
    """[N, O]; anything finite where terminal."""
    terminals: NDArray[np.bool_]
    """[N] whether the episode ends for good."""
    episodes: NDArray[np.int64]
    """[N] number of the episode."""


@dataclass(frozen=True)
class DynamicsTelemetry:
    """How well the ensemble that was kept predicts held-out episodes."""

    updates: int
    """Gradient updates made."""
    change_error: float
    """Mean squared error of how observations change, in deviations over the data: 1 is what a constant has."""
    reward_error: float
    """That of rewards."""
    members: tuple[float, ...]
    """The mean of both, of each member."""


def fit_dynamics(
    steps: Steps, config: DynamicsConfig | None = None, on_progress: Progress | None = None
) -> tuple[DynamicsEnsemble, DynamicsTelemetry]:
    """Fit `config.members` networks and keep the `config.elites` best, each as it was when it was best.

    The same seed, steps and thread count give the same weights; torch's global generator is left alone.

    Raises:
        WorldModelError: arrays that do not belong together or are not finite, fewer than two episodes, or a loss that
            is not finite.
    """
    config = config or DynamicsConfig()
    _check(steps)
    training, heldout = _split(steps.episodes, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        sizes = steps.observations.shape[1], steps.actions.shape[1]
        ensemble = DynamicsEnsemble(*sizes, config.hidden, config.members).to(config.device)
    tensors = _tensors(ensemble, steps, training, config.device)
    best, errors, done = _optimise(ensemble, tensors, training, heldout, config, on_progress)
    ensemble.load_state_dict(best)
    elites = torch.argsort(errors.mean(1), stable=True)[: config.elites]
    changes, rewards = (float(value) for value in errors[elites].mean(0))
    members = tuple(float(value) for value in errors[elites].mean(1))
    return ensemble.only(elites), DynamicsTelemetry(done, changes, rewards, members)


def _check(steps: Steps) -> None:
    count = len(steps.observations)
    for name, values in vars(steps).items():
        if len(values) != count:
            raise WorldModelError(f"{len(values)} {name} for {count} observations")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise WorldModelError(f"{name} hold NaN or infinity; leave those steps out")
    if steps.next_observations.shape != steps.observations.shape or steps.observations.ndim != 2:
        raise WorldModelError(
            f"observations {list(steps.observations.shape)} and next_observations "
            f"{list(steps.next_observations.shape)} must both be [N, O]"
        )


def _split(episodes: NDArray[np.int64], config: DynamicsConfig) -> tuple[Tensor, Tensor]:
    """Rows of the steps that are learnt from, and of the held-out episodes."""
    numbers = np.random.default_rng(config.seed).permutation(np.unique(episodes))
    if len(numbers) < 2:
        raise WorldModelError(
            f"dynamics need at least two episodes, one of them held out, and there are {len(numbers)}; give more data"
        )
    count = min(max(1, round(config.heldout_share * len(numbers))), len(numbers) - 1)
    held = np.isin(episodes, numbers[:count])
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def _tensors(ensemble: DynamicsEnsemble, steps: Steps, training: Tensor, device: str) -> tuple[Tensor, ...]:
    """What `DynamicsEnsemble.loss` takes, of all steps; the ensemble takes its normalisation on the way."""
    arrays: tuple[NDArray[Any], ...] = (steps.observations, steps.actions, steps.rewards, steps.next_observations)
    observations, actions, rewards, following = (torch.from_numpy(array).float().to(device) for array in arrays)
    terminals = torch.from_numpy(steps.terminals)
    changes = following - observations
    changes[terminals.to(device)] = 0.0  # what stands after a terminal is no change that was seen
    known = training[~terminals[training]]
    seen = known if len(known) else training
    ensemble.fit_normalisation(observations[training], actions[training], changes[seen], rewards[training])
    return observations, actions, changes, rewards, terminals.float().to(device)


def _optimise(
    ensemble: DynamicsEnsemble,
    tensors: tuple[Tensor, ...],
    training: Tensor,
    heldout: Tensor,
    config: DynamicsConfig,
    on_progress: Progress | None,
) -> tuple[dict[str, Tensor], Tensor, int]:
    """The members' weights at their best, their errors [M, 2] there, and the updates made."""
    optimiser = torch.optim.AdamW(ensemble.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    held = tuple(tensor[heldout.to(tensor.device)] for tensor in tensors)
    best = {name: value.clone() for name, value in ensemble.state_dict().items()}
    errors = ensemble.errors(*held)
    since = done = 0
    while done < config.updates and since < config.patience:
        for _ in range(min(config.measure_every, config.updates - done)):
            rows = training[torch.randint(len(training), (config.members, config.batch_size), generator=generator)]
            loss = ensemble.loss(*(tensor[rows.to(tensor.device)] for tensor in tensors))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
        if not torch.isfinite(loss):
            raise WorldModelError(f"the loss of the dynamics is not finite after {done} updates; lower learning_rate")
        now = ensemble.errors(*held)
        since = 0 if bool((now.mean(1) < 0.99 * errors.mean(1)).any()) else since + 1
        better = now.mean(1) < errors.mean(1)
        for name, value in ensemble.state_dict().items():
            if not name.endswith(SHARED):
                best[name][better] = value[better]
        errors = torch.where(better[:, None], now, errors)
        if on_progress is not None:
            on_progress(done, config.updates, float(errors.mean()))
    return best, errors, done
