"""Settings every test runs under, made before anything heavy is imported."""

import os
import signal
import sys

# Worker processes inherit these. One thread each: tests share the machine with one another.
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LP_NUM_THREADS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs a hub is a test that fails on a train
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell that starts the tests in the background makes them ignore Ctrl-C, and some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)
