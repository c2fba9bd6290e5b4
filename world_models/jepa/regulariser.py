"""SIGReg: keeps latents spread like an isotropic Gaussian, so that predicting them cannot be won by collapsing them.

LeJEPA (arXiv 2511.08544) defines it; LeWorldModel (arXiv 2603.19312) trains a world model with it, without an
exponential-moving-average target or a stopped gradient.
"""

from __future__ import annotations

import torch


def epps_pulley(samples: torch.Tensor, knots: int = 17, limit: float = 3.0) -> torch.Tensor:
    """Epps-Pulley distance of samples [..., N, M] from a standard normal, one statistic per direction: [..., M].

    N * integral over [-limit, limit] of |ecf(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, where ecf is the empirical
    characteristic function of the N samples; trapezoid rule on `knots` points of [0, limit], doubled by symmetry.
    About 1.06 for standard normal samples whatever N; 0.40 * N when every sample is zero.
    """
    t = torch.linspace(0.0, limit, knots, device=samples.device, dtype=samples.dtype)
    gaussian = torch.exp(-0.5 * t.square())
    weights = torch.full_like(t, limit / (knots - 1))
    weights[0] *= 0.5
    weights[-1] *= 0.5
    angles = samples.unsqueeze(-1) * t  # [..., N, M, knots]
    distance = (angles.cos().mean(dim=-3) - gaussian).square() + angles.sin().mean(dim=-3).square()
    statistic: torch.Tensor = 2.0 * samples.shape[-2] * (distance * gaussian * weights).sum(dim=-1)
    return statistic


def sigreg(latents: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Mean Epps-Pulley statistic of latents [..., N, D] along directions [D, M] of unit length. Scalar, differentiable.

    Leading axes (time) are separate batches of N samples, so a latent that changes only with time is not called spread.
    """
    return epps_pulley(latents @ directions).mean()


def random_directions(size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors [size, count], uniform on the sphere; drawn anew at every training step."""
    directions = torch.randn(size, count, generator=generator)
    unit: torch.Tensor = directions / directions.norm(dim=0, keepdim=True).clamp_min(1e-12)
    return unit
