"""Scripted experts for libero_object: one of the things on the floor goes into the basket."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.libero.scene import LiberoScene
from sim.libero.waypoints import PlacingExpert

_Vector = NDArray[np.float64]

RIM = 0.14
"""Height (m) of the basket's rim over the floor."""

CLEARANCE = 0.03
"""Height (m) over the rim at which things are carried, and over the basket's floor at which they are let go."""

DROP = 0.12
"""Height (m) below which the open fingers would touch the basket's sides."""


class BasketExpert(PlacingExpert):
    """libero_object: one of the things on the floor goes into the basket."""

    def _plan(self, scene: LiberoScene) -> None:
        thing, region = scene.definition.goal[self.goal_index].things
        self._thing, self._region = thing.name, region.site
        below = self._plan_across(scene, thing)
        floor = self._floor(scene, below)
        self._carry = floor + RIM + CLEARANCE + below
        drop = floor + max(below + CLEARANCE, DROP)
        self._drop = drop - float((scene.body_rotation(self._thing) @ self._offset)[2])

    def _floor(self, scene: LiberoScene, below: float) -> float:
        """Height (m) of what thing and basket stand on; `below` is the fingertips' over the thing's lower end."""
        return 0.0

    def _destination(self, scene: LiberoScene) -> _Vector:
        return np.array([*scene.data.site_xpos[self._region][:2], self._drop])
