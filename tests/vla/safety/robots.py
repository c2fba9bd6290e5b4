"""Small robots for these tests."""

from typing import Any

import numpy as np

from vla.safety.limits import MotionLimits
from vla.safety.stopping import Array


def one_joint(**changes: Any) -> MotionLimits:
    """One joint with round numbers: -10 to 10, velocity 3, acceleration 2, jerk 1."""
    values: dict[str, Any] = {
        "names": ("joint",),
        "units": ("rad",),
        "low": (-10.0,),
        "high": (10.0,),
        "velocity": (3.0,),
        "acceleration": (2.0,),
        "jerk": (1.0,),
    }
    return MotionLimits(**{**values, **changes})


def planar_arm(**changes: Any) -> MotionLimits:
    """Two joints at 20 Hz or so, for `PlanarHand`."""
    values: dict[str, Any] = {
        "names": ("shoulder", "elbow"),
        "units": ("rad", "rad"),
        "low": (-3.0, -3.0),
        "high": (3.0, 3.0),
        "velocity": (2.0, 2.0),
        "acceleration": (20.0, 20.0),
        "jerk": (800.0, 800.0),
    }
    return MotionLimits(**{**values, **changes})


class PlanarHand:
    """Two links of 1 m that turn in the plane z = 0."""

    def position(self, positions: Array) -> Array:
        first, both = positions[0], positions[0] + positions[1]
        return np.array([np.cos(first) + np.cos(both), np.sin(first) + np.sin(both), 0.0])

    def jacobian(self, positions: Array) -> Array:
        first, both = positions[0], positions[0] + positions[1]
        turned = np.array([-np.sin(both), np.cos(both), 0.0])
        return np.stack([np.array([-np.sin(first), np.cos(first), 0.0]) + turned, turned], axis=1)
