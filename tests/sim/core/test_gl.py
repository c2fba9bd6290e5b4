"""Which OpenGL is chosen, and that a context the driver lost comes back with the same pictures."""

import ctypes
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from sim import gl_platform
from sim.contract import EnvironmentRequestError
from sim.core import rendering
from sim.core.gl import OffscreenContext, gl_error
from sim.libero.rendering import CameraRenderer
from sim.libero.snapshot import PoseSnapshot
from sim.suites import get_suite
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
    lose(rendering._CONTEXTS[rendering._context_key(environment.model, 64)])
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


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, None),
        ({"MUJOCO_GL": "egl"}, None),
        ({"MUJOCO_GL": " EGL"}, None),
        ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "1"}, None),
        ({"MUJOCO_GL": "glfw", "DISPLAY": ":0"}, None),
        ({"MUJOCO_GL": "glfw"}, "MUJOCO_GL=glfw needs a display, and DISPLAY is not set; unset MUJOCO_GL, or"),
        ({"MUJOCO_GL": "0"}, "MUJOCO_GL=0 tells MuJoCo to draw nothing; unset MUJOCO_GL, or set it to egl"),
        ({"MUJOCO_GL": "nonsense"}, "MUJOCO_GL=nonsense is not one of egl, osmesa and glfw; unset MUJOCO_GL, or"),
        ({"MUJOCO_GL": "osmesa"}, "MUJOCO_GL=osmesa, but libOSMesa is not installed; unset MUJOCO_GL to use EGL, or"),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}, "PYOPENGL_PLATFORM=osmesa contradicts MUJOCO_GL=egl"),
        ({"MUJOCO_EGL_DEVICE_ID": "2"}, "MUJOCO_EGL_DEVICE_ID=2 is no device of EGL, which has the numbers 0 to 1"),
        ({"MUJOCO_EGL_DEVICE_ID": "zero"}, "MUJOCO_EGL_DEVICE_ID=zero is no device of EGL"),
        ({"MUJOCO_EGL_DEVICE_ID": "-1"}, "unset MUJOCO_EGL_DEVICE_ID, or set it to 0"),
        ({"MUJOCO_EGL_DEVICE_ID": ""}, "MUJOCO_EGL_DEVICE_ID= is no device of EGL"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no EGL to choose")
def test_a_wrong_variable_is_named_with_its_value_and_what_is_right(
    variables: dict[str, str], problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "PYOPENGL_PLATFORM", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gl_platform, "_egl_devices", lambda: [1, 2])
    monkeypatch.setattr(gl_platform, "_has_osmesa", lambda: False)
    found = gl_platform.settings_problem()
    assert found is None if problem is None else found is not None and problem in found
    if problem is not None:
        with pytest.raises(EnvironmentRequestError, match=re.escape(problem)):
            get_suite("tabletop")
        assert problem in str(gl_error(RuntimeError("whatever MuJoCo says")))


def test_without_an_egl_device_a_number_is_not_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "0")
    monkeypatch.setattr(gl_platform, "_egl_devices", list)
    assert gl_platform.settings_problem() is None
    assert "MUJOCO_GL=egl with MUJOCO_EGL_DEVICE_ID=0" in str(gl_error(RuntimeError("no driver")))


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
