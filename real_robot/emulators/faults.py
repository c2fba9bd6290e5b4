"""What can be made to go wrong on an emulated arm, while it runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Faults:
    """Faults of an emulated servo bus and its cameras; the default is a healthy arm."""

    joints: tuple[str, ...] = ()
    """Whose servos the faults below strike; empty for all."""
    drop: float = 0.0
    """Probability that a status packet is lost."""
    corrupt: float = 0.0
    """Probability that one byte of a status packet is flipped."""
    wrong_id: float = 0.0
    """Probability that a status packet names another servo."""
    spike: int = 0
    """Steps by which a position that is read is wrong."""
    packets: int | None = None
    """Status packets that drop, corrupt, wrong_id and spike may strike before they end; None for no end."""
    latency: float = 0.0
    """Seconds that every answer comes later."""
    error_bits: int = 0
    """Set in every status packet: 1 voltage, 2 sensor, 4 heat, 8 current, 32 overload."""
    silent: bool = False
    """The servos answer nothing, as with a cable that came off; they keep moving to their last goals."""
    jammed: bool = False
    """The servos' goals no longer move them; they stay, powered, at the goal they have."""
    frozen_cameras: tuple[str, ...] = ()
    """Cameras that repeat one picture."""
    black_cameras: tuple[str, ...] = ()
    """Cameras that show black."""

    def __post_init__(self) -> None:
        """Check the ranges. Raises `ValueError` naming the field."""
        for name in ("drop", "corrupt", "wrong_id"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"faults: {name} {getattr(self, name)} must lie in [0, 1]")
        if not (self.latency >= 0.0 and math.isfinite(self.latency)):
            raise ValueError(f"faults: latency {self.latency} must be a number of seconds, 0 or more")
        if not 0 <= self.error_bits < 0x80:
            raise ValueError(f"faults: error_bits {self.error_bits} must lie in [0, 127]")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Faults:
        """Inverse of `to_dict`; what is not given is healthy. Raises `ValueError` naming what is wrong."""
        try:
            given: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
            }
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"faults: {error}") from error
