"""Environments: MuJoCo stepping and the suites made of it, with a gymnasium id for every task."""

import os

from sim.gl_platform import choose_platform

# MuJoCo chooses its OpenGL platform when it is first imported. On a Linux machine without a display the default (GLFW)
# cannot work, so that headless use needs no environment variable.
if not os.environ.get("DISPLAY"):
    choose_platform()
# Mesa's software renderer starts a thread per core for every context; small pictures are faster without.
os.environ.setdefault("LP_NUM_THREADS", "0")

from sim.registration import register_environments

register_environments()
