"""The clipped policy-gradient loss over the units of decisions, and the numbers that tell if an update is healthy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossTerms:
    """Sums over the units (tokens, denoising steps, one Gaussian) of one (micro) batch; divide by `units` for means."""

    loss: Tensor
    """Scalar to differentiate: sum of the weighted losses, penalty and bonus included."""
    units: int
    """Units that took part."""
    clipped: float
    """Units whose gradient a clip cut off."""
    approximate_kl: float
    """Sum of the k3 estimate of KL(old || new)."""
    reference_kl: float
    """Sum of the k3 estimate of KL(new || reference); 0 without a reference."""
    entropy: float
    """Sum of the units' entropies, in nats."""


def k3_divergence(log_probs: Tensor, other_log_probs: Tensor) -> Tensor:
    """Elementwise k3 estimate of KL(p || q), q/p - 1 - log(q/p), for samples of p; never negative, unbiased.

    `log_probs` are those of p (which the decisions were sampled from), `other_log_probs` those of q.
    Source: J. Schulman, "Approximating KL divergence" (2020).
    """
    log_ratio = other_log_probs - log_probs
    return torch.expm1(log_ratio) - log_ratio


def clipped_objective(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective for each unit, to be maximised, and which units lost their gradient to a clip.

    min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) with a ratio for each unit. The higher upper bound
    lets unlikely good units grow ("clip-higher", DAPO, arXiv 2503.14476). `dual_clip` c > 1 bounds the objective of a
    negative advantage from below by c * A (arXiv 1912.09729), for which the ratio is otherwise unbounded.

    Shapes: all broadcast against `log_probs` [B, U].
    """
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped = ratio * advantages
    clipped = torch.clamp(ratio, 1.0 - clip_low, 1.0 + clip_high) * advantages
    objective = torch.minimum(unclipped, clipped)
    cut = clipped < unclipped
    if dual_clip is not None:
        floor = dual_clip * advantages
        below = (advantages < 0) & (objective < floor)
        objective, cut = torch.where(below, floor.expand_as(objective), objective), cut | below
    return objective, cut


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    entropies: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    reference_log_probs: Tensor | None = None,
    kl_coefficient: float = 0.0,
    entropy_coefficient: float = 0.0,
) -> LossTerms:
    """Loss of B decisions of U units each.

    Args:
        log_probs: [B, U] under the present policy, differentiable.
        old_log_probs: [B, U] recorded when the decisions were sampled.
        entropies: [B, U] of the present policy, differentiable.
        advantages: [B] of each decision's rollout; every unit shares it.
        mask: [B, U] bool, units whose step was executed. The others had no influence on the outcome.
        weights: [B] what a unit of each decision counts (`vla.rl.advantages.length_weights`).
        clip_low, clip_high, dual_clip: see `clipped_objective`.
        reference_log_probs: [B, U] under the frozen reference policy.
        kl_coefficient: weight of the k3 penalty KL(new || reference), as GRPO puts it in the loss.
        entropy_coefficient: weight of the entropy bonus.
    """
    objective, cut = clipped_objective(log_probs, old_log_probs, advantages[:, None], clip_low, clip_high, dual_clip)
    unit_losses = -objective
    reference_kl = torch.zeros_like(log_probs)
    if reference_log_probs is not None:
        reference_kl = k3_divergence(log_probs, reference_log_probs)
        unit_losses = unit_losses + kl_coefficient * reference_kl
    if entropy_coefficient:
        unit_losses = unit_losses - entropy_coefficient * entropies
    old_kl = k3_divergence(old_log_probs, log_probs.detach())
    return LossTerms(
        loss=(unit_losses * weights[:, None])[mask].sum(),
        units=int(mask.sum()),
        clipped=float((cut & mask).sum()),
        approximate_kl=float(old_kl[mask].sum()),
        reference_kl=float(reference_kl.detach()[mask].sum()),
        entropy=float(entropies.detach()[mask].sum()),
    )
