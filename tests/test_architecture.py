"""The arrows between the packages: real_robot -> vla -> {sim, world_models}."""

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def lint(config: Path) -> int:
    return lint_imports(config_filename=str(config), no_cache=True)


def test_imports_follow_the_contract(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    status = lint(ROOT / "pyproject.toml")
    assert status == 0, capsys.readouterr().out


def test_the_reversed_contract_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`vla` imports `sim`, so a linter that sees the imports at all must refuse the opposite order."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = 'layers = ["real_robot", "vla", "sim | world_models"]'
    assert layers in text
    reversed_contract = tmp_path / "pyproject.toml"
    reversed_contract.write_text(text.replace(layers, 'layers = ["sim", "vla"]'), encoding="utf-8")
    assert lint(reversed_contract) == 1
    assert "BROKEN" in capsys.readouterr().out
