"""All that the action filter knows beforehand, in the shape in which it is used."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla.safety.config import FilterConfig
from vla.safety.limits import MotionLimits
from vla.safety.stopping import Array
from vla.safety.workspace import HandModel, Volumes

TOLERANCE = 1e-9
"""Share by which velocity, acceleration and jerk may exceed their limits, besides the rounding of positions."""
_POSITION_TOLERANCE = 1e-12
"""The same for positions, of the greater end of the range."""


def limit_table(limits: MotionLimits, period: float) -> Array:
    """The limits as `vla.safety.stopping` takes them, float64 [9, J].

    Finite differences of float64 positions are rounded: a difference of order n by about 2^n spacings of the position
    over the period to the n. That much more is allowed, so that an action at a limit passes.
    """
    low, high = np.asarray(limits.low), np.asarray(limits.high)
    velocity, acceleration = np.asarray(limits.velocity), np.asarray(limits.acceleration)
    step = np.asarray(limits.jerk) * period
    greatest = np.maximum(np.abs(low), np.abs(high))
    rounding = 2.0 * np.spacing(greatest)
    return np.array(
        [
            low,
            high,
            velocity,
            acceleration,
            step,
            _POSITION_TOLERANCE * greatest,
            TOLERANCE * velocity + 2.0 * rounding / period,
            TOLERANCE * acceleration + 4.0 * rounding / period**2,
            TOLERANCE * step + 8.0 * rounding / period**2,
        ]
    )


def time_to_rest(limits: MotionLimits, period: float) -> Array:
    """Seconds [J] within which each joint comes to rest from any motion within its limits: an upper bound.

    The worst case is a joint that is about to reach its greatest velocity V with the acceleration A that the jerk J
    allows: it lets go of the acceleration and then brakes from V. That takes V/A + 2A/J where V is at least A^2/J,
    and at most (2 + sqrt 2) sqrt(V/J) otherwise. Sampling adds less than four periods.
    """
    velocity, acceleration, jerk = (np.asarray(getattr(limits, name)) for name in ("velocity", "acceleration", "jerk"))
    reached = np.minimum(acceleration, np.sqrt(velocity * jerk))
    bound: Array = np.minimum(acceleration, np.sqrt(2.0 * velocity * jerk)) / jerk + velocity / reached + reached / jerk
    return bound + 4.0 * period


@dataclass(frozen=True)
class FilterSetup:
    """Limits, period, settings and hand of one filter, checked together."""

    limits: MotionLimits
    period: float
    """Seconds between two actions."""
    config: FilterConfig
    hand: HandModel | None = None
    """Where the hand is; needed where the limits name a workspace or keep-out volumes."""
    table: Array = field(init=False, compare=False)
    """`limit_table`, [9, J]."""
    volumes: Volumes | None = field(init=False, compare=False)
    """Where the hand may be; None for anywhere."""
    longest_stop: int = field(init=False, compare=False)
    """Periods within which every joint comes to rest."""

    def __post_init__(self) -> None:
        """Check that everything fits together.

        Raises `ValueError` for a period that is no positive number, and where the limits name volumes and there is no
        hand; `ReflexError` for a setting that does not fit the joints.
        """
        if not (self.period > 0 and math.isfinite(self.period)):
            raise ValueError(f"the action filter's period is {self.period!r} s; it must be a positive number")
        self.config.check_size(self.size)
        volumes = Volumes.of(self.limits)
        if volumes is not None and self.hand is None:
            raise ValueError("these motion limits have a workspace or keep-out volumes; give the filter a hand model")
        object.__setattr__(self, "table", limit_table(self.limits, self.period))
        object.__setattr__(self, "volumes", volumes)
        longest = float(time_to_rest(self.limits, self.period).max())
        object.__setattr__(self, "longest_stop", math.ceil(longest / self.period))

    @property
    def size(self) -> int:
        """J."""
        return len(self.limits.names)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: all that decides what the filter answers, but the hand's geometry."""
        return {"limits": self.limits.to_dict(), "period": self.period, "config": self.config.to_dict()}

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON of `to_dict`: what a log names its filter by."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()
