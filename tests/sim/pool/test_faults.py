"""Workers that fail, die, hang and are interrupted."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.pool import ChunkResult, EnvironmentPool, EnvironmentPoolError, EpisodeRequest

FAKE = "tests.fake_suite:get_suite"
FAULTY = "tests.sim.faulty_suite:get_suite"
REQUESTS = [EpisodeRequest(task_id, "train", 3) for task_id in (0, 1, 2)]


def play(pool: EnvironmentPool, kill_before: int | None = None) -> list[list[ChunkResult]]:
    """Three slots, four chunks of four steps; SIGKILL to worker 0 before chunk number `kill_before`."""
    generator = np.random.default_rng(0)
    pool.reset(range(3), REQUESTS)
    rounds = []
    for number in range(4):
        actions = generator.uniform(-0.3, 0.3, size=(3, 4, 7)).astype(np.float32)
        if number == kill_before:
            os.kill(pool.worker_pids[0], signal.SIGKILL)
        rounds.append(pool.step_chunk(range(3), actions))
    return rounds


def undisturbed() -> list[list[ChunkResult]]:
    with EnvironmentPool("fake", 3, 0, factory=FAKE) as pool:
        return play(pool)


def assert_same_outcomes(left: list[list[ChunkResult]], right: list[list[ChunkResult]]) -> None:
    for left_round, right_round in zip(left, right, strict=True):
        for one, other in zip(left_round, right_round, strict=True):
            assert one.steps == other.steps
            assert one.outcomes == other.outcomes
            np.testing.assert_array_equal(one.observation["images"]["image"], other.observation["images"]["image"])
            np.testing.assert_array_equal(one.observation["state"], other.observation["state"])


def exists(pid: int) -> bool:
    """Whether a process lives (a zombie that waits for its parent does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(exists(pid) for pid in pids)


def test_a_killed_worker_comes_back_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with EnvironmentPool("fake", 3, 2, factory=FAKE) as pool, caplog.at_level(logging.WARNING):
        rounds = play(pool, kill_before=2)
        assert "worker 0 (running tasks by slot: {0: 0, 2: 2}) died of SIGKILL; restart 1 of 3" in caplog.text
        assert_same_outcomes(rounds, undisturbed())
        marks = [[result.worker_restarted for result in results] for results in rounds]
        assert marks == [[False] * 3, [False] * 3, [True, False, True], [True, False, True]]
        pool.reset([0], REQUESTS[:1])
        assert not pool.step_chunk([0], np.zeros((1, 1, 7), np.float32))[0].worker_restarted


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_a_worker_lost_in_the_middle_of_a_chunk_comes_back(fault: str, tmp_path: Path) -> None:
    once = tmp_path / "once"
    once.touch()
    with EnvironmentPool(f"{fault}:{once}", 3, 2, factory=FAULTY, timeout=4.0) as pool:
        rounds = play(pool)  # task 1 in slot 1, worker 1, fails at its step 5, in the second chunk
    assert not once.exists()
    assert_same_outcomes(rounds, undisturbed())
    assert [[result.worker_restarted for result in results] for results in rounds[:2]] == [
        [False] * 3,
        [False, True, False],
    ]


def test_a_worker_that_always_dies_ends_in_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with EnvironmentPool("dies", 3, 1, factory=FAULTY) as pool, caplog.at_level(logging.WARNING):
        message = r"running tasks by slot: \{0: 0, 1: 1, 2: 2\}\) exited with status 13.* restarted 3 times"
        with pytest.raises(EnvironmentPoolError, match=message):
            play(pool)
    assert [record.message.split(";")[1].split(",")[0] for record in caplog.records] == [
        f" restart {number} of 3" for number in (1, 2, 3)
    ]


def test_a_worker_that_cannot_start_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with EnvironmentPool("fake", 1, 1, factory=FAKE) as pool:
        pool.reset([0], REQUESTS[:1])
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts now
        with pytest.raises(EnvironmentPoolError, match="before it could start; its own message is on standard error"):
            pool.step_chunk([0], np.zeros((1, 1, 7), np.float32))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_exceptions_cross_the_process(num_workers: int) -> None:
    with EnvironmentPool("raises", 3, num_workers, factory=FAULTY) as pool:
        with pytest.raises(EnvironmentPoolError, match=r"^slot 1, task 1: ZeroDivisionError: the gripper") as caught:
            play(pool)
        assert "in advance" in str(caught.value.__cause__)  # the worker's own traceback
        # The pool still works: slots of the failed call need a reset, nothing else.
        with pytest.raises(EnvironmentRequestError, match="slot 0 has no episode"):
            pool.step_chunk([0], np.zeros((1, 1, 7), np.float32))
        pool.reset(range(3), REQUESTS)
        assert len(pool.step_chunk(range(3), np.zeros((3, 4, 7), np.float32))) == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_request_errors_keep_their_type(num_workers: int) -> None:
    with EnvironmentPool("refuses", 3, num_workers, factory=FAULTY) as pool:
        with pytest.raises(EnvironmentRequestError, match=r"^slot 1, task 1: this drawer does not open$") as caught:
            play(pool)
        assert type(caught.value) is EnvironmentRequestError
        with pytest.raises(EnvironmentRequestError, match=r"slot 2, task 9: unknown task 9; suite refuses has"):
            pool.reset([2], [EpisodeRequest(9, "train", 0)])
        with pytest.raises(EnvironmentRequestError, match=r"slot 2, task 0: initial state 99"):
            pool.reset([2], [EpisodeRequest(0, "train", 99)])


@pytest.mark.parametrize(
    ("suite", "factory", "message"),
    [
        ("nonsense", FAKE, "unknown suite 'nonsense'"),
        ("fake", "tests.fake_suite:no_such_function", "cannot import the suite factory"),
    ],
)
def test_an_impossible_suite_is_reported(suite: str, factory: str, message: str) -> None:
    with EnvironmentPool(suite, 1, 1, factory=factory) as pool, pytest.raises(EnvironmentRequestError, match=message):
        pool.reset([0], REQUESTS[:1])


def test_close_ends_hanging_frozen_and_dead_workers() -> None:
    pool = EnvironmentPool("hangs", 3, 3, factory=FAULTY)
    pids = pool.worker_pids
    pool.reset(range(3), REQUESTS)
    pool.begin_step_chunk(range(3), np.zeros((3, 8, 7), np.float32))  # slot 1 hangs at its step 5
    pool.finish([0, 2])
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[2], signal.SIGSTOP)  # SIGTERM does not end a stopped process
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 20.0
    assert wait_until_gone(pids, 0.5)


PARENT = """
import os, signal, sys, time
import numpy as np
from sim.pool import EnvironmentPool, EpisodeRequest
pool = EnvironmentPool("fake", 2, 2, factory="tests.fake_suite:get_suite")
pool.reset([0, 1], [EpisodeRequest(0, "train", 0)] * 2)
print(*pool.worker_pids, flush=True)
if sys.argv[1] == "exit":
    sys.exit()
time.sleep(60)
"""


@pytest.mark.parametrize("ending", ["exit", "SIGKILL", "SIGINT"])
def test_workers_end_with_their_parent(ending: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, ending],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if ending != "exit":
            for pid in pids if ending == "SIGINT" else []:
                os.kill(pid, signal.SIGINT)  # a worker ignores it even when it gets it
            parent.send_signal(signal.Signals[ending])
        parent.wait(60)
        errors = parent.stderr.read()
    assert wait_until_gone(pids, 8.0)
    assert errors.count("Traceback") == (1 if ending == "SIGINT" else 0), errors
    assert "pool_worker" not in errors


def test_an_interrupt_while_waiting_leaves_a_usable_pool() -> None:
    with EnvironmentPool("fake", 3, 1, factory=FAKE) as pool:
        pool.reset(range(3), REQUESTS)
        os.kill(pool.worker_pids[0], signal.SIGSTOP)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                pool.step_chunk(range(3), np.zeros((3, 4, 7), np.float32))
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.kill(pool.worker_pids[0], signal.SIGCONT)
        assert_same_outcomes(play(pool), undisturbed())
