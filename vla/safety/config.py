"""What the action filter refuses besides motion beyond the limits."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from vla.errors import ReflexError
from vla.run.settings import Checks


@dataclass(frozen=True)
class FilterConfig:
    """Settings of the action filter; the robot's limits are `MotionLimits`, from the robot's file."""

    max_age: float = 1.0
    """Seconds between an observation and the last action that may still be sent on its account."""
    max_seam_jump: list[float] | None = None
    """By joint, in its unit: a greater jump from one chunk's last action to the next one's first is reported."""
    max_tracking_error: list[float] | None = None
    """By joint, in its unit: the greatest distance between commanded and measured position; null: not compared."""
    on_tracking_error: Literal["hold", "stop"] = "stop"
    """What a greater distance causes: a hold while it lasts, or a stop until somebody resets the filter."""

    def __post_init__(self) -> None:
        check = Checks(self, "filter.")
        check.literals()
        check.positive("max_age")
        for name in ("max_seam_jump", "max_tracking_error"):
            values = getattr(self, name)
            if values is not None and not (values and all(0 < value < math.inf for value in values)):
                raise ReflexError(f"filter.{name} is {values!r}; give one number above 0 for each joint, or null")

    def check_size(self, size: int) -> None:
        """Raise `ReflexError` if a list is not one number for each of `size` joints."""
        for name in ("max_seam_jump", "max_tracking_error"):
            values = getattr(self, name)
            if values is not None and len(values) != size:
                raise ReflexError(f"filter.{name} has {len(values)} numbers; the robot's limits name {size} joints")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)
