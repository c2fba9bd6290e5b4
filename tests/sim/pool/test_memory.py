"""How much memory may still be taken."""

from pathlib import Path

import pytest

from sim.pool import memory


def test_the_machine_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n")
    monkeypatch.setattr(memory, "MACHINE", meminfo)
    monkeypatch.setattr(memory, "GROUPS", ())
    assert memory.available_share() == 0.4


@pytest.mark.parametrize(("limit", "share"), [("max\n", 0.4), ("2048\n", 0.25), ("1024\n", 0.0)])
def test_a_container_that_may_take_less_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, share: float
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("1536\n")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUPS", ((tmp_path / "memory.max", tmp_path / "memory.current"),))
    assert memory.available_share() == share


def test_where_nobody_says_there_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "none")
    monkeypatch.setattr(memory, "GROUPS", ((tmp_path / "none", tmp_path / "none"),))
    assert memory.available_share() == 1.0
