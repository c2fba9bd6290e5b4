"""`python -m real_robot.faults.jumping_clock FILE MODULE ...`: a module's command, in a process whose clock jumps.

The machine's clock is everybody's, so what Python says of it is changed instead: by the seconds in FILE, from the
moment at which the file is there.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    file, true_time = Path(sys.argv[1]), time.time

    def jumped() -> float:
        """The wall clock, wrong by what the file says."""
        return true_time() + (float(file.read_text(encoding="utf-8")) if file.exists() else 0.0)

    time.time = jumped
    time.time_ns = lambda: int(1e9 * jumped())
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
