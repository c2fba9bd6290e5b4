"""`vla report`, `vla compare` and `vla merge`: commands on run folders that are there already."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from vla.errors import ReflexError
from vla.evaluation.merge import merge
from vla.evaluation.report import write_report
from vla.evaluation.results import compare, compare_tasks, evaluated_episodes
from vla.evaluation.statistics import PairedDifference
from vla.run.files import write_json


def report_command(arguments: Sequence[str]) -> int:
    """Write report.html of run folders again. Raises `ReflexError` when a folder holds no run."""
    parser = _Parser("report", "Write report.html of run folders from the files that are there.")
    parser.add_argument("runs", nargs="+", type=_path, metavar="RUN", help="run folder, e.g. runs/demo")
    for run in parser.parse_args(arguments).runs:
        sys.stdout.write(f"{write_report(run)}\n")
    return 0


def compare_command(arguments: Sequence[str]) -> int:
    """Print the paired comparison of two evaluations. Raises `ReflexError` when they cannot be compared."""
    parser = _Parser("compare", "Compare two evaluations on the initial states that both ran, overall and by task.")
    parser.add_argument("first", type=_path, metavar="A", help="run folder of an evaluation")
    parser.add_argument("second", type=_path, metavar="B", help="run folder of another")
    parser.add_argument("--json", type=_path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args(arguments)
    first, second = evaluated_episodes(options.first), evaluated_episodes(options.second)
    overall = compare(first, second)
    if overall is None:
        raise ReflexError(f"{options.first} and {options.second} share no task and initial state")
    tasks = compare_tasks(first, second)
    sys.stdout.write(f"A: {options.first}\nB: {options.second}\n")
    Console().print(_comparison_table(overall, tasks))
    if options.json is not None:
        document = {"overall": asdict(overall), "tasks": {str(task): asdict(part) for task, part in tasks.items()}}
        write_json(options.json, document)
    return 0


def merge_command(arguments: Sequence[str]) -> int:
    """Join the shards of an evaluation and print its summary. Raises `ReflexError` when they do not fit together."""
    parser = _Parser("merge", "Join the parts of an evaluation that ran as shards into the evaluation they are.")
    parser.add_argument("runs", nargs="+", type=_path, metavar="RUN", help="run folder of one shard")
    parser.add_argument("--output", required=True, type=_path, metavar="FOLDER", help="run folder to write")
    options = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(merge(options.runs, options.output), indent=2) + "\n")
    return 0


def _path(text: str) -> Path:
    """A path, in the home folder where it begins with `~`, which a shell leaves as it is in --output=~/x."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (leaves the name of nobody as it is)


class _Parser(argparse.ArgumentParser):
    """Wrong usage is an error like any other, said in one line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"vla {command}", description=description)

    def error(self, message: str) -> NoReturn:
        raise ReflexError(f"{message}; {' '.join(self.format_usage().split())}")


def _comparison_table(overall: PairedDifference, tasks: Mapping[int, PairedDifference]) -> Table:
    table = Table("", "pairs", "only A", "only B", "B - A", "95 % interval", "p (McNemar)")
    for name, part in [*((f"task {task}", part) for task, part in tasks.items()), ("all", overall)]:
        table.add_row(
            name,
            str(part.pairs),
            str(part.only_a),
            str(part.only_b),
            f"{100 * part.difference:+.1f}",
            f"{100 * part.low:+.1f} to {100 * part.high:+.1f}",
            f"{part.p_value:.3g}",
        )
    return table
