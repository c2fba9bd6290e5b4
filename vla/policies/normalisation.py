"""Actions and states to [-1, 1] and back, by their quantiles as in OpenVLA or by mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError

_EPSILON = 1e-8  # OpenVLA's guard for a dimension whose quantiles coincide

GAUSSIAN_Q99 = 2.3263479
"""Standard deviations between a Gaussian's mean and its 99 % quantile."""

Array = NDArray[Any]
ScaleFrom = Literal["quantiles", "mean_std"]
"""What a scale is taken from data by. "quantiles": 1 % and 99 %, which a few wild values do not move. "mean_std": where
mean and standard deviation put these quantiles of a Gaussian, for numbers that so seldom move that theirs coincide."""


@dataclass(frozen=True)
class Normalisation:
    """What maps actions and states to [-1, 1]: their 1 % and 99 % quantiles, or a Gaussian's (`ScaleFrom`)."""

    action_q01: NDArray[np.float32]
    """[A]"""
    action_q99: NDArray[np.float32]
    """[A]"""
    state_q01: NDArray[np.float32]
    """[S]"""
    state_q99: NDArray[np.float32]
    """[S]"""

    def __post_init__(self) -> None:
        for low_name, high_name in (("action_q01", "action_q99"), ("state_q01", "state_q99")):
            low, high = getattr(self, low_name), getattr(self, high_name)
            if low.shape != high.shape or low.ndim != 1:
                raise ReflexError(
                    f"normalisation: {low_name} {low.shape} and {high_name} {high.shape} must be equal vectors"
                )
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise ReflexError(f"normalisation: {low_name} or {high_name} holds NaN or infinity")
            if (high < low).any():
                wrong = np.flatnonzero(high < low).tolist()
                raise ReflexError(f"normalisation: {high_name} is below {low_name} in dimensions {wrong}")

    @classmethod
    def create(cls, action_q01: Any, action_q99: Any, state_q01: Any, state_q99: Any) -> Normalisation:
        """Build from anything array-like. Raises `ReflexError` on shapes, order or values that cannot be right."""
        return cls(*(np.array(value, dtype=np.float32) for value in (action_q01, action_q99, state_q01, state_q99)))

    @classmethod
    def identity(cls, action_size: int, state_size: int) -> Normalisation:
        """Leaves actions and states as they are."""
        ones_action, ones_state = np.ones(action_size, np.float32), np.ones(state_size, np.float32)
        return cls(-ones_action, ones_action, -ones_state, ones_state)


def normalise(values: Array, low: Array, high: Array) -> Array:
    """Map [low, high] to [-1, 1] linearly: 2 (x - q01) / (q99 - q01 + 1e-8) - 1. Not clipped."""
    return 2.0 * (values - low) / (high - low + _EPSILON) - 1.0


def unnormalise(values: Array, low: Array, high: Array) -> Array:
    """Inverse of `normalise`: 0.5 (x + 1) (q99 - q01 + 1e-8) + q01."""
    return 0.5 * (values + 1.0) * (high - low + _EPSILON) + low


def quantiles(
    values: NDArray[np.floating[Any]], scale: ScaleFrom = "quantiles"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """1 % and 99 % quantiles over the first axis; under "mean_std" those of a Gaussian with its mean and deviation."""
    if scale == "mean_std":
        mean, reach = np.mean(values, axis=0, dtype=np.float64), GAUSSIAN_Q99 * np.std(values, axis=0, dtype=np.float64)
        low, high = mean - reach, mean + reach
    else:
        low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return low.astype(np.float32), high.astype(np.float32)
