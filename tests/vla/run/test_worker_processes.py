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
from vla.run.worker_processes import MAX_FRUITLESS_DEATHS, run_jobs


class Worker:
    """What a worker process makes of itself."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def close(self) -> None:
        (self.folder / "closed").touch()


class Square(Worker):
    def run(self, number: int, restarted: bool) -> tuple[int, bool]:
        """Workers die at every fifth number, the first time each is tried."""
        mark = self.folder / str(number)
        if number % 5 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2, restarted


class Die(Worker):
    def run(self, number: int, restarted: bool) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number


class Refuse(Worker):
    def run(self, number: int, restarted: bool) -> int:
        raise ReflexError(f"no {number}")


class RefuseToStart(Worker):
    def __init__(self, folder: str) -> None:
        raise ReflexError(f"no {folder}")


def test_what_a_dead_worker_had_is_done_again_and_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results: dict[int, tuple[int, bool]] = {}

    def finished(number: int, result: tuple[int, bool]) -> None:
        assert number not in results
        results[number] = result

    with caplog.at_level(logging.WARNING):
        run_jobs(Square, (str(tmp_path),), 2, range(1, 13), finished)
    assert {number: square for number, (square, _) in results.items()} == {n: n**2 for n in range(1, 13)}
    assert results[5][1] and results[10][1]
    assert not results[1][1]
    assert 1 <= caplog.text.count("a worker process died") <= 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_result_may_add_jobs(tmp_path: Path, num_workers: int) -> None:
    seen = []

    def finished(number: int, result: tuple[int, bool]) -> list[int]:
        seen.append(number)
        return [number - 1] if number > 1 else []

    run_jobs(Square, (str(tmp_path),), num_workers, [3], finished)
    assert seen == [3, 2, 1]


def test_workers_that_only_die_are_given_up(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=f"died {MAX_FRUITLESS_DEATHS + 1} times with nothing done"):
        run_jobs(Die, (str(tmp_path),), 1, [1], lambda *_: None)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_is_the_callers(tmp_path: Path, num_workers: int) -> None:
    with pytest.raises(ReflexError, match="no 7") as caught:
        run_jobs(Refuse, (str(tmp_path),), num_workers, [7], lambda *_: None)
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert ("in run\n" in notes) == (num_workers == 1), "where it happened in the other process"
    with pytest.raises(ReflexError, match="no beginning"):
        run_jobs(RefuseToStart, ("beginning",), num_workers, [7], lambda *_: None)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_workers_are_closed_and_gone_at_the_end(tmp_path: Path, num_workers: int) -> None:
    results: list[int] = []
    run_jobs(Identity, (str(tmp_path),), num_workers, [1], lambda _, pid: results.append(pid))
    assert (tmp_path / "closed").exists()
    assert (results == [os.getpid()]) == (num_workers == 0)
    assert num_workers == 0 or not Path(f"/proc/{results[0]}").exists()


def test_a_worker_computes_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    results: list[dict[str, str]] = []
    run_jobs(Threads, (str(tmp_path),), 1, [1], lambda _, found: results.append(found))
    assert set(results[0].values()) == {"1"}


class Threads(Worker):
    def run(self, number: int, restarted: bool) -> dict[str, str]:
        libraries = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        return {name: os.environ[f"{name}_NUM_THREADS"] for name in libraries}


class Identity(Worker):
    def run(self, number: int, restarted: bool) -> int:
        return os.getpid()


class SayAndWait(Worker):
    def run(self, number: int, restarted: bool) -> None:
        (self.folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = (
        "from tests.vla.run.test_worker_processes import *\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(SayAndWait, (sys.argv[1],), 1, [1], lambda *_: None)\n"
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
