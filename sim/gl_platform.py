"""Which OpenGL library and which graphics device MuJoCo shall draw with. Imports nothing that has to choose already."""

from __future__ import annotations

import ctypes
import os
import sys

EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"
"""Environment variable by which MuJoCo takes another than the first EGL device that works."""

_NEEDS_DISPLAY = ("glfw", "glx", "enable", "enabled", "on", "true", "1")
_DRAWS_NOTHING = ("disable", "disabled", "off", "false", "0")
"""What MuJoCo understands of MUJOCO_GL on Linux, beside egl and osmesa."""

_MAX_DEVICES = 64
_CUDA_DEVICE = 0x323A
"""EGL_CUDA_DEVICE_NV of EGL_NV_device_cuda: the CUDA ordinal of an EGL device."""


def platform() -> str:
    """The value for MUJOCO_GL: "egl" where EGL has a device, else "osmesa" where that library is, else "egl".

    Empty (MuJoCo's own choice) on systems other than Linux. "egl" where neither is there, so that the error that
    follows names what to install.
    """
    if sys.platform != "linux":
        return ""
    return "osmesa" if not _egl_devices() and _has_osmesa() else "egl"


def choose_platform() -> None:
    """Set MUJOCO_GL unless it is set. MuJoCo reads it when it is first imported."""
    if not os.environ.get("MUJOCO_GL") and (chosen := platform()):
        os.environ["MUJOCO_GL"] = chosen


def settings_problem() -> str | None:
    """Which environment variable keeps MuJoCo from drawing off-screen, its value, and behind "; " what would be right.

    None where none does. To be asked before `mujoco` is imported, which fails on some of them with a traceback.
    """
    if sys.platform != "linux":
        return None
    given = os.environ.get("MUJOCO_GL", "")
    backend = given.lower().strip()
    named = f"MUJOCO_GL={given}"
    if backend in _DRAWS_NOTHING:
        return f"{named} tells MuJoCo to draw nothing; unset MUJOCO_GL, or set it to egl"
    if backend in _NEEDS_DISPLAY:
        if os.environ.get("DISPLAY"):
            return None
        return f"{named} needs a display, and DISPLAY is not set; unset MUJOCO_GL, or set it to egl"
    if backend not in ("", "egl", "osmesa"):
        return f"{named} is not one of egl, osmesa and glfw; unset MUJOCO_GL, or set it to egl"
    library = os.environ.get("PYOPENGL_PLATFORM", "")
    if backend and library and library.lower() != backend:
        return f"PYOPENGL_PLATFORM={library} contradicts {named}; unset PYOPENGL_PLATFORM"
    if backend == "osmesa":
        missing = f"{named}, but libOSMesa is not installed; unset MUJOCO_GL to use EGL, or apt-get install libosmesa6"
        return None if _has_osmesa() else missing
    return _device_problem(os.environ.get(EGL_DEVICE))


def _device_problem(device: str | None) -> str | None:
    """The same of MUJOCO_EGL_DEVICE_ID, where EGL has devices at all."""
    count = len(_egl_devices())
    if device is None or count == 0 or (device.strip().isdecimal() and int(device) < count):
        return None
    known = "only the number 0" if count == 1 else f"the numbers 0 to {count - 1}"
    return f"{EGL_DEVICE}={device} is no device of EGL, which has {known} here; unset {EGL_DEVICE}, or set it to 0"


def draw_beside_cuda(device_index: int) -> None:
    """Let this process, and those it starts, draw on the graphics card that computes as CUDA device `device_index`.

    MuJoCo otherwise takes the first card it finds, in every process, and leaves the others idle. Nothing changes when
    MUJOCO_EGL_DEVICE_ID is set or no EGL device is known to be that card (a driver without graphics, a software GL).
    """
    cards = _cuda_devices()
    if device_index in cards:
        os.environ.setdefault(EGL_DEVICE, str(cards.index(device_index)))


def _cuda_devices() -> list[int | None]:
    """The CUDA ordinal of every EGL device; None for a device that is no CUDA device."""
    query = _egl_function(b"eglQueryDeviceAttribEXT", ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
    ordinals: list[int | None] = []
    for device in _egl_devices():
        value = ctypes.c_ssize_t(-1)
        known = query is not None and query(device, _CUDA_DEVICE, ctypes.byref(value))
        ordinals.append(int(value.value) if known else None)
    return ordinals


def _egl_devices() -> list[int]:
    """Handles of what EGL can draw on, in the order that MUJOCO_EGL_DEVICE_ID counts; none without EGL or a driver."""
    query = _egl_function(
        b"eglQueryDevicesEXT", ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
    )
    handles, count = (ctypes.c_void_p * _MAX_DEVICES)(), ctypes.c_int(0)
    if query is None or not query(_MAX_DEVICES, handles, ctypes.byref(count)):
        return []
    return [int(handle) for handle in handles[: count.value] if handle is not None]


def _egl_function(name: bytes, *arguments: type) -> ctypes._CFunctionType | None:
    """An extension function of EGL that returns a boolean; None where there is none."""
    try:
        library = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return None
    find = library.eglGetProcAddress
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    address = find(name)
    return ctypes.CFUNCTYPE(ctypes.c_uint, *arguments)(address) if address else None


def _has_osmesa() -> bool:
    for name in ("libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
