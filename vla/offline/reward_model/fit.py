"""Fits an ensemble of reward networks to preferences; held-out episodes say when to stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.offline.reward_model.bradley_terry import agreement, negative_log_likelihood, targets_of
from vla.rewards.models.ensemble import EnsembleShape, RewardEnsemble
from vla.rewards.models.networks import MlpEnsemble, NetworkKind
from vla.run.devices import resolve_device
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

Objective = Literal["return", "advantage"]

HELD_OUT_BATCH = 256
"""Pairs in one forward pass of the held-out likelihood."""


@dataclass(frozen=True)
class FitSettings:
    """How a reward is fitted to preferences."""

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
        check = Checks(self)
        check.literals()
        check.at_least(1, "members", "hidden", "batch_size", "max_epochs", "patience")
        check.positive("learning_rate")
        check.within(0, 0.9, "held_out", reason="a share of the episodes")
        check.within(0, 0.49, "error_rate", reason="with half of the answers wrong they say nothing")


def fit(
    features: NDArray[Any],
    pairs: NDArray[np.integer],
    answers: NDArray[np.integer],
    episodes: NDArray[np.integer],
    settings: FitSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> RewardEnsemble:
    """Fit a reward to preferences between moments, or between segments of them.

    Args:
        features: [N, F] float of every moment, or uint8 [N, H, W, 3] pictures where the network is a cnn.
        pairs: [P, 2] rows of `features`, or [P, 2, L] those of segments of L moments each.
        answers: [P] 0 where the first is better, 1 where the second is, 2 for a tie.
        episodes: [N] the episode of each row: what is held out is whole episodes, never single pairs.
        settings: how; the defaults are the paper's where it has them.
        seed: of the first parameters, the shuffling, and of which episodes are held out.
        device: where it is computed.

    Returns:
        The ensemble; its `record` has held-out likelihood, accuracy and epochs, a number for each member.

    Raises:
        ReflexError: shapes disagree, a feature is not finite, or too few pairs remain to fit to or to hold out.
    """
    settings = settings or FitSettings()
    segments = _segments(features, pairs, answers, episodes, settings)
    generator = np.random.default_rng(derive_seed("reward fit", seed))
    held_out = held_out_pairs(segments, episodes, settings.held_out, generator)
    place = resolve_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("reward parameters", seed))
        bounded = settings.network == "cnn" if settings.bounded is None else settings.bounded
        shape = EnsembleShape(settings.network, settings.members, tuple(features.shape[1:]), settings.hidden, bounded)
        network = shape.build()
    if isinstance(network, MlpEnsemble):
        network.standardise_by(torch.from_numpy(np.asarray(features, np.float32)))
    ensemble = RewardEnsemble(shape, network.to(place))
    data = _Data(
        inputs=torch.from_numpy(np.ascontiguousarray(features)).to(place),
        segments=torch.from_numpy(segments).to(place),
        targets=torch.from_numpy(targets_of(answers)).to(place),
    )
    if settings.network == "mlp":
        data.inputs = data.inputs.float()
    ensemble.record = _run(ensemble, data, np.flatnonzero(~held_out), np.flatnonzero(held_out), settings, generator)
    ensemble.record["settings"] = asdict(settings) | {"seed": seed}
    return ensemble


def held_out_pairs(
    segments: NDArray[np.int64], episodes: NDArray[np.integer], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """[P] which pairs touch one of the held-out episodes, a share (at least one) of those in `segments` [P, 2, L].

    Raises `ReflexError` when no pair would be left to fit to, or none to hold out.
    """
    if share == 0:
        return np.zeros(len(segments), dtype=bool)
    present = np.unique(episodes[segments])
    chosen = generator.permutation(present)[: max(1, round(share * len(present)))]
    held = np.asarray(np.isin(episodes[segments], chosen).any(axis=(1, 2)))
    if held.all():
        raise ReflexError(
            f"held_out={share} leaves no pair to fit to: {len(segments)} pairs of {len(present)} episodes; label more "
            "pairs, or set held_out=0"
        )
    return held


def _segments(
    features: NDArray[Any],
    pairs: NDArray[np.integer],
    answers: NDArray[np.integer],
    episodes: NDArray[np.integer],
    settings: FitSettings,
) -> NDArray[np.int64]:
    """The pairs as [P, 2, L], checked."""
    segments = np.asarray(pairs, dtype=np.int64)
    segments = segments[..., None] if segments.ndim == 2 else segments
    if segments.ndim != 3 or segments.shape[1] != 2 or answers.shape != segments.shape[:1]:
        raise ReflexError(f"pairs {list(pairs.shape)} and answers {list(answers.shape)} must be [P, 2] and [P]")
    if len(segments) == 0:
        raise ReflexError("there is no pair with an answer to fit a reward to; label some first (vla label)")
    if episodes.shape != features.shape[:1]:
        raise ReflexError(f"{len(features)} rows of features need as many episode numbers, not {list(episodes.shape)}")
    if segments.min() < 0 or segments.max() >= len(features):
        raise ReflexError(f"a pair names row {segments.max()} (or one below 0) of {len(features)} rows of features")
    if np.issubdtype(features.dtype, np.floating) and not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ReflexError(f"row {row} of the features is not finite; check the encoder")
    if settings.objective == "advantage" and segments.shape[2] < 2:
        raise ReflexError("objective=advantage compares segments, and these pairs are of single moments; use return")
    return segments[..., [0, -1]] if settings.objective == "advantage" else segments


@dataclass
class _Data:
    """Everything that a fit reads, where it is computed."""

    inputs: torch.Tensor
    """[N, ...]"""
    segments: torch.Tensor
    """[P, 2, L]"""
    targets: torch.Tensor
    """[P]"""


def _differences(ensemble: RewardEnsemble, data: _Data, chosen: torch.Tensor, objective: Objective) -> torch.Tensor:
    """What the second side of pairs `chosen` [M, B] has more than the first, under each member: [M, B]."""
    rows = data.segments[chosen]
    members = len(rows)
    values = ensemble.forward(data.inputs[rows.reshape(members, -1)]).reshape(rows.shape)
    sides = values[..., 1] - values[..., 0] if objective == "advantage" else values.sum(-1)
    return sides[..., 1] - sides[..., 0]


def _run(
    ensemble: RewardEnsemble,
    data: _Data,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    settings: FitSettings,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Fit in place; each member ends with the parameters of its own best pass. Returns the record."""
    members, place = settings.members, data.targets.device
    parameters = dict(ensemble.network.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, foreach=True)
    best = {name: value.detach().clone() for name, value in parameters.items()}
    best_likelihood = torch.full((members,), torch.inf, device=place)
    best_epoch = torch.zeros(members, dtype=torch.int64, device=place)
    size = min(settings.batch_size, len(fitted))
    epoch = 0
    for epoch in range(1, settings.max_epochs + 1):
        shuffled = np.stack([generator.permutation(fitted) for _ in range(members)])
        order = torch.from_numpy(shuffled).to(place)
        for first in range(0, len(fitted) - size + 1, size):
            chosen = order[:, first : first + size]
            difference = _differences(ensemble, data, chosen, settings.objective)
            losses = negative_log_likelihood(difference, data.targets[chosen], settings.error_rate)
            optimiser.zero_grad(set_to_none=True)
            losses.mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if len(held_out):
            likelihood, _ = _measure(ensemble, data, held_out, settings)
            better = likelihood < best_likelihood
        else:
            likelihood, better = best_likelihood, torch.ones(members, dtype=torch.bool, device=place)
        for name, value in parameters.items():
            best[name][better] = value.detach()[better]
        best_likelihood = torch.where(better, likelihood, best_likelihood)
        best_epoch[better] = epoch
        if epoch - int(best_epoch.max()) >= settings.patience:
            break
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(best[name])
    return _record(ensemble, data, fitted, held_out, settings) | {"epochs": epoch, "best_epoch": best_epoch.tolist()}


@torch.no_grad()
def _measure(
    ensemble: RewardEnsemble, data: _Data, pairs: NDArray[np.int64], settings: FitSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood and agreement of each member [M], and of their mean: the last of the second, [M + 1]."""
    chosen = torch.from_numpy(pairs).to(data.targets.device)
    parts = [
        _differences(ensemble, data, part.expand(settings.members, -1), settings.objective)
        for part in torch.split(chosen, HELD_OUT_BATCH)
    ]
    difference, target = torch.cat(parts, dim=1), data.targets[chosen]
    likelihood = negative_log_likelihood(difference, target, settings.error_rate).mean(dim=1)
    votes = torch.cat([difference, difference.mean(dim=0, keepdim=True)])
    return likelihood, agreement(votes, target)


def _record(
    ensemble: RewardEnsemble,
    data: _Data,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    settings: FitSettings,
) -> dict[str, Any]:
    record: dict[str, Any] = {"pairs_fitted": len(fitted), "pairs_held_out": len(held_out)}
    for name, pairs in (("fitted", fitted), ("held_out", held_out)):
        if len(pairs) == 0:
            continue
        likelihood, agreed = _measure(ensemble, data, pairs, settings)
        accuracy = None if bool(agreed.isnan().any()) else agreed
        record[f"{name}_negative_log_likelihood"] = likelihood.tolist()
        record[f"{name}_accuracy"] = None if accuracy is None else float(accuracy[-1])
        record[f"{name}_accuracy_of_members"] = None if accuracy is None else accuracy[:-1].tolist()
    return record
