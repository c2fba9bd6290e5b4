"""The run folder: layout, resume, and what a kill leaves."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fake_wandb import FakeWandb
from tests.vla.run.file_calls import FileCalls, Killed
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


def test_a_run_that_goes_on_is_not_resumed_beside_itself(tmp_path: Path) -> None:
    going_on = RunFolder(tmp_path / "run")
    going_on.append_metrics(1, {"train/loss": 0.5})
    half_written = tmp_path / "run/.summary.json.tmp"
    half_written.touch()
    with pytest.raises(ReflexError, match="another process is writing into"):
        RunFolder(tmp_path / "run", resume=True)
    assert half_written.exists(), "the other run's files are its own"
    going_on.close()
    assert RunFolder(tmp_path / "run", resume=True).read_metrics() == [{"step": 1, "train/loss": 0.5}]


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


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_wandb_gets_the_settings_and_the_metrics_of_a_run_and_of_its_resumption(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "grpo"
    with RunFolder(folder, logger="wandb") as run:
        run.write_config({"tasks": (0, 1), "output": folder})
        run.append_metrics(3, {"loss": 0.5, "bad": float("inf")})
        assert wandb.finished == 0
    assert wandb.finished == 1
    monkeypatch.setenv("WANDB_PROJECT", "arms")
    with RunFolder(folder, resume=True, logger="wandb") as run:
        run.truncate_after(3)
        run.append_metrics(4, {"loss": 0.25})
    first, second = wandb.runs
    assert first == {
        "project": "reflex", "id": first["id"], "name": "grpo", "dir": str(folder), "resume": "allow"
    }  # fmt: skip
    assert second == {**first, "project": "arms"}
    assert wandb.settings == [({"tasks": [0, 1], "output": str(folder)}, True)]
    assert wandb.logged == [(3, {"loss": 0.5}), (4, {"loss": 0.25})]
    assert (folder / "tensorboard").is_dir()
    with RunFolder(tmp_path / "other", logger="wandb"):
        assert wandb.runs[2]["id"] != first["id"]


def test_wandb_that_cannot_start_leaves_a_folder_that_can_be_used_again(tmp_path: Path, wandb: FakeWandb) -> None:
    wandb.problem = "No API key configured"
    with pytest.raises(ReflexError, match=r"No API key.*wandb login.*WANDB_MODE=offline.*logger=tensorboard"):
        RunFolder(tmp_path / "run", logger="wandb")
    RunFolder(tmp_path / "run").close()


def test_wandb_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails, installed or not
    with pytest.raises(ReflexError, match=r'logger=wandb needs .*pip install "wandb>=0.19"'):
        RunFolder(tmp_path, logger="wandb")
    RunFolder(tmp_path).close()


def test_an_unknown_logger(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="logger='mlflow' must be one of tensorboard, wandb"):
        RunFolder(tmp_path / "run", logger="mlflow")
    assert not (tmp_path / "run").exists()


def damage_size(folder: Path) -> None:
    (folder / "policy" / "weights").write_text("shorter")


def damage_content(folder: Path) -> None:
    path = folder / "policy" / "weights"
    path.write_bytes(path.read_bytes().swapcase())


def damage_missing(folder: Path) -> None:
    (folder / "policy" / "weights").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": 3}')


def damage_syntax(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files":')


def damage_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_size, "7 bytes instead of 11"),
        (damage_content, "does not match its checksum"),
        (damage_missing, "policy/weights is missing"),
        (damage_manifest, "manifest.json is damaged"),
        (damage_syntax, "manifest.json is not valid JSON"),
        (damage_no_manifest, "manifest.json is missing"),
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


def test_a_checkpoint_is_on_the_disk_before_its_name_and_old_ones_go_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.save_checkpoint(4, weights("4"))
    layer = FileCalls(monkeypatch, run.checkpoints_path)
    run.save_checkpoint(5, weights("5"), keep=1)
    published, pointed = layer.at("replace", ".writing-5", "5"), layer.at("replace", ".writing-last", "last")
    for name in ("policy/weights", MANIFEST, "policy"):
        assert layer.at("fsync", f".writing-5/{name}") < published
    assert ("fsync", ".writing-5") in layer.calls[:published]
    after = [
        ("replace", ".writing-5", "5"),
        ("fsync", "."),
        ("unlink", ".writing-last"),
        ("replace", ".writing-last", "last"),  # never a moment without it
        ("fsync", "."),
        ("replace", "4", ".writing-removed-4"),  # never half of it under its name
        ("rmtree", ".writing-removed-4"),
    ]
    assert layer.calls[published:] == after
    assert published < pointed
    layer.calls.clear()
    run.save_checkpoint(5, weights("again"))
    swap = layer.calls.index(("replace", "5", ".replaced-5"))
    assert layer.calls[swap + 1 : swap + 3] == [("replace", ".writing-5", "5"), ("rmtree", ".replaced-5")]
    assert {call[0] for call in layer.calls[:swap]} <= {"fsync", "replace", "unlink"}


def test_a_kill_between_any_two_steps_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        RunFolder(tmp_path / "before", resume=True).save_checkpoint(step, weights(str(step)))
    for kill_at in itertools.count():
        path = Path(shutil.copytree(tmp_path / "before", tmp_path / str(kill_at), symlinks=True))
        run = RunFolder(path, resume=True)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            FileCalls(patch, run.checkpoints_path, kill_at)
            run.save_checkpoint(2, weights("new"))
            run.save_checkpoint(3, weights("3"), keep=1)
            break
        run.close()  # as a killed process does
        last = RunFolder(path, resume=True).last_checkpoint()
        assert last is not None and last[0] in (2, 3)
        assert (last[1] / "policy" / "weights").read_text() in ("2", "new", "3")
        pointer = run.checkpoints_path / "last"
        assert (pointer / "policy" / "weights").read_text() in ("2", "new", "3")
        assert not [name for name in pointer.parent.iterdir() if name.name.startswith(".")]
    assert kill_at > 25  # each of the calls above was the first to fail once


def test_lines_that_a_kill_cut_short_are_dropped_on_resume(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.append_metrics(0, {"loss": 1.0})
        run.append_episodes([{"id": 0}], step=0)
    for path in (run.metrics_path, run.episodes_path):
        with path.open("a") as stream:
            stream.write('{"step": 1, "lo')
    with RunFolder(tmp_path, resume=True) as run:
        run.append_metrics(1, {"loss": 0.5})
        run.append_episodes([{"id": 1}], step=1)
    assert run.read_metrics() == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]
    assert run.read_episodes() == [{"step": 0, "id": 0}, {"step": 1, "id": 1}]


def test_half_written_files_are_cleared_on_resume(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_summary({"success_rate": 0.5})
    (tmp_path / ".writing-summary.json-0011aabb").write_text("{")
    (tmp_path / ".replaced-videos").mkdir()
    RunFolder(tmp_path, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "videos"]


def test_a_checkpoint_moved_aside_comes_back_on_resume(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = run.save_checkpoint(5, weights("5"))
    path.rename(path.with_name(".replaced-5"))
    (path.with_name(".writing-6-0011aabb")).mkdir()
    assert run.last_checkpoint() is None
    run.close()
    assert RunFolder(tmp_path, resume=True).last_checkpoint() == (5, path)
    assert sorted(entry.name for entry in run.checkpoints_path.iterdir()) == ["5", "last"]


def test_the_pointer_is_a_text_file_where_there_are_no_symbolic_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run = RunFolder(tmp_path)
    for step in (4, 5):
        run.save_checkpoint(step, weights(str(step)))
    assert (run.checkpoints_path / "last").read_text() == "5\n"
    assert run.last_checkpoint() == (5, run.checkpoints_path / "5")


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
