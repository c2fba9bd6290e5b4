"""Rollouts that an ensemble of dynamics imagines, from given observations, under a given way to act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from world_models.dynamics.ensemble import DynamicsEnsemble
from world_models.dynamics.penalties import PENALTIES, PenaltyName
from world_models.errors import WorldModelError

Act = Callable[[Tensor], Tensor]
"""Observations [B, O] -> actions [B, A]."""

ROWS_AT_ONCE = 4096
"""Steps whose uncertainty is computed together."""


@dataclass(frozen=True)
class ImaginedRollouts:
    """B rollouts of at most T steps; a rollout's steps are those that are `valid`, from its first."""

    observations: Tensor
    """[T, B, O]"""
    actions: Tensor
    """[T, B, A]"""
    rewards: Tensor
    """[T, B] less the penalty."""
    next_observations: Tensor
    """[T, B, O]"""
    terminals: Tensor
    """[T, B] bool: the model expects the episode to end for good there."""
    uncertainties: Tensor
    """[T, B]"""
    valid: Tensor
    """[T, B] bool: before the rollout ended, by a terminal or because the ensemble was too unsure."""
    cut: Tensor
    """[B] bool: ended because the ensemble was too unsure; that step is not valid."""

    def returns(self, discount: float) -> Tensor:
        """[B] the discounted sum of each rollout's rewards."""
        times = torch.arange(len(self.rewards), device=self.rewards.device)
        return (self.rewards * self.valid * (discount**times)[:, None]).sum(0)


@torch.no_grad()
def imagine(
    ensemble: DynamicsEnsemble,
    starts: Tensor,
    act: Act,
    horizon: int,
    generator: torch.Generator,
    *,
    penalty: PenaltyName = "ensemble_deviation",
    penalty_weight: float = 0.0,
    greatest_uncertainty: float | None = None,
) -> ImaginedRollouts:
    """Imagine a rollout from each start [B, O].

    A step is drawn from a member that is drawn for it, as in MBPO (arXiv 1906.08253). Its reward is
    r - `penalty_weight` u: r is the members' mean, u the uncertainty by `penalty` (arXiv 2110.04135). A rollout is cut
    before a step whose u passes `greatest_uncertainty` (see `uncertainty_quantile`), as long rollouts of NEUBAY are
    (arXiv 2512.04341).

    Args:
        ensemble: of two members or more.
        starts: [B, O] on the ensemble's device.
        act: what is done; anything random in it is its own.
        horizon: T, steps at most.
        generator: on the CPU, of what is drawn here.
        penalty: a name of `PENALTIES`.
        penalty_weight: lambda of the paper, at least 0: reward for each unit of u.
        greatest_uncertainty: None never cuts.

    Raises:
        WorldModelError: an imagined observation is not finite.
    """
    observations, alive = starts, torch.ones(len(starts), dtype=torch.bool, device=starts.device)
    cut = torch.zeros_like(alive)
    parts: list[tuple[Tensor, ...]] = []
    for step in range(horizon):
        actions = act(observations)
        following, rewards, ends, unsure = _step(ensemble, observations, actions, generator, penalty)
        if greatest_uncertainty is not None:
            too_unsure = alive & (unsure > greatest_uncertainty)
            cut, alive = cut | too_unsure, alive & ~too_unsure
        if not torch.isfinite(following[alive]).all():
            raise WorldModelError(
                f"imagined observations are not finite at step {step + 1}; imagine fewer steps, or cut rollouts sooner"
            )
        parts.append((observations, actions, rewards - penalty_weight * unsure, following, ends, unsure, alive))
        alive = alive & ~ends
        # A rollout that has ended stands still: what it would imagine on might not be finite, and counts nowhere.
        observations = torch.where(alive[:, None], following, observations)
        if not alive.any():
            break
    observed, acted, rewarded, after, terminals, unsure, valid = (
        torch.stack(column) for column in zip(*parts, strict=True)
    )
    return ImaginedRollouts(observed, acted, rewarded, after, terminals, unsure, valid, cut)


@torch.no_grad()
def uncertainty_quantile(
    ensemble: DynamicsEnsemble,
    observations: Tensor,
    actions: Tensor,
    quantile: float,
    generator: torch.Generator,
    penalty: PenaltyName = "ensemble_deviation",
) -> float:
    """The quantile, in [0, 1], of the uncertainty of logged steps: observations [N, O], actions [N, A]."""
    rows = torch.arange(len(observations), device=observations.device)
    unsure = [
        _step(ensemble, observations[part], actions[part], generator, penalty)[3]
        for part in torch.split(rows, ROWS_AT_ONCE)
    ]
    values = torch.cat(unsure).sort().values  # torch.quantile refuses more than 16 million numbers
    return float(values[round(quantile * (len(values) - 1))])


def _step(
    ensemble: DynamicsEnsemble, observations: Tensor, actions: Tensor, generator: torch.Generator, penalty: PenaltyName
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Next observations [B, O], rewards [B], terminals [B] and uncertainties [B], of a member drawn for each."""
    found = ensemble(observations, actions)
    count, device = len(observations), observations.device
    chosen = torch.randint(ensemble.members, (count,), generator=generator).to(device)
    noise = torch.randn(count, found.means.shape[-1], generator=generator).to(device)
    chance = torch.rand(count, generator=generator).to(device)
    rows = torch.arange(count, device=device)
    drawn = found.means[chosen, rows] + found.deviations[chosen, rows] * noise
    following = ensemble.next_observations(observations, drawn)
    ends = chance < torch.sigmoid(found.terminals[chosen, rows])
    rewards = ensemble.expected_rewards(found)
    return following, rewards, ends, PENALTIES[penalty](found.means, found.deviations, drawn)
