"""The arrows between the packages: real_robot -> vla -> {sim, world_models}."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
