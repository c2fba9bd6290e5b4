"""What LIBERO's environment shows after a control step: the moment it samples, and the poses needed to draw it later.

robosuite 1.4 samples its observables once per 25 physics substeps, and not at the last one: the two forced samples of
a reset shift the clock, so that states and pictures are those of substep 24 of 25, with float drift. Policies were
trained on those, so the same moment is kept here, as poses that can be drawn when somebody asks for the picture.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

_DRAWN_FIELDS = (
    "xpos",
    "xquat",
    "xmat",
    "xipos",
    "ximat",
    "geom_xpos",
    "geom_xmat",
    "site_xpos",
    "site_xmat",
    "cam_xpos",
    "cam_xmat",
    "light_xpos",
    "light_xdir",
    "subtree_com",
)
"""Fields of mjData that `mjv_updateScene` reads for rigid bodies."""


class ObservationClock:
    """Says at which physics substeps observables sample, as `robosuite.utils.observables.Observable.update` decides."""

    def __init__(self, substep_seconds: float, period_seconds: float) -> None:
        self._substep = substep_seconds
        self._period = period_seconds
        self.restart()

    def restart(self) -> None:
        """The clock after `env.reset()` and `env.set_init_state()`: two forced samples, one substep of time each."""
        self._elapsed = self._substep + self._substep
        self._sampled = True

    def phase(self) -> tuple[float, bool]:
        """Where the clock stands, for `set_phase`."""
        return self._elapsed, self._sampled

    def set_phase(self, phase: tuple[float, bool]) -> None:
        """Put the clock where another stood."""
        self._elapsed, self._sampled = phase

    def tick(self) -> bool:
        """Advance by one substep; returns whether observables sample now."""
        self._elapsed += self._substep
        samples = not self._sampled and self._period >= self._elapsed
        if samples:
            self._sampled = True
        if self._elapsed >= self._period:
            self._elapsed %= self._period
            self._sampled = False
        return samples


class PoseSnapshot:
    """Poses of everything drawn, copied at one moment of a simulation."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self.data = mujoco.MjData(model)
        """Holds the copied poses; nothing else in it is up to date."""
        self.site_rgba: NDArray[np.float32] = model.site_rgba.copy()
        """Site colours at that moment: a stove's flame is a site that a step switches on."""

    def take(self, data: mujoco.MjData) -> None:
        """Copy the present poses of `data`."""
        target: Any = self.data
        for field in _DRAWN_FIELDS:
            getattr(target, field)[:] = getattr(data, field)
        self.site_rgba[:] = self._model.site_rgba
