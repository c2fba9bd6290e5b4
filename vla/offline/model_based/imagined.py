"""Transitions that a model imagines: what logs are fitted to, rolled out from, and compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.spatial import cKDTree

from vla.errors import ReflexError, restoring
from vla.offline.algorithms.mbrcsl import MBRCSL
from vla.offline.model_based.behaviour import Behaviour, fit_behaviour
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.training import OfflineSettings
from vla.offline.transitions import Transitions, chunk_transitions, scale_rewards
from vla.run.devices import resolve_device
from vla.run.files import replace_folder, write_json
from vla.run.progress_bar import progress_bar
from vla.run.seeding import derive_seed
from world_models.dynamics import (
    DynamicsConfig,
    DynamicsEnsemble,
    DynamicsTelemetry,
    ImaginedRollouts,
    Steps,
    fit_dynamics,
    imagine,
    uncertainty_quantile,
)
from world_models.errors import WorldModelError

IMAGINED_FILE = "imagined.safetensors"
REPORT_FILE = "report.json"

SHORT_HORIZON = 5
"""Decisions in an imagined rollout that stands beside replay."""


@dataclass(frozen=True)
class Imagined:
    """What was imagined, and from what."""

    transitions: Transitions
    """At the scale and with the chunks of the trainer."""
    ensemble: DynamicsEnsemble
    report: dict[str, float]
    """`change_error` and `reward_error` on held-out episodes, mean squared, in deviations; `uncertainty_limit`; shares
    of the rollouts that were `cut`, `ended` or `kept`; of MBRCSL, the mean `kept_return` and the data's best,
    `data_return`."""


def imagined_transitions(data: Transitions, settings: OfflineSettings, wanted: ImagineSettings, seed: int) -> Imagined:
    """Fit dynamics and behaviour to the data, imagine rollouts, and keep what the algorithm learns from.

    Everything is kept beside replay; of MBRCSL, the rollouts whose return exceeds the data's, with conditions in the
    place of rewards.

    Raises:
        ReflexError: data or settings that cannot be used, or no rollout exceeds the data.
    """
    algorithm = settings.algorithm
    scaled = scale_rewards(data, settings.reward_scale, algorithm.discount)
    chunks = chunk_transitions(scaled, settings.chunk_horizon, algorithm.discount)
    device = resolve_device(settings.device)
    ensemble, telemetry = _fit(chunks, wanted, seed, device)
    longest = -(-(int(scaled.frames.max()) + 1) // settings.chunk_horizon)
    if isinstance(algorithm, MBRCSL):
        first, horizon = scaled.observations[scaled.episode_starts()], wanted.horizon or longest
    else:
        first, horizon = chunks.observations, wanted.horizon or SHORT_HORIZON
    chosen = np.random.default_rng(derive_seed("imagined starts", seed)).integers(0, len(first), wanted.rollouts)
    rollouts, limit = _roll_out(ensemble, chunks, first[chosen], horizon, wanted, seed)
    report = {
        "change_error": telemetry.change_error,
        "reward_error": telemetry.reward_error,
        "uncertainty_limit": limit,
        "cut": float(rollouts.cut.float().mean()),
        "ended": float((rollouts.terminals & rollouts.valid).any(0).float().mean()),
        "kept": 1.0,
    }
    if not isinstance(algorithm, MBRCSL):
        return Imagined(as_transitions(rollouts, chunks), ensemble, report)
    made, more = _better_than(scaled, chunks, rollouts, first[chosen], algorithm)
    return Imagined(made, ensemble, report | more)


def _roll_out(
    ensemble: DynamicsEnsemble,
    chunks: Transitions,
    starts: NDArray[np.float32],
    horizon: int,
    wanted: ImagineSettings,
    seed: int,
) -> tuple[ImaginedRollouts, float]:
    """Rollouts of the data's behaviour from starts [B, O], and the uncertainty beyond which they are cut."""
    device = ensemble.change_mean.device
    behaviour = _behaviour(chunks, wanted, seed, device)
    generator = torch.Generator().manual_seed(derive_seed("imagined rollouts", seed))
    seen, acted = (torch.from_numpy(values).to(device) for values in (chunks.observations, chunks.actions))
    limit = uncertainty_quantile(ensemble, seen, acted, wanted.uncertainty_quantile, generator, wanted.penalty)
    try:
        rollouts = imagine(
            ensemble, torch.from_numpy(starts).to(device), lambda now: behaviour.act(now, generator), horizon,
            generator, penalty=wanted.penalty, penalty_weight=wanted.penalty_weight, greatest_uncertainty=limit,
        )  # fmt: skip
    except WorldModelError as problem:
        raise ReflexError(f"imagined rollouts failed: {problem}") from problem
    return rollouts, limit


def _better_than(
    scaled: Transitions,
    chunks: Transitions,
    rollouts: ImaginedRollouts,
    starts: NDArray[np.float32],
    algorithm: MBRCSL,
) -> tuple[Transitions, dict[str, float]]:
    """The transitions of rollouts that exceed the data, conditions in the place of rewards, and a report on them."""
    returns = rollouts.returns(algorithm.discount**chunks.chunk_horizon).cpu().numpy()
    cut = rollouts.cut.cpu().numpy()  # nobody knows what such a one would have come to
    kept = exceeding(returns, starts, scaled, algorithm.discount, algorithm.nearest_starts) & ~cut
    best = float(discounted_returns(scaled, algorithm.discount).max())
    if not kept.any():
        raise ReflexError(
            f"none of {len(returns)} imagined rollouts comes to a greater return than the data: {best:.3g} there, "
            f"{returns.max():.3g} here, and {cut.mean():.0%} were cut; raise imagine.rollouts, lower "
            "imagine.penalty_weight, set settings.mbrcsl.nearest_starts=10, or use algo=iql"
        )
    conditions = np.zeros(len(returns), dtype=np.float32)
    conditions[kept] = as_conditions(returns[kept], algorithm.target_quantile)
    chosen = rollouts.valid & torch.from_numpy(kept).to(rollouts.valid.device)
    made = as_transitions(replace(rollouts, valid=chosen), chunks)
    report = {"kept": float(kept.mean()), "kept_return": float(returns[kept].mean()), "data_return": best}
    return made.with_rewards(conditions[made.episodes]), report


def save_imagined(folder: Path, imagined: Imagined) -> None:
    """Write the transitions, their report and the model: all of them or none. Raises `ReflexError` where it cannot."""
    arrays = {name: np.ascontiguousarray(values) for name, values in imagined.transitions.columns().items()}

    def fill(temporary: Path) -> None:
        save_file(arrays, temporary / IMAGINED_FILE)
        write_json(temporary / REPORT_FILE, imagined.report)
        imagined.ensemble.save(temporary / "dynamics")

    replace_folder(folder, fill)


def load_imagined(folder: Path, data: Transitions, settings: OfflineSettings) -> Transitions:
    """What `save_imagined` wrote, of the data's robot. Raises `ReflexError` naming a damaged file."""
    path = folder / IMAGINED_FILE
    with restoring(path):
        arrays: dict[str, Any] = load_file(path)
        return replace(data, chunk_horizon=settings.chunk_horizon, **arrays)


def _fit(
    chunks: Transitions, wanted: ImagineSettings, seed: int, device: torch.device
) -> tuple[DynamicsEnsemble, DynamicsTelemetry]:
    steps = Steps(chunks.observations, chunks.actions, chunks.rewards, chunks.next_observations, chunks.terminals,
                  chunks.episodes)  # fmt: skip
    elites = max(2, wanted.members * 5 // 7)
    try:
        config = DynamicsConfig(
            members=wanted.members, elites=elites, hidden=tuple(wanted.hidden), updates=wanted.updates,
            seed=derive_seed("dynamics", seed), device=str(device),
        )  # fmt: skip
        with progress_bar("dynamics", wanted.updates, 0) as show:
            ensemble, telemetry = fit_dynamics(
                steps, config, lambda done, _, error: show(done, f"error on held-out episodes {error:.3f}")
            )
    except WorldModelError as problem:
        raise ReflexError(f"dynamics could not be fitted to the data: {problem}") from problem
    return ensemble, telemetry


def _behaviour(chunks: Transitions, wanted: ImagineSettings, seed: int, device: torch.device) -> Behaviour:
    with progress_bar("behaviour", wanted.updates, 0) as show:
        return fit_behaviour(
            chunks.observations, chunks.actions, tuple(wanted.hidden), wanted.updates, derive_seed("behaviour", seed),
            device, lambda done: show(done, ""),
        )  # fmt: skip


def as_transitions(rollouts: ImaginedRollouts, data: Transitions) -> Transitions:
    """The valid steps of rollouts as transitions of the data's robot, rollout by rollout; B rollouts are episodes 0 to
    B - 1. Raises `ReflexError` where no step is valid."""
    valid = rollouts.valid.T.cpu().numpy()
    episodes, frames = np.nonzero(valid)

    def column(values: torch.Tensor) -> NDArray[Any]:
        found: NDArray[Any] = values.transpose(0, 1).cpu().numpy()[valid]
        return found

    if not len(episodes):
        raise ReflexError("every imagined rollout was cut at its first step; raise imagine.uncertainty_quantile")
    return replace(
        data,
        observations=column(rollouts.observations),
        actions=column(rollouts.actions),
        rewards=column(rollouts.rewards),
        next_observations=column(rollouts.next_observations),
        terminals=column(rollouts.terminals),
        episodes=episodes.astype(np.int64),
        frames=frames.astype(np.int64) * data.chunk_horizon,
        successes=np.zeros(len(episodes), dtype=np.bool_),
        spans=np.full(len(episodes), data.chunk_horizon, dtype=np.int64),
    )


def discounted_returns(data: Transitions, discount: float) -> NDArray[np.float64]:
    """[E] discounted from the first frame, of episodes of single steps, in order of their numbers."""
    places = np.unique(data.episodes, return_inverse=True)[1]
    earned = data.rewards * discount ** data.frames.astype(np.float64)
    return np.bincount(places, weights=earned).astype(np.float64)


def exceeding(
    returns: NDArray[np.floating], starts: NDArray[np.float32], data: Transitions, discount: float, nearest: int
) -> NDArray[np.bool_]:
    """[B] whether returns [B] of rollouts from starts [B, O] exceed those of the data from there.

    That is the best of the `nearest` episodes whose first observations are most alike, each number at its deviation
    over them; of all episodes where `nearest` is 0.
    """
    known = discounted_returns(data, discount)
    if nearest == 0:
        return np.asarray(returns > known.max())
    first = data.observations[data.episode_starts()]
    scale = first.std(axis=0)
    scale[scale < 1e-6] = 1.0
    count = min(nearest, len(first))
    places = cKDTree(first / scale).query(starts / scale, k=range(1, count + 1))[1]
    return np.asarray(returns > known[places].max(axis=1))


def as_conditions(returns: NDArray[np.floating], quantile: float) -> NDArray[np.float32]:
    """[B] (return - the quantile of returns) / their deviation: 0 is what the policy is asked for."""
    spread = float(returns.std())
    target = float(np.quantile(returns, quantile))
    conditions: NDArray[np.float32] = ((returns - target) / (spread if spread > 1e-6 else 1.0)).astype(np.float32)
    return conditions
