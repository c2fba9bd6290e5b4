"""How unsure an ensemble is of a step: the penalties that Lu et al. compare, by their names.

"Revisiting Design Choices in Offline Model-Based Reinforcement Learning" (arXiv 2110.04135, section 3). M members
predict Gaussians with means mu_i and deviations sigma_i [M, B, D]; a penalty is one number a step, [B], the greater the
less is known. Here D counts the changes of the observation, each at its deviation over the data, so that no dimension
counts for its unit. The reward does not count: a rare one is unsure by nature, and would be punished for being rare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

PenaltyName = Literal["ensemble_deviation", "max_aleatoric", "max_pairwise_difference", "loo_kl", "ll_variance"]

Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(means [M, B, D], deviations [M, B, D], the outcome that was drawn [B, D]) -> [B]."""


def max_aleatoric(means: Tensor, deviations: Tensor, drawn: Tensor) -> Tensor:
    """[B] max_i |sigma_i|, of MOPO (arXiv 2005.13239): how much noise the most doubtful member expects."""
    sizes: Tensor = torch.linalg.vector_norm(deviations, dim=-1)
    return sizes.amax(0)


def max_pairwise_difference(means: Tensor, deviations: Tensor, drawn: Tensor) -> Tensor:
    """[B] max_ij |mu_i - mu_j|, of MOReL (arXiv 2005.05951): how far the two members lie apart that agree least."""
    distances: Tensor = torch.linalg.vector_norm(means[:, None] - means[None], dim=-1)
    return distances.amax((0, 1))


def ensemble_deviation(means: Tensor, deviations: Tensor, drawn: Tensor) -> Tensor:
    """[B] the length of the deviations of the members' equal mixture: noise and disagreement together.

    Its variance is mean_i(sigma_i^2 + mu_i^2) - (mean_i mu_i)^2 (arXiv 1612.01474), computed as
    mean_i(sigma_i^2) + mean_i((mu_i - mean mu)^2), which does not cancel in float32.
    """
    variances = deviations.square().mean(0) + (means - means.mean(0)).square().mean(0)
    return variances.sum(-1).sqrt()


def loo_kl(means: Tensor, deviations: Tensor, drawn: Tensor) -> Tensor:
    """[B] mean_i KL(member i, the Gaussian that has the mixture's moments of all others), of M2AC (arXiv 2010.04893).

    With m_i, s_i of the others: KL = sum_d(log(s_i / sigma_i) + (sigma_i^2 + (mu_i - m_i)^2) / (2 s_i^2) - 1/2).
    Needs two members or more.
    """
    others = len(means) - 1
    rest = (means.sum(0) - means) / others
    squares = deviations.square() + means.square()
    variances = ((squares.sum(0) - squares) / others - rest.square()).clamp_min(1e-12)
    ratio = (deviations.square() + (means - rest).square()) / (2 * variances)
    return (variances.log() / 2 - deviations.log() + ratio - 0.5).sum(-1).mean(0)


def ll_variance(means: Tensor, deviations: Tensor, drawn: Tensor) -> Tensor:
    """[B] the variance over members of the log-likelihood of the outcome that was drawn."""
    scores = ((drawn - means) / deviations).square()
    likelihoods = -0.5 * scores - deviations.log() - 0.5 * math.log(2 * math.pi)
    return likelihoods.sum(-1).var(0, correction=0)


PENALTIES: dict[str, Penalty] = {
    "ensemble_deviation": ensemble_deviation,
    "max_aleatoric": max_aleatoric,
    "max_pairwise_difference": max_pairwise_difference,
    "loo_kl": loo_kl,
    "ll_variance": ll_variance,
}
"""By name."""
