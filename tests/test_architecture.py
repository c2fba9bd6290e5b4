"""The arrows between the packages: real_robot -> vla -> {sim, world_models}; and no circle among their modules."""

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from vla.rl.config import AlgoConfig

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "vla", "world_models", "real_robot", "scripts")


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: import-linter's command silences every logger that exists when it starts."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(config), "--no-cache"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_follow_the_contract() -> None:
    result = lint(ROOT / "pyproject.toml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_reversed_contract_fails(tmp_path: Path) -> None:
    """`vla` imports `sim`, so a linter that sees the imports at all must refuse the opposite order."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = 'layers = ["real_robot", "vla", "sim | world_models"]'
    assert layers in text
    reversed_contract = tmp_path / "pyproject.toml"
    reversed_contract.write_text(text.replace(layers, 'layers = ["sim", "vla"]'), encoding="utf-8")
    result = lint(reversed_contract)
    assert result.returncode == 1
    assert "BROKEN" in result.stdout


def import_graph(root: Path, packages: tuple[str, ...]) -> dict[str, set[str]]:
    """Module -> the modules of `packages` that it imports: anywhere, in functions and for type checkers too.

    That importing `a.b.c` runs `a.b` first is not counted: a package may gather what its modules offer.
    """
    modules = {_module_name(path, root): path for name in packages for path in (root / name).rglob("*.py")}
    return {module: set(_imported(path, module, modules.keys())) - {module} for module, path in modules.items()}


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, module: str, modules: Collection[str]) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: each further dot is one package up
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:  # `from package import module` is of the module, not of its package
                name = f"{base}.{alias.name}"
                yield from [name] if name in modules else [base] if base in modules else []


def test_no_module_imports_itself_through_others() -> None:
    try:
        TopologicalSorter(import_graph(ROOT, PACKAGES)).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


def is_variant(module: str) -> bool:
    """Whether a module holds a published method, which is found by its name."""
    return ".variants." in module


def test_nothing_imports_a_published_method() -> None:
    """So that its file can be deleted."""
    graph = import_graph(ROOT, PACKAGES)
    assert sum(map(is_variant, graph)) > 10
    assert [(module, used) for module, uses in graph.items() for used in uses if is_variant(used)] == []


@pytest.mark.parametrize(
    "back",
    [
        "from pack.one import name",
        "from pack import one",
        "from . import one",
        "from .one import name",
        "import pack.one",
        "def late():\n    import pack.one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.one import Name",
    ],
)
def test_a_circle_is_found_however_it_closes(tmp_path: Path, back: str) -> None:
    (tmp_path / "pack").mkdir()
    for name, text in (("__init__", "from pack.one import name"), ("one", "import pack.two"), ("two", "import os")):
        (tmp_path / "pack" / f"{name}.py").write_text(text)
    assert import_graph(tmp_path, ("pack",)) == {"pack": {"pack.one"}, "pack.one": {"pack.two"}, "pack.two": set()}
    (tmp_path / "pack" / "two.py").write_text(back)
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(tmp_path, ("pack",))).prepare()


def test_files_and_functions_stay_small_enough_to_read() -> None:
    """Files of 400 lines, functions of 60 beside their docstring; training reads top to bottom on one page."""
    long_files, long_functions = [], []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        limit = 300 if path == ROOT / "vla" / "rl" / "loop.py" else 400
        if text.count("\n") > limit:
            long_files.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines, at most {limit}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documented = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
                length = (node.end_lineno or 0) - (documented or 0)
                if length > 60:
                    long_functions.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not long_files and not long_functions


def test_an_algorithm_has_few_settings_of_its_own() -> None:
    """What belongs to one reward, advantage or variant is a setting of that."""
    assert len(dataclasses.fields(AlgoConfig)) <= 30
