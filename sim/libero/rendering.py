"""Drawing LIBERO's cameras on demand: byte for byte as robosuite 1.4 draws them, or plainly and faster."""

from __future__ import annotations

from typing import Literal

import mujoco
import numpy as np

from sim.contract import Image
from sim.core.gl import OffscreenContext, restored_context
from sim.core.rendering import draw_plainly
from sim.libero.snapshot import PoseSnapshot

CAMERAS = ("agentview", "robot0_eye_in_hand")
"""Third-person and wrist camera, the two every published policy uses."""

Look = Literal["official", "plain"]
"""How pictures are drawn. "official" is robosuite's, with shadows, reflections and four samples a pixel. "plain" leaves
these out: for training from scratch where GL is software, not for policies that were trained on official pictures."""

_MAX_GEOMS = 1000
"""Capacity of the drawn scene in robosuite; geoms beyond it are not drawn there either."""


class CameraRenderer:
    """A GL context for one model, to be created and used in one process. Whatever context was current stays current.

    It is freed when nobody keeps the renderer any more.
    """

    def __init__(self, model: mujoco.MjModel, size: int, look: Look = "official") -> None:
        """Raises `EnvironmentRequestError` when no off-screen GL context can be created."""
        self._model = model
        self._size = size
        # The frame buffer has the size the model asks for, as robosuite's; a part of it is drawn.
        width, height = (max(int(side), size) for side in (model.vis.global_.offwidth, model.vis.global_.offheight))
        if look == "plain":
            width = height = size
            model.vis.quality.offsamples = 0
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._context = OffscreenContext(model, width, height, mujoco.mjtFontScale.mjFONTSCALE_150)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        if look == "plain":
            draw_plainly(self._scene)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # collision shapes
        self._option.geomgroup[1] = 1  # visual meshes
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, size, size)

    def render(self, snapshot: PoseSnapshot, camera: str) -> Image:
        """One camera's picture of a snapshot, uint8 [size, size, 3], upright.

        OpenGL hands out the bottom row first. LIBERO leaves that as it is and public evaluations turn the picture by
        180 degrees (both axes flipped): upright, and mirrored left to right against a plain vertical flip.
        """
        present_rgba = self._model.site_rgba.copy()
        self._model.site_rgba[:] = snapshot.site_rgba
        self._camera.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        mujoco.mjv_updateScene(
            self._model,
            snapshot.data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        self._model.site_rgba[:] = present_rgba
        pixels = np.empty((self._size, self._size, 3), dtype=np.uint8)
        with restored_context():
            context = self._context.make_current()
            mujoco.mjr_render(self._viewport, self._scene, context)
            mujoco.mjr_readPixels(pixels, None, self._viewport, context)
        return np.ascontiguousarray(pixels[::-1, ::-1])
