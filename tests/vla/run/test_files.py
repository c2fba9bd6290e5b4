"""Atomic files and JSON Lines."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from vla.errors import ReflexError, require_module, writing
from vla.run.files import (
    REPLACED_PREFIX,
    TEMPORARY_PREFIX,
    read_json,
    remove_temporaries,
    replace_folder,
    write_bytes,
    write_json,
    write_text,
)
from vla.run.jsonl import append_lines, drop_torn_line, keep_lines, read_lines

FULL_DEVICE = Path("/dev/full")


def test_writing_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei \N{GREEK SMALL LETTER MU}")
    assert path.read_text(encoding="utf-8") == "zwei \N{GREEK SMALL LETTER MU}"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReflexError, match=r"a\.bin: No space left on device; free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, None]}
    with pytest.raises(ReflexError, match="not JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ReflexError, match=r"c\.json is not valid JSON"):
        read_json(tmp_path / "c.json")
    with pytest.raises(ReflexError, match=r"cannot read .*d\.json"):
        read_json(tmp_path / "d.json")


def test_replace_folder_publishes_whole_folders_only(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    replace_folder(target, lambda folder: write_text(folder / "sub" / "a", "1"))

    def fail(folder: Path) -> None:
        (folder / "a").write_text("2")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        replace_folder(target, fail)
    assert (target / "sub" / "a").read_text() == "1"
    replace_folder(target, lambda folder: write_text(folder / "b", "3"))
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_leftovers_of_a_kill_are_cleared_and_a_folder_moved_aside_returns(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY_PREFIX}x-1").mkdir()
    (tmp_path / f"{TEMPORARY_PREFIX}y").write_text("half")
    (tmp_path / f"{REPLACED_PREFIX}5").mkdir()
    (tmp_path / f"{REPLACED_PREFIX}6").mkdir()
    (tmp_path / "6").mkdir()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "6"]


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full")
def test_appending_to_a_full_disk_names_the_file() -> None:
    with pytest.raises(ReflexError, match=r"cannot write /dev/full: No space left"):
        append_lines(FULL_DEVICE, [{"a": 1}])


@pytest.mark.parametrize(
    "text", ["I/O error: No space left on device (os error 28)", "PytorchStreamWriter failed writing file"]
)
def test_libraries_own_full_disk_errors_are_recognised(text: str) -> None:
    with pytest.raises(ReflexError, match="free some space"), writing(Path("weights")):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shape"), writing(Path("weights")):
        raise RuntimeError("shape mismatch")


def test_a_torn_last_line_is_left_out_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_lines(path, [{"step": 0}, {"step": 1, "loss": float("nan"), "nested": [float("inf")]}])
    whole = path.read_bytes()
    for cut in range(1, 9):
        path.write_bytes(whole + json.dumps({"step": 2}).encode()[:cut])
        assert [line["step"] for line in read_lines(path)] == [0, 1]
        drop_torn_line(path)
        assert path.read_bytes() == whole
    assert read_lines(path)[1] == {"step": 1, "loss": None, "nested": [None]}


def test_a_damaged_whole_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 0}\n{"step": 1\n')
    with pytest.raises(ReflexError, match="line 2 of"):
        read_lines(path)
    path.write_text("[1]\n")
    with pytest.raises(ReflexError, match=r"line 1 of .* not a JSON object"):
        read_lines(path)


def test_keep_lines_leaves_the_kept_bytes_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step":  0}\n{"step": 1}\n{"step": 0, "x": 1.50}\n{"st')
    keep_lines(path, lambda record: record["step"] == 0)
    assert path.read_text() == '{"step":  0}\n{"step": 0, "x": 1.50}\n'


def test_a_missing_optional_package_says_how_to_get_it() -> None:
    with pytest.raises(ReflexError, match=r"drawing needs the Python package 'no_such_package'.*pip install it"):
        require_module("no_such_package", "drawing", "pip install it")
