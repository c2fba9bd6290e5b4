"""Environments: MuJoCo stepping, the embedded tabletop suite and LIBERO. Depends on no other package of ours."""

import os
import sys

# MuJoCo chooses its OpenGL platform when it is first imported. On a Linux machine without a display the default (GLFW)
# cannot work, so that headless use needs no environment variable.
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")
# Mesa's software renderer starts a thread per core for every context; small pictures are faster without.
os.environ.setdefault("LP_NUM_THREADS", "0")
