"""The run folder: layout, resume, and what a kill leaves."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vla.errors import ReflexError
from vla.run.checkpoints import MANIFEST
from vla.run.run_folder import RunFolder, comparable_metrics


def weights(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "policy").mkdir()
        (folder / "policy" / "weights").write_text(text)

    return write


def test_layout(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        run.write_config({"suite": "tabletop", "tasks": (0, 1), "output": tmp_path})
        run.write_protocol({"suite": "tabletop", "hash": "ab"})
        run.append_metrics(0, {"eval/success_rate": 0.25})
        run.append_episodes([{"task_id": 0, "success": True}], step=0)
        run.save_checkpoint(0, weights("0"))
        run.write_summary({"success_rate": 0.25})
        assert run.read_config() == {"suite": "tabletop", "tasks": [0, 1], "output": str(tmp_path)}
        assert run.read_metrics() == [{"step": 0, "eval/success_rate": 0.25}]
        assert run.read_episodes() == [{"step": 0, "task_id": 0, "success": True}]
        assert run.read_summary() == {"success_rate": 0.25}
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml", "protocol.json", "metrics.jsonl", "episodes.jsonl", "checkpoints", "summary.json", "tensorboard"
    }  # fmt: skip
    assert (tmp_path / "run" / "checkpoints" / "last" / "policy" / "weights").read_text() == "0"


def test_an_existing_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").append_metrics(0, {"a": 1})
    with pytest.raises(ReflexError, match=r"resume=true.*another output folder"):
        RunFolder(tmp_path / "run")
    assert RunFolder(tmp_path / "run", resume=True).read_metrics() == [{"step": 0, "a": 1.0}]
    RunFolder(tmp_path / "new", resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(ReflexError, match="is a file"):
        RunFolder(tmp_path / "file", resume=True)


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_protocol({"suite": "a", "facts": (1, 2)})
    run.write_protocol({"suite": "a", "facts": (1, 2)})
    with pytest.raises(ReflexError, match="differs in suite"):
        run.write_protocol({"suite": "b", "facts": (1, 2)})


def test_truncation_makes_a_resumed_run_equal_to_an_unbroken_one(tmp_path: Path) -> None:
    def play(run: RunFolder, steps: range) -> None:
        for step in steps:
            run.append_metrics(step, {"loss": 1 / (step + 1), "time/step": time.monotonic()})
            run.append_episodes([{"id": step * 2}, {"id": step * 2 + 1}], step=step)

    with RunFolder(tmp_path / "whole") as whole:
        play(whole, range(6))
    with RunFolder(tmp_path / "killed") as killed:
        play(killed, range(5))
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    with RunFolder(tmp_path / "killed", resume=True) as resumed:
        resumed.truncate_after(2)
        play(resumed, range(3, 6))
    assert comparable_metrics(resumed.read_metrics()) == comparable_metrics(whole.read_metrics())
    assert resumed.episodes_path.read_bytes() == whole.episodes_path.read_bytes()
    resumed.truncate_after(-1)
    assert resumed.read_metrics() == resumed.read_episodes() == []


def test_tensorboard_holds_the_metrics_and_hides_what_was_truncated(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        for step in range(4):
            run.append_metrics(step, {"loss": float(step), "bad": float("nan")})
    with RunFolder(tmp_path, resume=True) as run:
        run.truncate_after(1)
        run.append_metrics(2, {"loss": 20.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 20.0)]


def test_an_episode_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a step"):
        RunFolder(tmp_path).append_episodes([{"task_id": 0}])


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_wandb_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"reflex.*\[wandb\]"):
        RunFolder(tmp_path).enable_wandb()


def damage_size(folder: Path) -> None:
    (folder / "policy" / "weights").write_text("shorter")


def damage_content(folder: Path) -> None:
    path = folder / "policy" / "weights"
    path.write_bytes(path.read_bytes().swapcase())


def damage_missing(folder: Path) -> None:
    (folder / "policy" / "weights").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": 3}')


def damage_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_size, "7 bytes instead of 11"),
        (damage_content, "does not match its checksum"),
        (damage_missing, "policy/weights is missing"),
        (damage_manifest, "manifest.json is damaged"),
        (damage_no_manifest, "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_named(
    tmp_path: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    good = run.save_checkpoint(9, weights("good"))
    damage(run.save_checkpoint(10, weights("ten of them")))
    assert run.last_checkpoint() == (9, good)
    assert reason in caplog.text


def test_checkpoints_are_kept_and_deleted_by_number(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.last_checkpoint() is None
    for step in (1, 2, 10):
        run.save_checkpoint(step, weights(str(step)), keep=2)
    assert sorted(path.name for path in run.checkpoints_path.iterdir()) == ["10", "2", "last"]
    run.save_checkpoint(10, weights("again"))
    assert (run.checkpoints_path / "last" / "policy" / "weights").read_text() == "again"


def test_a_failed_checkpoint_leaves_the_last_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save_checkpoint(1, weights("1"))

    def full(folder: Path) -> None:
        (folder / "weights").write_text("half")
        Path("/dev/full").write_text("x" * 100)

    with pytest.raises(ReflexError, match=r"checkpoints/2: No space left"):
        run.save_checkpoint(2, full)
    assert sorted(path.name for path in run.checkpoints_path.iterdir()) == ["1", "last"]
    assert run.last_checkpoint() == (1, run.checkpoints_path / "1")


SAVER = """
import sys
from pathlib import Path
from vla.run.run_folder import RunFolder
run = RunFolder(sys.argv[1], resume=True)
last = run.last_checkpoint()
step = 0 if last is None else last[0] + 1
if last is not None:
    expected = bytes([last[0] % 256]) * 200_000
    assert all((last[1] / name).read_bytes() == expected for name in "abc"), "a checkpoint is not whole"
print("ready", flush=True)
while True:
    def write(folder):
        for name in "abc":
            (folder / name).write_bytes(bytes([step % 256]) * 200_000)
    run.save_checkpoint(step, write, keep=2)
    if step % 3 == 0:
        run.save_checkpoint(step, write, keep=2)
    print(step, flush=True)
    step += 1
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    saved, reached = 0, []
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(attempt):
            saved = int(process.stdout.readline())
        time.sleep(0.0037 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        last = RunFolder(tmp_path, resume=True).last_checkpoint()
        reached.append(-1 if last is None else last[0])
    assert reached == sorted(reached)
    assert reached[-1] >= saved >= 3
    assert (tmp_path / "checkpoints" / "last").resolve().name in {str(reached[-1]), str(reached[-1] - 1)}
