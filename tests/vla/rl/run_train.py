"""A training in a process of its own: `python -m tests.vla.rl.run_train OUTPUT REWARD`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.vla.rl.helpers import components, resumable_config
from vla.rl.trainer import train

if __name__ == "__main__":
    train(resumable_config(Path(sys.argv[1]), sys.argv[2]), components())
