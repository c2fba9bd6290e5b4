"""How far and how fast a robot may be told to move: read from the robot's file, never written in code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the robot's base frame."""

    low: tuple[float, float, float]
    """Metres."""
    high: tuple[float, float, float]
    """Metres."""


@dataclass(frozen=True)
class MotionLimits:
    """Limits of a command vector of J positions; all have J entries."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    """Of the positions ("deg", "rad", "m", "%"); rates are these per second, per second squared and cubed."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    workspace: Box | None = None
    """Where the hand must stay; None for anywhere."""
    keep_out: tuple[Box, ...] = ()
    """Where the hand must not be."""

    def __post_init__(self) -> None:
        """Check that everything fits together. Raises `ValueError` naming the field."""
        for field in ("units", "low", "high", "velocity", "acceleration", "jerk"):
            values = getattr(self, field)
            if len(values) != len(self.names):
                raise ValueError(f"motion limits: {field} has {len(values)} entries, not {len(self.names)}")
        for field in ("low", "high", "velocity", "acceleration", "jerk"):
            if not np.isfinite(getattr(self, field)).all():
                raise ValueError(f"motion limits: {field} holds a number that is not finite")
        if not np.all(np.asarray(self.low) < np.asarray(self.high)):
            raise ValueError("motion limits: every low must be below its high")
        for field in ("velocity", "acceleration", "jerk"):
            if not np.all(np.asarray(getattr(self, field)) > 0):
                raise ValueError(f"motion limits: every {field} must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionLimits:
        """Inverse of `to_dict`. Raises `ValueError` naming what is missing or wrong."""
        try:
            given: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
            }
            if given.get("workspace") is not None:
                given["workspace"] = _box(given["workspace"])
            given["keep_out"] = tuple(_box(box) for box in given.get("keep_out", ()))
            return cls(**given)
        except (KeyError, TypeError) as error:
            raise ValueError(f"motion limits lack or garble {error}") from error


def _box(values: Mapping[str, Any]) -> Box:
    return Box(low=tuple(values["low"]), high=tuple(values["high"]))
