"""Evaluation of a real policy in real worker processes, on the small suite of ``tests.fakes``."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import av
import pytest

from sim.contract import EnvironmentRequestError
from sim.pool import EnvironmentPool
from tests.fakes import FakePolicy, FakeSuite
from tests.vla.evaluation.small_runs import FACTORY, config
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.evaluation import runner
from vla.evaluation.commands import compare_command, merge_command
from vla.evaluation.merge import merge
from vla.evaluation.runner import evaluate, policy_fingerprint, run_evaluation
from vla.evaluation.statistics import wilson_interval
from vla.evaluation.videos import find_videos
from vla.policies.sampling import Sampling, as_it_is
from vla.rollout.scripted import run_experts
from vla.run.run_folder import RunFolder


def test_evaluate_covers_each_task_and_initial_state_once(pool: EnvironmentPool) -> None:
    seen: dict[int, Episode] = {}
    result = evaluate(
        FakePolicy(), FakeSuite(), pool, tasks=[2, 0], episodes_per_task=3, on_episode=lambda i, e: seen.update({i: e})
    )
    assert [(row["task_id"], row["init_state_id"]) for row in result.records] == [
        (t, i) for t in (2, 0) for i in range(3)
    ]
    assert {row["split"] for row in result.records} == {"eval"}
    assert [(seen[i].task_id, seen[i].init_state_id) for i in range(6)] == [(t, i) for t in (2, 0) for i in range(3)]
    successes = sum(row["success"] for row in result.records)
    low, high = wilson_interval(successes, 6)
    assert result.summary() == {"success_rate": successes / 6, "episodes": 6, "wilson_low": low, "wilson_high": high}
    assert [task.task_id for task in result.per_task] == [0, 2]
    assert set(result.metrics()) == {
        "eval/success_rate", "eval/episodes", "eval/wilson_low", "eval/wilson_high", "eval/task_0", "eval/task_2"
    }  # fmt: skip
    assert {row["protocol"] for row in result.records} == {result.protocol_hash}
    assert result.records[0]["instruction"] == "move to the blue target"


def test_an_episode_does_not_depend_on_what_else_is_evaluated(pool: EnvironmentPool) -> None:
    def sampled(tasks: list[int], seed: int = 0) -> list[dict[str, Any]]:
        options: dict[str, Any] = {"episodes_per_task": 4, "sampling": as_it_is(2.0), "seed": seed}
        result = evaluate(FakePolicy(gain=0.2), FakeSuite(), pool, tasks=tasks, **options)
        return [row for row in result.records if row["task_id"] == 1]

    together = sampled([0, 1, 2])
    assert sampled([1]) == together
    assert [row["seed"] for row in sampled([1], seed=1)] != [row["seed"] for row in together]
    assert len({row["seed"] for row in together}) == 4


def test_completed_records_are_not_run_again(pool: EnvironmentPool) -> None:
    whole = evaluate(FakePolicy(), FakeSuite(), pool, tasks=[1], episodes_per_task=4)
    marked = {**whole.records[2], "steps": -1}
    foreign = {**whole.records[0], "protocol": "another", "steps": -2}
    ran: list[int] = []
    again = evaluate(
        FakePolicy(),
        FakeSuite(),
        pool,
        tasks=[1],
        episodes_per_task=4,
        completed=[marked, foreign],
        on_episode=lambda index, _: ran.append(index),
    )
    assert sorted(ran) == [0, 1, 3]
    assert again.records == [*whole.records[:2], marked, whole.records[3]]


def test_filming_changes_no_result(pool: EnvironmentPool, tmp_path: Path) -> None:
    plain = evaluate(FakePolicy(), FakeSuite(), pool, tasks=[0], episodes_per_task=3)
    filmed = evaluate(
        FakePolicy(),
        FakeSuite(),
        pool,
        tasks=[0],
        episodes_per_task=3,
        video_folder=tmp_path / "sft",
        videos_per_task=2,
    )
    assert filmed.records == plain.records
    videos = find_videos(tmp_path)
    assert [(video.phase, video.task_id, video.init_state_id) for video in videos] == [("sft", 0, 0), ("sft", 0, 1)]
    for video, row in zip(videos, plain.records, strict=False):
        assert video.success == row["success"]
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            assert (stream.width, stream.height) == (384, 192)
            # A frame every 2 control steps, the one before the first and the last one twice.
            assert frames == -(-row["steps"] // 2) + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": [0, 7], "episodes_per_task": 1}, r"tasks 0 to 2.*\[0, 7\]"),
        ({"tasks": [], "episodes_per_task": 1}, "others or none"),
        ({"episodes_per_task": 21}, "has 20 eval initial states.*at most 20"),
        ({"episodes_per_task": 0}, "at least 1"),
        ({"episodes_per_task": 1, "split": "test"}, "unknown split 'test'"),
        ({"episodes_per_task": 1, "sampling": Sampling(1.0, 8.0, 0.0)}, "chunk_correlation and flow_noise are 0"),
    ],
)
def test_impossible_requests(pool: EnvironmentPool, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        evaluate(FakePolicy(), FakeSuite(), pool, **options)


@pytest.mark.usefixtures("fakes")
def test_a_run_writes_the_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "EnvironmentPool", functools.partial(EnvironmentPool, factory=FACTORY))
    summary = run_evaluation(config(tmp_path / "run"))
    run = RunFolder(tmp_path / "run", resume=True)
    assert summary == run.read_summary()
    assert summary["episodes"] == 6
    assert [(row["task_id"], row["init_state_id"]) for row in run.read_episodes()] == [
        (task, state) for task in (0, 2) for state in range(3)
    ]
    (line,) = run.read_metrics()
    assert line["step"] == 0
    assert line["eval/success_rate"] == summary["success_rate"]
    protocol = json.loads((run.path / "protocol.json").read_text())
    assert protocol["hash"] == summary["protocol"] == run.read_episodes()[0]["protocol"]
    assert len(find_videos(run.videos_path)) == 2
    assert "move to the blue target" in (run.path / "report.html").read_text()
    assert run.read_config()["policy_sha256"] == policy_fingerprint(FakePolicy(gain=0.2))
    assert json.loads((run.path / "self_test.json").read_text()) == {"off_protocol": []}


@pytest.mark.usefixtures("fakes")
def test_a_suite_that_fails_its_self_test_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FakeSuite, pictures: bool) -> dict[str, Any]:
        assert pictures
        raise EnvironmentRequestError("the bowl slides off")

    monkeypatch.setattr(FakeSuite, "self_test", fail)
    with pytest.raises(EnvironmentRequestError, match="the bowl slides off"):
        run_evaluation(config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("fakes")
def test_what_keeps_results_from_comparison_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    findings = {"off_protocol": ["pictures are drawn plainly"]}
    monkeypatch.setattr(FakeSuite, "self_test", lambda self, pictures: findings)
    run_evaluation(config(tmp_path / "run"))
    assert "off the published protocol: pictures are drawn plainly" in caplog.text
    assert json.loads((tmp_path / "run" / "self_test.json").read_text()) == findings


@pytest.mark.usefixtures("fakes")
def test_an_interrupted_run_resumes_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_evaluation(config(tmp_path / "whole"))
    append = RunFolder.append_episodes
    count = iter(range(100))

    def interrupt(self: RunFolder, records: list[dict[str, Any]], step: int | None = None) -> None:
        if next(count) == 3:
            with self.episodes_path.open("a") as stream:
                stream.write('{"step": 0, "task_')
            raise KeyboardInterrupt
        append(self, records, step)

    monkeypatch.setattr(RunFolder, "append_episodes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(config(tmp_path / "cut"))
    with pytest.raises(ReflexError, match="resume=true"):
        run_evaluation(config(tmp_path / "cut"))
    assert run_evaluation(config(tmp_path / "cut", resume=True)) == whole
    for name in ("episodes.jsonl", "metrics.jsonl", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert next(count) == 7  # three episodes, the interruption, and only the three that were missing


@pytest.mark.usefixtures("fakes")
def test_a_run_is_not_continued_with_another_policy_or_protocol(tmp_path: Path) -> None:
    run_evaluation(config(tmp_path, tasks=[0], episodes_per_task=1))
    with pytest.raises(ReflexError, match=r"other weights than 0.3"):
        run_evaluation(config(tmp_path, tasks=[0], episodes_per_task=1, policy="0.3", resume=True))
    with pytest.raises(ReflexError, match="differs in hash, temperature"):
        run_evaluation(config(tmp_path, tasks=[0], episodes_per_task=1, temperature=1.6, resume=True))
    more = run_evaluation(config(tmp_path, tasks=[0], episodes_per_task=2, resume=True))
    assert more["episodes"] == 2


def files(run: Path) -> dict[str, bytes]:
    """What two evaluations of the same episodes have in common."""
    names = ("episodes.jsonl", "metrics.jsonl", "protocol.json", "summary.json")
    return {name: (run / name).read_bytes() for name in names}


@pytest.mark.usefixtures("fakes")
def test_merged_shards_equal_the_whole_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run_evaluation(config(tmp_path / "whole"))
    parts = [tmp_path / name for name in ("first", "second", "third", "fourth")]
    episodes = [
        run_evaluation(config(part, shard=f"{number}/4"))["episodes"] for number, part in enumerate(parts, start=1)
    ]
    assert episodes == [1, 2, 1, 2]
    assert merge_command([*map(str, reversed(parts)), "--output", str(tmp_path / "merged")]) == 0
    assert json.loads(capsys.readouterr().out) == whole
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    assert [video.path.name for video in find_videos(tmp_path / "merged" / "videos")] == [
        video.path.name for video in find_videos(tmp_path / "whole" / "videos")
    ]
    assert RunFolder(tmp_path / "merged", resume=True).read_config()["shard"] is None


@pytest.mark.usefixtures("fakes")
def test_what_is_no_shard_of_one_evaluation_is_not_merged(tmp_path: Path) -> None:
    run_evaluation(config(tmp_path / "a", shard="1/2"))
    others = {
        "different weights": {"policy": "0.3", "shard": "2/2"},
        "different protocols": {"temperature": 1.6, "shard": "2/2"},
    }
    for number, (message, changes) in enumerate(others.items()):
        run_evaluation(config(tmp_path / str(number), **changes))
        with pytest.raises(ReflexError, match=message):
            merge([tmp_path / "a", tmp_path / str(number)], tmp_path / "merged")
    (tmp_path / "0" / "summary.json").unlink()
    with pytest.raises(ReflexError, match=r"holds no finished evaluation \(summary\.json is missing\)"):
        merge([tmp_path / "0"], tmp_path / "merged")
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "a", again)
    text = (again / "episodes.jsonl").read_text()
    changed = text.replace('"success": true', '"success": false', 1)
    assert changed != text
    (again / "episodes.jsonl").write_text(changed)
    with pytest.raises(ReflexError, match="in two of the runs with different outcomes"):
        merge([tmp_path / "a", again], tmp_path / "merged")
    (tmp_path / "1" / "protocol.json").unlink()
    with pytest.raises(ReflexError, match=r"\(protocol\.json is missing\); finish it with vla eval .* resume=true"):
        merge([tmp_path / "1"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.usefixtures("fakes")
def test_an_episode_in_two_parts_counts_once_and_nothing_is_merged_over(tmp_path: Path) -> None:
    run_evaluation(config(tmp_path / "a", shard="1/2"))
    run_evaluation(config(tmp_path / "whole"))
    merged = merge([tmp_path / "a", tmp_path / "whole"], tmp_path / "merged")
    assert merged["episodes"] == 6
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    with pytest.raises(ReflexError, match="merged"):
        merge([tmp_path / "a"], tmp_path / "merged")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", ""])
def test_a_shard_that_is_none_is_refused(tmp_path: Path, shard: str) -> None:
    with pytest.raises(ReflexError, match="counted from 1, such as 2/4"):
        config(tmp_path, shard=shard)


@pytest.mark.usefixtures("fakes")
def test_more_shards_than_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"more parts than there are episodes \(6\)"):
        run_evaluation(config(tmp_path / "run", shard="1/7"))


@pytest.mark.usefixtures("fakes")
def test_the_command_compares_two_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, policy in (("weak", "0.05"), ("strong", "0.9")):
        run_evaluation(config(tmp_path / name, policy=policy))
    capsys.readouterr()
    numbers = tmp_path / "comparison.json"
    assert compare_command([str(tmp_path / "weak"), str(tmp_path / "strong"), "--json", str(numbers)]) == 0
    assert "McNemar" in capsys.readouterr().out
    found = json.loads(numbers.read_text())
    rates = [run_evaluation(config(tmp_path / name, policy=policy, resume=True))["success_rate"]
             for name, policy in (("weak", "0.05"), ("strong", "0.9"))]  # fmt: skip
    assert found["overall"]["difference"] == pytest.approx(rates[1] - rates[0])
    assert found["overall"]["pairs"] == 6
    assert sum(task["pairs"] for task in found["tasks"].values()) == 6
    with pytest.raises(ReflexError, match="holds no evaluated episodes"):
        compare_command([str(tmp_path / "weak"), str(tmp_path / "nothing")])


@pytest.mark.usefixtures("fakes")
def test_experts_are_evaluated_like_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted twice, the files are those of an evaluation that never was."""
    monkeypatch.setattr(runner, "run_experts", functools.partial(run_experts, factory=FACTORY))
    settings: dict[str, Any] = {"policy": "expert", "mode": "greedy", "episodes_per_task": 4}
    whole = run_evaluation(config(tmp_path / "whole", **settings))
    assert (whole["success_rate"], whole["episodes"], whole["policy"]) == (1.0, 8, "expert")
    append = RunFolder.append_episodes
    for interruption in (2, 5):

        def interrupt(
            self: RunFolder, records: list[dict[str, Any]], step: int | None = None, after: int = interruption
        ) -> None:
            if len(self.read_episodes()) == after:
                raise KeyboardInterrupt
            append(self, records, step)

        monkeypatch.setattr(RunFolder, "append_episodes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_evaluation(config(tmp_path / "cut", resume=interruption == 5, **settings))
    monkeypatch.setattr(RunFolder, "append_episodes", append)
    assert len(RunFolder(tmp_path / "cut", resume=True).read_episodes()) == 5
    assert run_evaluation(config(tmp_path / "cut", resume=True, **settings)) == whole
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    with pytest.raises(ReflexError, match="no distribution to sample from"):
        config(tmp_path, policy="expert", mode="sample")
