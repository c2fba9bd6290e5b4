"""Atomic files and JSON Lines."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vla.run.file_calls import FileCalls
from vla.errors import ReflexError, require_module, writing
from vla.run.files import (
    REPLACED_PREFIX,
    TEMPORARY_PREFIX,
    read_json,
    read_json_object,
    remove_temporaries,
    replace_folder,
    write_bytes,
    write_json,
    write_text,
)
from vla.run.jsonl import append_lines, drop_torn_line, keep_lines, read_lines, write_lines

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
    with pytest.raises(ReflexError, match=r"d\.json is missing; fetch it again"):
        read_json(tmp_path / "d.json", "fetch it again")
    with pytest.raises(ReflexError, match=r"cannot read .*: Is a directory; restore it"):
        read_json(tmp_path)
    (tmp_path / "e.json").write_text("[1]")
    assert read_json(tmp_path / "e.json") == [1]
    with pytest.raises(ReflexError, match=r"e\.json does not hold a JSON object; fetch it again"):
        read_json_object(tmp_path / "e.json", "fetch it again")


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


def test_files_are_on_the_disk_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = FileCalls(monkeypatch, tmp_path)
    write_text(tmp_path / "a", "1")
    order = [("fsync", ".writing-a"), ("replace", ".writing-a", "a"), ("fsync", ".")]
    assert calls.calls[:3] == order
    calls.calls.clear()
    replace_folder(tmp_path / "f", lambda folder: (folder / "b").write_text("2") and None)
    assert calls.calls == [("fsync", ".writing-f/b"), ("fsync", ".writing-f"), ("replace", ".writing-f", "f"), order[2]]
    calls.calls.clear()
    replace_folder(tmp_path / "f", lambda folder: (folder / "b").write_text("3") and None, flush=False)
    swap = [("replace", "f", ".replaced-f"), ("replace", ".writing-f", "f"), ("rmtree", ".replaced-f")]
    assert calls.calls == swap
    assert (tmp_path / "f" / "b").read_text() == "3"


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder"
    replace_folder(target, lambda folder: write_text(folder / "a", "old"))
    replace = Path.replace

    def refuse(path: Path, new: Path) -> Path:
        if path.name.startswith(TEMPORARY_PREFIX) and new == target:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, new)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ReflexError, match=r"folder: Input/output error"):
        replace_folder(target, lambda folder: write_text(folder / "a", "new"))
    assert (target / "a").read_text() == "old"
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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(st.text(max_size=5), parts, max_size=2),
    max_leaves=4,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=4)


def finite(value: Any) -> Any:
    """What comes back of a value: JSON has no form for NaN and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list) else value


@settings(max_examples=25, deadline=None)
@given(first=RECORDS, second=RECORDS)
def test_lines_come_back(tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    write_lines(path, first)
    append_lines(path, second)
    assert repr(read_lines(path)) == repr(finite(first + second))  # the sign of zero and the kind of number too
    write_lines(path, second)
    assert repr(read_lines(path)) == repr(finite(second))


@settings(max_examples=25, deadline=None)
@given(records=RECORDS, cut=st.integers(0, 10_000))
def test_a_kill_at_any_byte_costs_only_the_line_being_written(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], cut: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    write_lines(path, records)
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    whole = finite(records)[: content.count(b"\n")]
    assert repr(read_lines(path)) == repr(whole)
    drop_torn_line(path)
    append_lines(path, [{"next": 1}])
    assert repr(read_lines(path)) == repr([*whole, {"next": 1}])
    keep_lines(path, lambda record: "next" not in record)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


def test_a_missing_optional_package_says_how_to_get_it() -> None:
    with pytest.raises(ReflexError, match=r"drawing needs the Python package 'no_such_package'.*pip install it"):
        require_module("no_such_package", "drawing", "pip install it")
