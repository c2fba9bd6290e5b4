"""Modules of `sim` and `world_models` import each other without circles, inside functions and for types too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imports_of(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it names in any import statement."""
    files = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= submodules & set(modules) or {str(node.module)}
        graph[name] = found & set(modules)
    return graph


@pytest.mark.parametrize("package", ["sim", "world_models"])
def test_no_circle_of_imports(package: str) -> None:
    graph = imports_of(ROOT / package)
    assert sum(map(len, graph.values())) > len(graph), "imports are seen"
    TopologicalSorter(graph).prepare()


def test_a_circle_through_a_function_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "boxes"
    package.mkdir()
    (package / "inner.py").write_text("from boxes.outer import lid\n")
    (package / "outer.py").write_text("def lid():\n    from boxes import inner\n")
    with pytest.raises(CycleError):
        TopologicalSorter(imports_of(package)).prepare()
