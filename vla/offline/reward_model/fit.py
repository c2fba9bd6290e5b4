"""Fits an ensemble of reward networks to preferences; held-out episodes say when to stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.offline.reward_model.bradley_terry import agreement, negative_log_likelihood, targets_of
from vla.offline.reward_model.training import FitSettings, Objective, new_ensemble, train_members
from vla.rewards.models.ensemble import EnsembleShape, RewardEnsemble
from vla.run.devices import resolve_device
from vla.run.seeding import derive_seed

__all__ = ["FitSettings", "fit", "held_out_pairs"]

HELD_OUT_BATCH = 256
"""Pairs in one forward pass of the held-out likelihood."""


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
    bounded = settings.network == "cnn" if settings.bounded is None else settings.bounded
    shape = EnsembleShape(settings.network, settings.members, tuple(features.shape[1:]), settings.hidden, bounded)
    ensemble = new_ensemble(shape, features, seed, place)
    data = _Data(
        inputs=ensemble.inputs_of(features),
        segments=torch.from_numpy(segments).to(place),
        targets=torch.from_numpy(targets_of(answers)).to(place),
    )

    def losses(chosen: torch.Tensor) -> torch.Tensor:
        difference = _differences(ensemble, data, chosen, settings.objective)
        return negative_log_likelihood(difference, data.targets[chosen], settings.error_rate)

    fitted, kept = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    record = train_members(ensemble, losses, fitted, kept, settings, generator)
    for name, chosen in (("fitted", fitted), ("held_out", kept)):
        record[f"pairs_{name}"] = len(chosen)
        measured = _measures(ensemble, data, chosen, settings) if len(chosen) else {}
        record |= {f"{name}_{measure}": value for measure, value in measured.items()}
    ensemble.record = record | {"settings": asdict(settings) | {"seed": seed}}
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


@torch.no_grad()
def _measures(ensemble: RewardEnsemble, data: _Data, pairs: NDArray[np.int64], settings: FitSettings) -> dict[str, Any]:
    """Negative log-likelihood and accuracy of each member, and the accuracy of their mean; None where all are ties."""
    chosen = torch.from_numpy(pairs).to(data.targets.device)
    parts = [
        _differences(ensemble, data, part.expand(settings.members, -1), settings.objective)
        for part in torch.split(chosen, HELD_OUT_BATCH)
    ]
    difference, target = torch.cat(parts, dim=1), data.targets[chosen]
    likelihood = negative_log_likelihood(difference, target, settings.error_rate).mean(dim=1)
    agreed = agreement(torch.cat([difference, difference.mean(dim=0, keepdim=True)]), target)
    decided = not bool(agreed.isnan().any())
    return {
        "negative_log_likelihood": likelihood.tolist(),
        "accuracy": float(agreed[-1]) if decided else None,
        "accuracy_of_members": agreed[:-1].tolist() if decided else None,
    }
