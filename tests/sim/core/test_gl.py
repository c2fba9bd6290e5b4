"""Which OpenGL is chosen, and that a context the driver lost comes back with the same pictures."""

import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from sim import gl_platform
from sim.core import rendering
from sim.core.gl import OffscreenContext
from sim.libero.rendering import CameraRenderer
from sim.libero.snapshot import PoseSnapshot
from sim.tabletop.environment import TabletopEnvironment

TEXTURED = """
<mujoco>
  <asset>
    <texture name="squares" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="64" height="64"/>
    <material name="squares" texture="squares" texrepeat="4 4"/>
  </asset>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="above" pos="0 0 2"/>
    <geom type="plane" size="1 1 0.1" material="squares" group="1"/>
  </worldbody>
</mujoco>
"""


def lose(context: OffscreenContext) -> None:
    """Destroy a context behind its owner's back, as a driver does that was reset."""
    egl = pytest.importorskip("mujoco.egl", exc_type=ImportError)
    egl.EGL.eglMakeCurrent(egl.EGL_DISPLAY, egl.EGL.EGL_NO_SURFACE, egl.EGL.EGL_NO_SURFACE, egl.EGL.EGL_NO_CONTEXT)
    egl.EGL.eglDestroyContext(egl.EGL_DISPLAY, context._gl._context)


def test_the_shared_context_comes_back_after_it_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    environment = TabletopEnvironment(task_id=0)
    environment.reset_to("train", 0)
    before = environment.render_observation()
    lose(rendering._CONTEXTS[64])
    with caplog.at_level(logging.WARNING):
        after = environment.render_observation()
    np.testing.assert_array_equal(after["images"]["image"], before["images"]["image"])
    np.testing.assert_array_equal(after["images"]["wrist_image"], before["images"]["wrist_image"])
    assert [record.message for record in caplog.records if "was lost" in record.message]
    caplog.clear()
    environment.render_observation()
    assert not caplog.records, "the new context stays"


def test_a_lost_context_takes_no_texture_of_another_with_it() -> None:
    """GL numbers textures in each context from one, and MuJoCo frees them by number."""
    model = mujoco.MjModel.from_xml_string(TEXTURED)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    snapshot = PoseSnapshot(model)
    snapshot.take(data)
    first, second = CameraRenderer(model, 32), CameraRenderer(model, 32)
    picture = first.render(snapshot, "above")
    assert picture.std() > 10
    np.testing.assert_array_equal(second.render(snapshot, "above"), picture)
    lose(first._context)
    second._context.make_current()
    np.testing.assert_array_equal(first.render(snapshot, "above"), picture)
    np.testing.assert_array_equal(second.render(snapshot, "above"), picture)
    del first
    lose(second._context)
    del second  # says nothing, and leaves nothing to be freed again


def test_a_machine_without_an_egl_driver_falls_back_to_osmesa_where_it_is(tmp_path: Path) -> None:
    """In a fresh process: libEGL itself reads where drivers are registered."""
    program = "import sim, os; from sim import gl_platform as g; print(os.environ['MUJOCO_GL'], g._has_osmesa())"
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY")}
    environment.pop("__EGL_VENDOR_LIBRARY_FILENAMES", None)
    environment["__EGL_VENDOR_LIBRARY_DIRS"] = str(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True
    )
    assert result.stdout.split() in (["osmesa", "True"], ["egl", "False"]), result


@pytest.mark.parametrize(
    ("libraries", "platform"),
    [
        ({"libEGL.so.1"}, "egl"),
        ({"libOSMesa.so.8"}, "osmesa"),
        ({"libEGL.so.1", "libOSMesa.so.8"}, "egl"),
        (set(), "egl"),
    ],
)
def test_the_platform_follows_from_the_libraries(
    libraries: set[str], platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ctypes.CDLL

    def load(name: str) -> ctypes.CDLL | None:
        if name not in libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return real(name) if name == "libEGL.so.1" else None

    monkeypatch.setattr(gl_platform.ctypes, "CDLL", load)
    assert gl_platform.platform() == platform


def test_what_is_set_by_hand_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    gl_platform.choose_platform()
    assert os.environ["MUJOCO_GL"] == "glfw"


def test_pictures_are_drawn_on_the_card_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three EGL devices: a software one, then two cards in the opposite order to CUDA's.
    monkeypatch.setattr(gl_platform, "_cuda_devices", lambda: [None, 1, 0])
    monkeypatch.setenv(gl_platform.EGL_DEVICE, "")
    monkeypatch.delenv(gl_platform.EGL_DEVICE)
    gl_platform.draw_beside_cuda(2)
    assert gl_platform.EGL_DEVICE not in os.environ, "no device is known to be that card"
    gl_platform.draw_beside_cuda(0)
    assert os.environ[gl_platform.EGL_DEVICE] == "2"
    gl_platform.draw_beside_cuda(1)
    assert os.environ[gl_platform.EGL_DEVICE] == "2", "what is set stays"


def test_the_devices_here_are_listed() -> None:
    assert len(gl_platform._cuda_devices()) == len(gl_platform._egl_devices())


def test_a_process_that_drew_ends_without_a_word() -> None:
    program = (
        "from sim.tabletop.environment import TabletopEnvironment\n"
        "environment = TabletopEnvironment(task_id=0)\n"
        "environment.reset_to('train', 0)\nenvironment.render_observation()"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
