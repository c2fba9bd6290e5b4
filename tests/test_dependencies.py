"""Nothing is installed that nobody uses: what pyproject.toml asks for is imported, or is a tool that we run."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = [ROOT / name for name in ("sim", "vla", "world_models", "real_robot", "scripts")]

IMPORT_NAMES = {
    "feetech-servo-sdk": "scservo_sdk",
    "franky-control": "franky",
    "franky-sim": "franky_sim",
    "hydra-core": "hydra",
    "huggingface-hub": "huggingface_hub",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyserial": "serial",
    "pyyaml": "yaml",
    "rerun-sdk": "rerun",
    "tensorboard": "torch.utils.tensorboard",
}
"""Distribution -> what is imported of it, where the two differ."""

TOOLS = {
    "import-linter": ("tests/test_architecture.py", "lint-imports"),
    "mypy": ("Makefile", "mypy"),
    "pre-commit": ("CONTRIBUTING.md", "pre-commit install"),
    "pytest-timeout": ("pyproject.toml", "timeout_method"),
    "pytest-xdist": ("CONTRIBUTING.md", "-n 4"),
    "ruff": ("Makefile", "ruff check"),
    "types-pyyaml": ("vla/run/run_folder.py", "import yaml"),
}
"""Development tool, imported by nobody -> a file that calls it, and how."""


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def distribution(requirement: str) -> str:
    """ "Pillow>=10" -> "pillow"."""
    return re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def modules_imported(paths: Iterable[Path]) -> set[str]:
    """Dotted modules that these files import, inside functions too, or name to `require_module` or `find_spec`."""
    return {name for path in paths for name in _imports(ast.parse(path.read_text(encoding="utf-8")))}


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("require_module", "find_spec"):
            yield from (part.value for part in node.args[:1] if isinstance(part, ast.Constant))


def sources(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*.py")]


def unused(requirements: Iterable[str], imported: set[str]) -> set[str]:
    """Distributions of which no module is among `imported`."""
    names = {one: IMPORT_NAMES.get(one, one.replace("-", "_")) for one in map(distribution, requirements)}
    return {one for one, module in names.items() if not any(f"{found}.".startswith(f"{module}.") for found in imported)}


def test_every_dependency_is_imported() -> None:
    assert unused(project()["project"]["dependencies"], modules_imported(sources(PRODUCT))) == set()


def test_every_extra_is_imported() -> None:
    extras = project()["project"]["optional-dependencies"]
    ours = modules_imported(sources(PRODUCT))
    for name in extras.keys() - {"dev", "libero"}:
        assert unused(extras[name], ours) == set(), f"nothing imports the extra {name!r}"


def test_the_extra_libero_is_what_its_task_builder_imports() -> None:
    found = [importlib.util.find_spec(name) for name in ("libero", "bddl")]
    folders = [Path(where) for spec in found if spec for where in spec.submodule_search_locations or ()]
    if len(folders) < 2:
        pytest.skip("hf-libero and bddl are not installed: make libero")
    imported = modules_imported(sources([*PRODUCT, *folders]))
    assert unused(project()["project"]["optional-dependencies"]["libero"], imported) == set()


def test_every_development_tool_is_run_or_imported() -> None:
    development = project()["project"]["optional-dependencies"]["dev"]
    assert unused(development, modules_imported(sources([ROOT / "tests"]))) == set(TOOLS)
    for path, call in TOOLS.values():
        assert call in (ROOT / path).read_text(encoding="utf-8"), f"{path} does not say {call!r}"


def test_mypy_excuses_only_what_is_imported() -> None:
    imported = {name.partition(".")[0] for name in modules_imported(sources(PRODUCT))}
    excused = {name.removesuffix(".*") for name in project()["tool"]["mypy"]["overrides"][0]["module"]}
    assert excused <= imported


def test_every_dependency_has_a_tested_version() -> None:
    data = project()["project"]
    required = {distribution(one) for one in data["dependencies"]}
    required |= {distribution(one) for name in ("dev", "libero") for one in data["optional-dependencies"][name]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert required <= {distribution(line) for line in lines if "==" in line}


def test_an_import_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import one.part\n"
        "def late():\n    from two import name\n    return require_module('three', 'drawing', 'install it')\n"
        "text = 'import four'\n"
    )
    assert modules_imported([path]) == {"one.part", "two", "two.name", "three"}
    assert unused(["one>=1", "two", "Three==3", "four", "on"], modules_imported([path])) == {"four", "on"}
