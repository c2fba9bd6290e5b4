"""Off-screen OpenGL: which library draws, on which device, and contexts that come back when the driver lost them."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco

from sim.contract import EnvironmentRequestError
from sim.gl_platform import EGL_DEVICE, platform, settings_problem

_log = logging.getLogger(__name__)


class OffscreenContext:
    """A GL context that holds what MuJoCo draws one model with. To be made and used in one process.

    Making or freeing one leaves current whatever context was. A driver can lose a context (a GPU that was reset, a
    laptop that slept): it is then made again, with a warning.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, font_scale: mujoco.mjtFontScale) -> None:
        """The frame buffer is as large as `model.vis.global_` says; `width` and `height` (px) are OSMesa's own buffer.

        Raises `EnvironmentRequestError` when no off-screen GL context can be made.
        """
        self._model, self._size, self._font_scale = model, (width, height), font_scale
        self._make()

    def make_current(self) -> mujoco.MjrContext:
        """Draw with what this returns, until another context is made current.

        Raises `EnvironmentRequestError` when the context was lost and no new one can be made.
        """
        try:
            self._gl.make_current()
        except Exception as error:  # noqa: BLE001 - GL stacks raise anything from AttributeError to EGLError
            _log.warning("the OpenGL context was lost (%s: %s); making a new one", type(error).__name__, error)
            self.free()
            self._make()
            self._gl.make_current()
        return self._context

    def free(self) -> None:
        """Give the GL resources back. Freeing twice is harmless; drawing afterwards is an error."""
        self._release()
        atexit.unregister(self._release)

    def _make(self) -> None:
        try:
            with restored_context():
                self._gl = _context_class()(*self._size)
                self._gl.make_current()
                self._context = mujoco.MjrContext(self._model, self._font_scale)
                mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        except Exception as error:  # GL stacks raise anything from AttributeError to EGLError
            raise gl_error(error) from error
        # Textures must be freed in the context that owns them and, at interpreter exit, before MuJoCo ends EGL:
        # weakref's own exit hook runs too late, one registered after the context was made runs in time.
        self._release = weakref.finalize(self, _release, self._gl, self._context)
        self._release.atexit = False
        atexit.register(self._release)


def _release(gl: Any, context: mujoco.MjrContext) -> None:
    with restored_context(unless=getattr(gl, "_context", None)):
        try:
            gl.make_current()
        except Exception as error:  # noqa: BLE001 - a lost context: the driver has freed what was in it
            _log.debug("a lost OpenGL context: %s", error)
            # MuJoCo deletes by number, so that no other context may be current when it does.
            _make_none_current()
        context.free()
        try:
            gl.free()
        except Exception as error:  # noqa: BLE001 - as above
            _log.debug("a lost OpenGL context: %s", error)
            gl._context = None  # else its finaliser tries again and prints


@contextmanager
def restored_context(unless: Any = None) -> Iterator[None]:
    """Afterwards make current what was current before: other renderers of this process may count on theirs.

    None, if that was `unless`, an EGL context that is freed meanwhile.
    """
    if _context_class().__module__ != "mujoco.egl":
        yield
        return
    from mujoco import egl

    previous = egl.EGL.eglGetCurrentContext()
    if previous and unless and previous.address == unless.address:
        previous = None
    try:
        yield
    finally:
        _make_current(previous or egl.EGL.EGL_NO_CONTEXT)


def _make_none_current() -> None:
    if _context_class().__module__ == "mujoco.egl":
        from mujoco import egl

        _make_current(egl.EGL.EGL_NO_CONTEXT)


def _make_current(context: Any) -> None:
    from mujoco import egl

    if egl.EGL_DISPLAY is not None:
        egl.EGL.eglMakeCurrent(egl.EGL_DISPLAY, egl.EGL.EGL_NO_SURFACE, egl.EGL.EGL_NO_SURFACE, context)


def _context_class() -> Any:
    """MuJoCo's context class for MUJOCO_GL, whatever that variable was when `mujoco` was first imported."""
    chosen = os.environ.get("MUJOCO_GL", "").lower() or platform()
    if chosen == "osmesa":
        from mujoco.osmesa import GLContext as OsmesaContext

        return OsmesaContext
    if chosen == "egl":
        from mujoco.egl import GLContext as EglContext

        return EglContext
    return mujoco.GLContext


def gl_error(error: Exception) -> EnvironmentRequestError:
    """The message for a GL library that cannot be loaded or gives no context."""
    if problem := settings_problem():
        return EnvironmentRequestError(f"cannot render: {problem}")
    backend = os.environ.get("MUJOCO_GL", "") or platform()
    if device := os.environ.get(EGL_DEVICE):
        backend += f" with {EGL_DEVICE}={device}"
    return EnvironmentRequestError(
        f"cannot render: no off-screen OpenGL through MUJOCO_GL={backend} ({type(error).__name__}: {error}). "
        "Install EGL (Debian/Ubuntu: apt-get install libegl1 libgl1) and set MUJOCO_GL=egl, or install OSMesa "
        "(apt-get install libosmesa6) and set MUJOCO_GL=osmesa; `vla doctor` checks both."
    )
