"""What the action filter answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Decision(StrEnum):
    """What becomes of an action, from the mildest to the most severe."""

    PASS = "pass"
    """It is sent as it is."""
    CLIP = "clip"
    """It is sent, changed as little as the limits ask for."""
    HOLD = "hold"
    """It is not used: the arm slows down within its limits and stays."""
    STOP = "stop"
    """It is not used, the arm slows down and stays, and nothing passes until somebody resets the filter."""


@dataclass(frozen=True)
class Filtered:
    """One filtered action."""

    action: NDArray[np.float64]
    """[J] what may be sent: within the limits, whatever was asked for."""
    decision: Decision
    reasons: tuple[str, ...]
    """Codes, e.g. "velocity:elbow_flex.pos". A pass has at most remarks, "seam:..." ones, which change nothing."""
