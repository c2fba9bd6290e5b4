"""One plain picture of MetaWorld's table, from nearer than its own cameras look at it."""

from __future__ import annotations

import mujoco
import numpy as np

from sim.contract import Image
from sim.core.gl import OffscreenContext, restored_context
from sim.core.rendering import draw_plainly
from sim.embodiments import Camera

VIEW = {"lookat": (0.0, 0.68, 0.1), "distance": 1.05, "azimuth": 140.0, "elevation": -40.0, "fovy": 45.0}
"""From behind the robot's right shoulder (m, degrees): the direction of MetaWorld's corner2 and from nearer, so that
the part of the table where things happen fills the picture. What matters is a few pixels wide in 64. Upright."""

HIDDEN_MESHES = ("pedestal", "base", "l0", "head")
"""Parts of the arm that are never in this view, and are a third of what there is to draw."""

_HIDDEN_GROUP = 5
_MAX_GEOMS = 1000


class TableRenderer:
    """A GL context for one model, to be created and used in one process. Whatever context was current stays current.

    No shadows, reflections, sky or multisampling: in software GL they take nine tenths of the time.
    """

    def __init__(self, model: mujoco.MjModel, camera: Camera) -> None:
        """Raises `EnvironmentRequestError` when no off-screen GL context can be created."""
        self._model, self._size = model, (camera.height, camera.width)
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth, model.vis.global_.offheight = camera.width, camera.height
        model.vis.global_.fovy = VIEW["fovy"]
        _hide(model, HIDDEN_MESHES)
        self._context = OffscreenContext(model, camera.width, camera.height, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        draw_plainly(self._scene)
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.lookat[:] = VIEW["lookat"]
        self._camera.distance = VIEW["distance"]
        self._camera.azimuth, self._camera.elevation = VIEW["azimuth"], VIEW["elevation"]
        self._viewport = mujoco.MjrRect(0, 0, camera.width, camera.height)

    def render(self, data: mujoco.MjData) -> Image:
        """A picture of the present state, uint8 [H, W, 3], upright, freshly allocated."""
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        pixels = np.empty((*self._size, 3), dtype=np.uint8)
        with restored_context():
            context = self._context.make_current()
            mujoco.mjr_render(self._viewport, self._scene, context)
            mujoco.mjr_readPixels(pixels, None, self._viewport, context)
        return np.ascontiguousarray(pixels[::-1])


def _hide(model: mujoco.MjModel, meshes: tuple[str, ...]) -> None:
    """Put the geoms of these meshes into a group that is not drawn; physics does not look at groups."""
    hidden = {model.mesh(name).id for name in meshes}
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        if int(model.geom_dataid[geom]) in hidden:
            model.geom_group[geom] = _HIDDEN_GROUP
