"""Off-screen rendering of MuJoCo scenes, one GL context for all models of one look in a process."""

from __future__ import annotations

import mujoco
import numpy as np

from sim.contract import EnvironmentRequestError, Image
from sim.core.gl import OffscreenContext

_MAX_GEOMS = 200


_CONTEXTS: dict[tuple[float, ...], OffscreenContext] = {}
"""By `_context_key`."""


def _context_key(model: mujoco.MjModel, size: int) -> tuple[float, ...]:
    """What of a model is in its GL context: its planes as they are tessellated, and the quality of everything round."""
    planes = model.geom_size[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE]
    quality = model.vis.quality
    round_things = (quality.numslices, quality.numstacks, quality.numquads, quality.offsamples, quality.shadowsize)
    return (size, model.vis.map.zfar * model.stat.extent if (planes == 0).any() else 0.0, *round_things, *planes.flat)


def draw_plainly(scene: mujoco.MjvScene) -> None:
    """Leave out of a scene what costs time and is no shape: shadows, reflections, sky, fog and haze."""
    for name in ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE"):
        scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{name}")] = 0


class PrimitiveRenderer:
    """Renders models made of primitive shapes only.

    Such models need no per-model GL resources, so all of them share one context; a context costs about 50 ms and
    several megabytes, and a pretraining run builds thousands of scenes.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        if model.nmesh or model.ntex or model.nhfield:
            raise EnvironmentRequestError(
                "PrimitiveRenderer draws primitive shapes only; this model has meshes or textures"
            )
        self._model = model
        self._size, self._key = size, _context_key(model, size)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        draw_plainly(self._scene)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._perturb = mujoco.MjvPerturb()
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), dtype=np.uint8)

    def render(self, data: mujoco.MjData, cameras: tuple[int, ...]) -> list[Image]:
        """Draw each camera of `data`'s present state; images are uint8 [size, size, 3], upright, freshly allocated."""
        if self._key not in _CONTEXTS:
            _CONTEXTS[self._key] = OffscreenContext(
                self._model, self._size, self._size, mujoco.mjtFontScale.mjFONTSCALE_50
            )
        # Each time: another renderer of this process may have made its own context current and left it so.
        context = _CONTEXTS[self._key].make_current()
        images = []
        for index, camera in enumerate(cameras):
            self._camera.fixedcamid = camera
            if index == 0:
                mujoco.mjv_updateScene(
                    self._model,
                    data,
                    self._option,
                    self._perturb,
                    self._camera,
                    mujoco.mjtCatBit.mjCAT_ALL,
                    self._scene,
                )
            else:
                mujoco.mjv_updateCamera(self._model, data, self._camera, self._scene)
            mujoco.mjr_render(self._viewport, self._scene, context)
            mujoco.mjr_readPixels(self._pixels, None, self._viewport, context)
            images.append(self._pixels[::-1].copy())
        return images
