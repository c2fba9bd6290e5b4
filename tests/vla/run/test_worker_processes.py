"""Jobs over processes that are killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vla.errors import ReflexError
from vla.run.worker_processes import MAX_FRUITLESS_DEATHS, JobRunner

FOLDER: Path | None = None


def prepare(folder: str) -> None:
    global FOLDER
    FOLDER = Path(folder)


def square(number: int, restarted: bool) -> tuple[int, bool]:
    """Workers die at every fifth number, the first time each is tried."""
    assert FOLDER is not None
    mark = FOLDER / str(number)
    if number % 5 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, restarted


def die(number: int, restarted: bool) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int, restarted: bool) -> int:
    raise ReflexError(f"no {number}")


def test_what_a_dead_worker_had_is_done_again_and_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    waiting = dict.fromkeys(range(1, 13))
    results: dict[int, tuple[int, bool]] = {}

    def finished(number: int, result: tuple[int, bool]) -> None:
        del waiting[number]
        assert number not in results
        results[number] = result

    with caplog.at_level(logging.WARNING):
        JobRunner(square, prepare, (str(tmp_path),), 2).run(lambda: list(waiting), finished)
    assert {number: square for number, (square, _) in results.items()} == {n: n**2 for n in range(1, 13)}
    assert results[5][1] and results[10][1]
    assert not results[1][1]
    assert 1 <= caplog.text.count("a worker process died") <= 2


def test_a_result_may_add_jobs() -> None:
    wanted, seen = [3], []

    def finished(number: int, result: tuple[int, bool]) -> None:
        wanted.remove(number)
        seen.append(number)
        if number > 1:
            wanted.append(number - 1)

    JobRunner(square, prepare, ("unused",), 1).run(lambda: wanted, finished)
    assert seen == [3, 2, 1]


def test_workers_that_only_die_are_given_up(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=f"died {MAX_FRUITLESS_DEATHS + 1} times with nothing done"):
        JobRunner(die, prepare, (str(tmp_path),), 1).run(lambda: [1], lambda *_: None)


def test_an_error_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="no 7"):
        JobRunner(refuse, prepare, (str(tmp_path),), 1).run(lambda: [7], lambda *_: None)


def say_and_wait(number: int, restarted: bool) -> None:
    assert FOLDER is not None
    (FOLDER / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = (
        "from tests.vla.run.test_worker_processes import *\n"
        "if __name__ == '__main__':\n"
        "    JobRunner(say_and_wait, prepare, (sys.argv[1],), 1).run(lambda: [1], lambda *_: None)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(root)}, cwd=root
    )
    said = tmp_path / "pid"
    wait_until(lambda: said.exists() and said.read_text() != "")
    worker = int(said.read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text())


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come true in 30 seconds")
