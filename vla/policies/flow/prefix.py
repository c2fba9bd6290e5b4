"""Real-time chunking: a chunk that continues the actions under way (arXiv 2506.07339, "guided inpainting").

While a policy decides, the arm executes the first actions of what it has; the new chunk must agree with those, since
they cannot be changed any more, and should agree, less and less, with the ones after them. Each denoising step
therefore is pulled towards them, by the gradient of the squared error that the chunk it would end in has:

    v' = v + min(beta, (1 - t) / (t r^2)) J^T W (Y - x1),   x1 = x + (1 - t) v,   r^2 = (1 - t)^2 / (t^2 + (1 - t)^2),

with J the derivative of x1 by x, Y the actions under way, and W their weights (equations 2 to 5 there, whose time runs
as it does here). No training is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla.errors import ReflexError

MAX_GUIDANCE = 5.0
"""beta: the most that the pull counts, which the first step, at t = 0, would make infinite. The paper's value."""


@dataclass(frozen=True)
class Prefix:
    """Actions under way for one chunk of H."""

    actions: NDArray[np.float32]
    """[R, A] in the units of the policy's embodiment, the first for the moment of the observation; R is at most H."""
    delay: int
    """How many of them will be executed before the new chunk is there: those are kept with full weight."""
    max_guidance: float = MAX_GUIDANCE

    def __post_init__(self) -> None:
        """Check shapes. Raises `ReflexError`."""
        if self.actions.ndim != 2 or not 0 <= self.delay <= len(self.actions):
            raise ReflexError(
                f"a prefix has actions [R, A] and a delay of 0 to R, not {list(self.actions.shape)} and {self.delay}"
            )
        if not np.isfinite(self.actions).all():
            raise ReflexError("the actions of a prefix hold a number that is not finite")

    def padded(self, horizon: int) -> NDArray[np.float32]:
        """[H, A] the actions, then their last one again, which has no weight. Raises `ReflexError` when R exceeds H."""
        length = len(self.actions)
        if not 1 <= length <= horizon:
            raise ReflexError(f"a prefix of {length} actions does not fit a chunk of {horizon}")
        return self.actions[np.minimum(np.arange(horizon), length - 1)]

    def weights(self, horizon: int) -> NDArray[np.float32]:
        """[H] how much each action is kept; see `prefix_weights`."""
        return prefix_weights(len(self.actions), self.delay, horizon)


def prefix_weights(length: int, delay: int, horizon: int) -> NDArray[np.float32]:
    """[H] 1 for the first `delay` actions, then falling to 0 after `length`: equation 5 of the paper.

    With c = (length - i) / (length - delay + 1), the weight at i in [delay, length) is c (e^c - 1) / (e - 1).
    """
    places = np.arange(horizon)
    share = np.clip((length - places) / (length - delay + 1), 0.0, 1.0)
    fading = share * np.expm1(share) / math.expm1(1.0)
    weights: NDArray[np.float32] = np.where(places < delay, 1.0, fading).astype(np.float32)
    return weights


def guidance_scale(time: float, most: float) -> float:
    """min(most, (1 - t) / (t r^2)) at time t in [0, 1)."""
    if time <= 0.0:
        return most
    return min(most, (time**2 + (1.0 - time) ** 2) / (time * (1.0 - time)))


def guided_velocity(
    velocity: Callable[[Tensor], Tensor], x: Tensor, time: float, targets: Tensor, weights: Tensor, most: float
) -> Tensor:
    """The velocity [B, H, A] at x [B, H, A] and `time`, pulled towards `targets` [B, H, A] with weights [H]."""
    with torch.enable_grad():
        start = x.detach().requires_grad_(True)
        plain = velocity(start)
        end = start + (1.0 - time) * plain
        error = (weights[:, None] * (targets - end)).detach()
        (pull,) = torch.autograd.grad(end, start, error)
    return plain.detach() + guidance_scale(time, most) * pull
