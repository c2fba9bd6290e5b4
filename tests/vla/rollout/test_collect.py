from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.pool import EpisodeRequest
from tests.vla.data.point_suite import FACTORY, PointEnvironment, PointExpert
from vla.data.episode import Episode
from vla.data.lerobot_reader import LeRobotDataset, read_demonstrations
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError
from vla.rollout.actors import Actor, Paced, action_noise, at_pace
from vla.rollout.builder import EpisodeBuilder
from vla.rollout.collect import CollectConfig, TaskPlan, collect
from vla.rollout.play import play_episode
from vla.rollout.requests import RolloutRequest

ROOT = Path(__file__).parents[3]


def settings(folder: Path, **changes: object) -> CollectConfig:
    base = CollectConfig(suite="point", output=str(folder), episodes_per_task=3, num_workers=1)
    return replace(base, **changes)


def assert_same_files(one: Path, two: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    for path in files:
        assert (one / path).read_bytes() == (two / path).read_bytes(), path


def test_plan_adds_one_attempt_for_each_failure() -> None:
    plan = TaskPlan(0, wanted=3)
    assert plan.outstanding() == [0, 1, 2]
    plan.kept.add(2)
    plan.failed.add(0)
    assert plan.outstanding() == [1, 3]
    plan.kept |= {1, 3}
    assert plan.outstanding() == []
    assert not plan.hopeless
    plan.failed = set(range(23))
    assert plan.hopeless


def test_only_successes_of_the_expert_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = collect(settings(tmp_path / "demos"), FACTORY)
    dataset = LeRobotDataset(folder)
    episodes = [dataset.episode(index) for index in range(dataset.num_episodes)]
    assert [episode.task_id for episode in episodes] == [0, 0, 0, 1, 1, 1]
    # The expert cannot solve initial state 1, so the next one takes its place.
    assert [episode.init_state_id for episode in episodes] == [0, 2, 3, 0, 2, 3]
    assert all(episode.success and episode.policy_id == "expert" for episode in episodes)
    assert len({episode.seed for episode in episodes}) == 6
    episode = episodes[0]
    assert episode.states[:, 1].tolist() == list(range(episode.length))  # a frame before every control step
    assert episode.costs.tolist() == [0.25] * episode.length
    record = json.loads((folder / "meta/reflex_collection.json").read_text())
    assert record["tasks"]["1"] == {"name": "gauge_1", "episodes": 3, "attempts": 4}
    assert record["settings"]["episodes_per_task"] == 3
    assert "the expert succeeded in 6 of 8 attempts (75.0%)" in " ".join(capsys.readouterr().err.split())


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    one = collect(settings(tmp_path / "one"), FACTORY)
    two = collect(settings(tmp_path / "two", num_workers=2), FACTORY)
    assert_same_files(one, two)


def played(actor: Actor, deviation: float = 0.0) -> Episode:
    environment = PointEnvironment(0, 16)
    environment.reset_to("train", 0)
    builder = EpisodeBuilder(
        "point", environment.embodiment, RolloutRequest(EpisodeRequest(0, "train", 0), seed=0), "expert"
    )
    noise = action_noise(np.random.default_rng(1), deviation, environment.embodiment)
    return play_episode(environment, actor, builder, frame_stride=1, disturb=noise)


def test_noise_is_executed_and_not_recorded() -> None:
    episode = played(PointExpert(0), deviation=0.2)
    actions = episode.actions
    assert (actions == actions[0]).all()
    levels = episode.states[:, 0]
    executed = np.diff(levels)
    assert np.abs(executed - actions[0, 0]).max() > 0.05
    assert np.abs(executed - actions[0, 0]).max() < 1.0


def test_a_slow_pace_shortens_movements_and_keeps_their_direction() -> None:
    action = np.array([0.6, 0.0, -0.8, 0.1, 0.2, 0.3, 1.0], dtype=np.float32)  # a translation of length 1
    np.testing.assert_allclose(at_pace(action, 0.4), [0.24, 0.0, -0.32, 0.1, 0.2, 0.3, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(at_pace(at_pace(action, 0.4), 0.5), at_pace(action, 0.4))
    np.testing.assert_array_equal(at_pace(np.zeros(7, np.float32), 0.4), np.zeros(7))
    actions = played(Paced(PointExpert(0), 0.1)).actions
    assert max(np.linalg.norm(action[:3]) for action in actions) == pytest.approx(0.1)


def test_a_random_policy_keeps_every_episode(tmp_path: Path) -> None:
    folder = collect(settings(tmp_path / "demos", policy="random", tasks=[1], episodes_per_task=4), FACTORY)
    episodes = read_demonstrations(folder)
    assert [episode.init_state_id for episode in episodes] == [0, 1, 2, 3]
    assert {episode.policy_id for episode in episodes} == {"random"}
    assert not all(episode.success for episode in episodes)
    actions = np.concatenate([episode.actions for episode in episodes])
    assert actions.std(axis=0) == pytest.approx(np.full(7, np.sqrt(1 / 3)), rel=0.3)


def test_a_policy_folder_keeps_every_episode_with_every_frame(tmp_path: Path) -> None:
    from vla.policies import TinyPolicy, reflex_tiny_config

    TinyPolicy.from_config(reflex_tiny_config()).save_pretrained(tmp_path / "policy")
    changes = {"policy": str(tmp_path / "policy"), "tasks": [1], "episodes_per_task": 2, "image_size": 64}
    episodes = read_demonstrations(collect(settings(tmp_path / "demos", **changes), FACTORY))
    assert [episode.init_state_id for episode in episodes] == [0, 1]
    for episode in episodes:
        assert episode.policy_id == "reflex-tiny"
        assert episode.states[:, 1].tolist() == list(range(episode.length))
        assert episode.images["image"].shape == (episode.length, 64, 64, 3)


def test_failed_attempts_are_remembered_up_to_a_line_that_a_crash_tore(tmp_path: Path) -> None:
    """Every episode is staged again, or known to fail; a torn line is a failure that is found out anew."""
    whole = collect(settings(tmp_path / "whole"), FACTORY)
    config = settings(tmp_path / "demos")
    with monkeypatched_finalize(), pytest.raises(KeyboardInterrupt):
        collect(config, FACTORY)
    log = tmp_path / "demos.partial" / "attempts.jsonl"
    lines = log.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"task_id": task, "attempt": 1} for task in (0, 1)]
    log.write_text(lines[0] + "\n" + lines[1][:-4])
    with monkeypatched_finalize(), pytest.raises(KeyboardInterrupt):
        collect(config, FACTORY)
    assert log.read_text().splitlines() == lines
    assert_same_files(collect(config, FACTORY), whole)


@contextlib.contextmanager
def monkeypatched_finalize() -> Iterator[None]:
    """Ctrl-C when everything is staged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeRobotWriter, "finalize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        yield


def test_an_expert_that_cannot_do_the_task_ends_in_an_error(tmp_path: Path) -> None:
    impossible = settings(tmp_path / "demos", episodes_per_task=30, action_noise=1.0)
    with pytest.raises(ReflexError, match=r"expert of point task 0 failed .* lower action_noise=1"):
        collect(impossible, "tests.vla.data.hopeless:get_suite")
    assert not (tmp_path / "demos").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes_per_task": 0}, "episodes_per_task is 0; it must be at least 1"),
        ({"num_workers": -1}, "num_workers is -1; it must be at least 0"),
        ({"split": "test"}, "split is 'test'; it must be one of train, eval"),
        ({"action_noise": -0.1}, "action_noise is -0.1; it must lie in .0, 1."),
        ({"action_noise": 1.1}, "action_noise is 1.1; it must lie in .0, 1."),
        ({"action_noise": 0.1, "policy": "random"}, "needs policy=expert"),
        ({"pace": 0.0}, "pace is 0.0; it must be a positive number"),
        ({"pace": 1.1}, "pace is 1.1; it must lie in .0, 1."),
        ({"pace": 0.5, "policy": "random"}, "pace=0.5 needs policy=expert"),
        ({"pixel_format": "rgb24"}, "pixel_format is 'rgb24'; it must be one of yuv420p, yuv444p"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        settings(tmp_path / "demos", **changes)


def test_an_unknown_task_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRequestError, match="unknown task 7"):
        collect(settings(tmp_path / "demos", tasks=[7]), FACTORY)
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import sys, time
from vla.rollout.collect import CollectConfig, collect
from tests.vla.data.point_suite import FACTORY

if __name__ == "__main__":
    workers = int(sys.argv[2])
    config = CollectConfig(suite="point", output=sys.argv[1], episodes_per_task=3, num_workers=workers)
    factory = "tests.vla.data.slow_suite:get_suite"
    try:
        collect(config, factory)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def children() -> list[int]:
    """Process numbers of this process's living children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append(int(status.parent.name))
    return sorted(found)


def test_killed_workers_lose_no_episode(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    killed = []
    others = set(children())  # of tests before, such as multiprocessing's resource tracker

    def kill_now_and_then() -> None:
        while not stop.wait(1.5) and len(killed) < 2:
            for child in [child for child in children() if child not in others][:1]:
                os.kill(child, signal.SIGKILL)
                killed.append(child)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        disturbed = collect(
            settings(tmp_path / "disturbed", episodes_per_task=6, num_workers=2), "tests.vla.data.slow_suite:get_suite"
        )
    finally:
        stop.set()
        killer.join()
    assert killed
    assert "a worker process died" in caplog.text
    quiet = collect(settings(tmp_path / "quiet", episodes_per_task=6), FACTORY)
    one, two = LeRobotDataset(disturbed), LeRobotDataset(quiet)
    assert one.num_episodes == two.num_episodes == 12
    for index in range(12):
        episode, other = one.episode(index), two.episode(index)
        assert (episode.task_id, episode.init_state_id, episode.seed) == (
            other.task_id,
            other.init_state_id,
            other.seed,
        )
        assert np.array_equal(episode.actions, other.actions)
        for camera in episode.images:
            assert np.array_equal(episode.images[camera], other.images[camera])


@pytest.mark.parametrize(("workers", "how"), [(1, signal.SIGINT), (2, signal.SIGINT), (1, signal.SIGKILL)])
def test_interrupted_and_run_again(tmp_path: Path, workers: int, how: signal.Signals) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "demos"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(workers)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    staged = tmp_path / "demos.partial" / "episodes"
    deadline = time.monotonic() + 60
    while len(list(staged.glob("task-*"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    message = " ".join(process.communicate(timeout=60)[1].split())
    assert not folder.exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "whole episodes are kept in" in message
        assert "Run the same command again to continue" in message
    with pytest.raises(ReflexError, match="seed=0, now seed=1"):
        collect(settings(folder, seed=1), FACTORY)
    before = {path.name: path.stat().st_mtime_ns for path in staged.glob("task-*")}
    assert len(before) >= 2
    assert_same_files(collect(settings(folder), FACTORY), collect(settings(tmp_path / "whole"), FACTORY))
    assert not (tmp_path / "demos.partial").exists()
