"""Off-screen rendering of MuJoCo scenes, one GL context per process and image size."""

from __future__ import annotations

import atexit

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Image

_MAX_GEOMS = 200


class _PrimitiveContext:
    """GL state that every model without meshes and textures can share."""

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        try:
            self.gl_context = mujoco.GLContext(size, size)
            self.gl_context.make_current()
            self.render_context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except Exception as error:  # the GL stack raises anything from AttributeError to EGLError
            raise EnvironmentRequestError(
                f"no off-screen OpenGL context could be created ({type(error).__name__}: {error}). "
                "Install EGL (Debian/Ubuntu: apt-get install libegl1 libgl1), set MUJOCO_GL=egl and run `vla doctor`."
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.render_context)
        self.viewport = mujoco.MjrRect(0, 0, size, size)
        self.buffer = np.empty((size, size, 3), dtype=np.uint8)
        # Registered after MuJoCo's own exit hook, so it runs before EGL ends; freeing later prints an EGL error.
        atexit.register(self.free)

    def free(self) -> None:
        """Give the GL resources back."""
        self.gl_context.make_current()
        self.render_context.free()
        self.gl_context.free()


_CONTEXTS: dict[int, _PrimitiveContext] = {}


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
        self._size = size
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
            mujoco.mjtRndFlag.mjRND_SKYBOX,
            mujoco.mjtRndFlag.mjRND_FOG,
            mujoco.mjtRndFlag.mjRND_HAZE,
        ):
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._perturb = mujoco.MjvPerturb()
        self._updated = False

    def render(self, data: mujoco.MjData, cameras: tuple[int, ...]) -> list[Image]:
        """Draw each camera of `data`'s present state; images are uint8 [size, size, 3], upright, freshly allocated."""
        context = _CONTEXTS.get(self._size)
        if context is None:
            context = _CONTEXTS[self._size] = _PrimitiveContext(self._model, self._size)
        # Each time: another renderer of this process may have made its own context current and left it so.
        context.gl_context.make_current()
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
            mujoco.mjr_render(context.viewport, self._scene, context.render_context)
            mujoco.mjr_readPixels(context.buffer, None, context.viewport, context.render_context)
            images.append(context.buffer[::-1].copy())
        return images


def picture_coordinates(
    points: NDArray[np.float64], position: NDArray[np.float64], rotation: NDArray[np.float64], fovy: float
) -> NDArray[np.float64]:
    """Where a square picture shows points [n, 3] (m, world): [n, 2], x rightwards and y downwards in [-1, 1].

    NaN where a point lies outside the picture or behind the camera; what hides it is not asked. `position` [3] and
    `rotation` [3, 3] are the camera's (`cam_xpos`, `cam_xmat`; it looks along its -z), `fovy` its field of view (deg).
    """
    seen = (points - position) @ rotation
    depth = -seen[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        picture = seen[:, :2] * [1.0, -1.0] / (depth * np.tan(np.radians(fovy) / 2.0))
    inside = (depth > 0.0) & (np.abs(picture) <= 1.0).all(axis=1, keepdims=True)
    return np.where(inside, picture, np.nan)
