"""Nothing in this project unpickles: a file from somewhere else must not be able to run code.

Ruff's S301 finds calls of pickle and its like; it does not look into how torch and NumPy are asked to load.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "vla", "world_models", "real_robot", "scripts")

SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
"""A function that can unpickle, and the argument without which it may."""


def problems(source: str) -> Iterator[str]:
    """What in a module could unpickle, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (function := ast.unparse(node.func)) in SAFE:
            keyword, needed = SAFE[function]
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if given.get(keyword) != repr(needed):
                yield f"line {node.lineno}: {function} needs {keyword}={needed}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_unpickles(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    found = [f"{path.relative_to(ROOT)}, {problem}" for path in paths for problem in problems(path.read_text("utf-8"))]
    assert found == []


def test_the_modules_that_load_are_seen() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "vla").rglob("*.py"))
    assert text.count("torch.load(") >= 5


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "with np.load(path, mmap_mode='r') as archive:\n    pass",
    ],
)
def test_what_unpickles_is_found(source: str) -> None:
    assert list(problems(source))


@pytest.mark.parametrize("source", ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)"])
def test_what_is_safe_is_let_through(source: str) -> None:
    assert not list(problems(source))
