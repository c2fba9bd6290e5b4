"""What `make mutants` found: for each module the mutants, those that the tests noticed, and every one that lived.

mutmut (https://mutmut.readthedocs.io) changes one expression at a time and runs the tests that reach it. What it
changes, and with which tests, is in `[tool.mutmut]` of pyproject.toml. It keeps its results in `mutants/`; this script
writes one file a module from them: `python -m scripts.mutants docs/results/mutants`. A survivor is a hole in the tests,
or changes nothing that anyone could notice; the README beside the files says which are of the second kind, and why.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

from vla.run.files import write_text

ROOT = Path("mutants")
"""Where mutmut works, in the folder that it is run in."""
NOTICED = ("killed", "timeout", "caught by type check", "segfault")
LIVED = ("survived", "no tests")


def mutated_modules() -> Iterator[SourceFileMutationData]:
    """What is known of every module that has mutants."""
    for path in sorted(ROOT.rglob("*.py.meta")):
        data = SourceFileMutationData(path=path.relative_to(ROOT).with_suffix(""))
        data.load()
        if data.exit_code_by_key:
            yield data


def describe(data: SourceFileMutationData) -> str | None:
    """Counts, and the change that each survivor makes; None while no mutant of the module was tried."""
    statuses = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
    counts = Counter(statuses.values())
    tried = len(statuses) - counts["not checked"]
    if not tried:
        return None
    noticed = sum(counts[status] for status in NOTICED)
    lines = [
        f"{data.path}: {tried} mutants, {noticed} noticed ({100 * noticed / tried:.1f} %): {counts['killed']} killed, "
        f"{counts['timeout']} timeouts; {counts['survived']} survived, {counts['no tests']} without a test"
    ]
    if counts["not checked"]:
        lines.append(f"{counts['not checked']} mutants were not tried")
    for name, status in statuses.items():
        if status in LIVED:
            changes = get_diff_for_mutant(name, path=data.path).splitlines()
            changed = [line for line in changes if line[:1] in "+-" and line[:3] not in ("+++", "---")]
            lines += ["", f"{name.rpartition('.')[2]} ({status})", *changed]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write a file for each module, and print its first line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write into")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    found = False
    for data in mutated_modules():
        text = describe(data)
        if text is not None:
            found = True
            write_text(output / f"{str(data.path).removesuffix('.py').replace('/', '.')}.txt", text)
            print(text.partition("\n")[0])
    if not found:
        sys.exit(f"no mutant was tried in {ROOT.resolve()}; run `make mutants`")


if __name__ == "__main__":
    main()
