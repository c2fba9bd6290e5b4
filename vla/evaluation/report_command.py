"""``vla report``: write the report of one or more run folders again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vla.evaluation.report import write_report

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status.

    Raises:
        ReflexError: a folder holds no run, or its report cannot be written.
    """
    parser = argparse.ArgumentParser(prog="vla report", description="Write report.html of run folders.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, e.g. runs/demo")
    for run in parser.parse_args(arguments).runs:
        sys.stdout.write(f"{write_report(run)}\n")
    return 0
