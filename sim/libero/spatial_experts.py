"""Scripted experts for libero_spatial: the black bowl goes onto the plate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.libero.scene import LiberoScene
from sim.libero.waypoints import CARRY_HEIGHT, PlacingExpert

_Vector = NDArray[np.float64]

RADIUS_IN_DRAWER = 0.042
"""The same for a bowl in a drawer, a little inwards: the outer finger must clear the drawer's side."""

IN_THE_OPEN = -0.002
"""Distance (m) of a bowl from the drawer's middle, outwards, at which the cabinet's top does not hang over it."""

DRAW_LEAD = 0.01
"""How far (m) beyond that the hand is sent, so that it gets there soon."""

DRAW_HEIGHT = 0.008
"""Height (m) over the drawer's floor at which a bowl is drawn from under the cabinet's top."""

DRAW_OUT_STEPS = 25
"""Control steps of drawing a bowl from under the cabinet's top."""


class BowlExpert(PlacingExpert):
    """libero_spatial: the black bowl goes onto the plate."""

    def _plan(self, scene: LiberoScene) -> None:
        _, self._thing, self._plate = scene.goal()[0]
        self._carry = CARRY_HEIGHT
        self._plan_hold(scene)

    def _plan_hold(self, scene: LiberoScene) -> None:
        self._plan_rim()

    def _holding_point(self, scene: LiberoScene) -> _Vector:
        return scene.body_position(self._thing) + self._rim_offset

    def _destination(self, scene: LiberoScene) -> _Vector:
        return scene.body_position(self._plate)


class BowlInDrawerExpert(BowlExpert):
    """The bowl lies in an open drawer, which leaves little room beside it, and maybe partly under the cabinet's top.

    In evaluation the cabinet stands up to 2 cm from where it stood when the bowl was put into its drawer.
    """

    def _plan_hold(self, scene: LiberoScene) -> None:
        model, data = scene.model, scene.data
        self._region = model.site("wooden_cabinet_1_top_region").id
        joint = int(model.body_jntadr[model.site_bodyid[self._region]])
        opened = data.qpos[model.jnt_qposadr[joint]]
        self._outwards: _Vector = np.sign(opened) * data.xaxis[joint]
        # The fingers close along the drawer's width, on the side of the bowl where there is more room.
        width = data.site_xmat[self._region].reshape(3, 3)[:, 2]
        self._plan_rim(width, RADIUS_IN_DRAWER)
        if self._rim_offset[:2] @ (scene.body_position(self._thing) - data.site_xpos[self._region])[:2] > 0.0:
            self._rim_offset[:2] *= -1.0

    def _next(self, scene: LiberoScene, position: _Vector, aligned: bool) -> tuple[_Vector, float]:
        if self._phase == "approach" and self._steps_in_phase == 1:
            self._plan_hold(scene)  # again after a loss: the bowl has moved
            self._drawn_out = False
        if self._phase != "lift" or self._drawn_out:
            return super()._next(scene, position, aligned)
        missing = IN_THE_OPEN - self._outwards @ (scene.body_position(self._thing) - scene.data.site_xpos[self._region])
        if missing < 0.0 or self._steps_in_phase > DRAW_OUT_STEPS:
            self._drawn_out = True
            self._hold = position
        target = position + (missing + DRAW_LEAD) * self._outwards
        return np.array([*target[:2], self._hold[2] + DRAW_HEIGHT]), 1.0
