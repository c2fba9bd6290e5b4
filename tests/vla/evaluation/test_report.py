"""The report: what it shows, that it needs nothing else, and that it refuses what is no run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from sim.embodiments import PANDA_EEF
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.evaluation import report
from vla.evaluation.commands import report_command
from vla.evaluation.report import write_report
from vla.evaluation.report_data import load_run, order_phases, profile
from vla.evaluation.results import EvaluationResult
from vla.evaluation.videos import find_videos, side_by_side, write_videos
from vla.run.run_folder import RunFolder

INSTRUCTIONS = ["put the <red> cube & the cup away", "open the drawer"]


def film(task: int, success: bool, state: int = 0) -> Episode:
    frames = np.full((5, 16, 16, 3), 40 + 60 * task, dtype=np.uint8)
    return Episode(
        suite="tabletop",
        embodiment=PANDA_EEF.with_image_size(16),
        task_id=task,
        instruction=INSTRUCTIONS[task],
        split="eval",
        init_state_id=state,
        seed=0,
        policy_id="p",
        success=success,
        actions=np.zeros((8, 7), np.float32),
        observation_steps=np.arange(0, 10, 2),
        images={"image": frames, "wrist_image": 255 - frames},
        states=np.zeros((5, 8), np.float32),
        rewards=np.zeros(8, np.float32),
        costs=np.zeros(8, np.float32),
        progress=np.zeros(8, np.float32),
    )


def evaluation(successes: list[int], of: int = 10) -> EvaluationResult:
    records = [
        {"task_id": t, "init_state_id": i, "success": i < count, "instruction": INSTRUCTIONS[t], "protocol": "p"}
        for t, count in enumerate(successes)
        for i in range(of)
    ]
    return EvaluationResult([{**record, "split": "eval"} for record in records], "p")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    with RunFolder(tmp_path / "demo") as run:
        run.write_config({"suite": "tabletop", "seed": 3})
        run.write_protocol({"suite": "tabletop", "hash": "c0ffee"})
        for step, successes in ((0, [2, 4]), (1, None), (2, [9, 10])):
            metrics = {"train/kl": 0.5 - 0.1 * step, "train/episodes": 1000.0 * step, "train/nan": float("nan")}
            if successes is not None:
                result = evaluation(successes)
                metrics |= result.metrics()
                run.append_episodes(result.records, step=step)
            run.append_metrics(step, metrics)
        run.write_summary(
            {"sft": evaluation([2, 4]).summary(), "srpo": evaluation([9, 10]).summary(), "wall_seconds": 90}
        )
        write_videos(run.videos_path / "sft", [film(0, True, 1), film(0, False, 0), film(1, True)])
        write_videos(run.videos_path / "srpo", [film(0, True, 1), film(0, True, 0), film(1, True)])
    return tmp_path / "demo"


class Page(HTMLParser):
    """Checks that tags are balanced and collects text and addresses."""

    VOID = frozenset({"meta", "link", "br", "img", "line", "circle", "polygon", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "poster", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_of_a_training_run(trained: Path) -> None:
    text = write_report(trained).read_text(encoding="utf-8")
    page = Page(text)
    shown = " ".join(page.text.split())
    assert "SRPO reaches 95 % success, +65.0 points from 30 % (Fine-tuned)." in shown
    assert "95 % interval 76.4 % to 99.1 %, 20 episodes" in shown  # Wilson, 19 of 20
    assert "paired on 20 initial states" in shown
    assert "13 newly solved, 0 lost" in shown
    assert "put the <red> cube & the cup away" in page.text
    assert "iteration 2: 95 % of 20 episodes, after 2000 training episodes" in shown
    assert "train/kl" in shown
    assert "train/nan" not in shown
    assert "Protocol c0ffee" in shown
    assert "Wall time 1.5 minutes" in shown
    assert len(page.addresses) == 4  # two tasks, first and last policy
    assert all(address.startswith("data:video/mp4;base64,") for address in page.addresses)
    # The pair shown for a task is one where training turned a failure into a success.
    assert re.search(r"Fine-tuned, initial state 0: failure.*?SRPO, initial state 0: success", shown)
    without_videos = re.sub(r'"data:video/mp4;base64,[^"]*"', "", text)
    assert "//" not in without_videos
    assert "url(" not in without_videos
    assert "<script" not in without_videos


def test_report_of_a_single_evaluation(tmp_path: Path) -> None:
    result = evaluation([10, 8])
    with RunFolder(tmp_path) as run:
        run.append_episodes(result.records, step=0)
        run.append_metrics(0, result.metrics())
        run.write_summary({**result.summary(), "policy": "reflex-tiny"})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    shown = " ".join(page.text.split())
    assert "reflex-tiny succeeds in 90 % of 20 episodes." in shown
    assert "Learning curve" not in shown
    assert "Gain" not in shown
    assert "open the drawer 80 % 49 to 94, 8/10" in shown


def test_an_evaluation_on_training_states_has_tasks_and_a_trainers_rollouts_are_none(trained: Path) -> None:
    records = [{**record, "split": "train"} for record in evaluation([3, 5]).records]
    with RunFolder(trained.with_name("train")) as run:
        run.append_episodes(records, step=0)
    assert [task.successes for task in load_run(run.path).first_tasks] == [3, 5]
    with RunFolder(trained, resume=True) as run:
        run.append_episodes([{**record, "reward": 0.5} for record in records], step=3)
    assert [task.successes for task in load_run(trained).last_tasks] == [9, 10]


def test_a_run_without_a_summary_is_shown_from_its_metrics(trained: Path) -> None:
    (trained / "summary.json").unlink()
    arms = load_run(trained).arms
    assert [(arm.name, arm.success_rate, arm.episodes) for arm in arms] == [
        ("Iteration 0", 0.3, 20),
        ("Iteration 2", 0.95, 20),
    ]


def test_a_trainers_summary_shows_where_it_began_and_ended(trained: Path) -> None:
    RunFolder(trained, resume=True).write_summary(
        {
            **evaluation([9, 10]).summary(),
            "start": evaluation([2, 4]).summary(),
            "reward": "binary",
            "stopped_by": "target",
        }
    )
    assert [(arm.name, arm.success_rate) for arm in load_run(trained).arms] == [("Start", 0.3), ("GRPO", 0.95)]


def test_fine_tuning_counts_evaluated_episodes_and_not_demonstrations(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "sft") as run:
        run.write_summary({**evaluation([10, 8]).summary(), "episodes": 30, "eval_episodes": 20.0, "policy": "p"})
    (arm,) = load_run(tmp_path / "sft").arms
    assert (arm.name, arm.success_rate, arm.episodes) == ("p", 0.9, 20)
    assert load_run(tmp_path / "sft").difference is None


def places(page: str, kind: str) -> list[tuple[float, ...]]:
    """Left edge and, where it has one, width of the marks or spans on the page's scales, in percent."""
    styles = re.findall(rf'<span class="{kind}" style="([^"]*)">', page)
    return [tuple(float(number) for number in re.findall(r"[0-9.]+", style)) for style in styles]


def test_bars_are_where_their_numbers_are(trained: Path) -> None:
    page = write_report(trained).read_text(encoding="utf-8")
    first, last = load_run(trained).arms
    assert places(page, "span muted") == [
        (pytest.approx(100 * first.low, abs=0.01), pytest.approx(37.35, abs=0.01))
    ]  # 6 of 20
    # The headline of the last policy, then each task from its first to its last rate.
    assert places(page, "span accent")[0][0] == pytest.approx(100 * last.low, abs=0.01)
    assert places(page, "span accent")[1:] == [(20, 70), (40, 60)]
    assert places(page, "mark muted") == [(30,), (20,), (40,)]
    assert places(page, "mark accent") == [(95,), (90,), (100,)]
    assert 'aria-label="from 20 % to 90 %"' in page


def test_a_task_that_got_worse_is_drawn_from_its_last_rate_to_its_first(trained: Path) -> None:
    with RunFolder(trained, resume=True) as run:
        run.append_episodes(evaluation([1, 0]).records, step=3)
    page = write_report(trained).read_text(encoding="utf-8")
    assert places(page, "span accent")[1:] == [(10, 10), (0, 40)]
    assert places(page, "mark accent")[1:] == [(10,), (0,)]


def test_what_does_not_fit_is_said(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> Page:
        return Page(write_report(trained).read_text("utf-8"))

    assert "more in videos/" not in shown().text
    monkeypatch.setattr(report, "MAX_TELEMETRY", 1)
    monkeypatch.setattr(report, "MAX_FILMS", 1)
    page = shown()
    assert len(page.addresses) == 2
    assert "1 more in videos/." in page.text
    assert "Also in metrics.jsonl: train/episodes." in " ".join(page.text.split())
    largest = max(video.path.stat().st_size for video in load_run(trained).videos)
    monkeypatch.setattr(report, "MAX_FILMS", 12)
    monkeypatch.setattr(report, "MAX_VIDEO_BYTES", 2 * largest)  # the first task's two, and not the second's
    assert len(shown().addresses) == 2


def test_what_is_no_run_is_refused_and_a_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match="is not a folder"):
        write_report(tmp_path / "none")
    with pytest.raises(ReflexError, match="holds no run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "metrics.jsonl").write_text("not json\n")
    with pytest.raises(ReflexError, match=r"line 1 of .*metrics\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n')
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ReflexError, match=r"config\.yaml is not valid YAML"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("facts", "caption"),
    [
        ({"cameras": [{"name": "corner"}]}, "Camera: corner."),
        ({"cameras": ["agentview", "eye_in_hand"]}, "Cameras, from left to right: agentview, eye_in_hand."),
        (
            {"embodiment": {"cameras": [{"name": "front"}, {"name": "wrist"}]}},
            "Cameras, from left to right: front, wrist.",
        ),
        ({}, "All cameras, side by side."),
    ],
)
def test_films_say_which_camera_is_where(trained: Path, facts: dict[str, object], caption: str) -> None:
    (trained / "protocol.json").write_text(json.dumps({"facts": facts}), encoding="utf-8")
    assert caption in write_report(trained).read_text(encoding="utf-8")


def test_the_command_prints_the_path(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_command([str(trained)]) == 0
    assert capsys.readouterr().out == f"{trained / 'report.html'}\n"


def test_a_new_outcome_replaces_the_old_video(tmp_path: Path) -> None:
    write_videos(tmp_path / "eval", [film(0, False)])
    write_videos(tmp_path / "eval", [film(0, True)])
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["task0_init0_success.mp4"]
    assert find_videos(tmp_path)[0].success


def test_cameras_side_by_side() -> None:
    left = np.full((2, 65, 65, 3), 10, np.uint8)
    frames = side_by_side([left, left + 100])
    assert frames.shape == (2, 196, 392, 3)
    assert frames[1, 100, 100, 0] == 10
    assert frames[1, 100, 300, 0] == 110


def test_a_video_runs_at_the_speed_of_the_robot_and_stays_at_its_end(tmp_path: Path) -> None:
    (path,) = write_videos(tmp_path, [film(0, True)])
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 1.4])  # every second step at 20 Hz, the last for a second


def test_phases_are_ordered_as_they_were_trained() -> None:
    assert order_phases({"step10", "step2", "sft"}) == ["sft", "step2", "step10"]
    assert order_phases({"srpo", "sft"}) == ["sft", "srpo"]


def test_the_time_of_a_run_is_split_into_its_parts() -> None:
    """Two iterations of 10 s and 6 s, of which 9 s and 5 s are accounted for, and an evaluation."""
    line = {"time/rollout_seconds": 5.0, "time/encode_seconds": 1.0, "time/score_seconds": 0.5}
    metrics: list[dict[str, float]] = [
        {"step": 0, "time/evaluation_seconds": 4.0},
        {"step": 1, **line, "time/update_seconds": 2.5, "time/iteration_seconds": 10.0},
        {"step": 2, **line, "time/rollout_seconds": 2.0, "time/update_seconds": 1.5, "time/iteration_seconds": 6.0},
    ]
    parts = {part.name: (part.seconds, part.times) for part in profile(metrics)}
    assert parts == {
        "Rollouts": (7.0, 2),
        "Reward: encoding rollouts": (2.0, 2),
        "Reward: scoring": (1.0, 2),
        "Update": (4.0, 2),
        "Evaluation": (4.0, 1),
        "Other": (2.0, 2),
    }
    assert profile([{"step": 0, "time/evaluation_seconds": 4.0}]) == []
    over = [{"step": 1, **line, "time/update_seconds": 3.6, "time/iteration_seconds": 10.0}]  # clocks differ: 10.1 s
    assert profile(over)[-1].seconds == 0.0


def test_how_long_things_took_comes_last(trained: Path) -> None:
    with RunFolder(trained, resume=True) as run:
        for step in (3, 4):
            run.append_metrics(step, {"time/total_seconds": 2.0 * step, "update/loss": 1.0 / step, "once": 1.0})
        run.append_metrics(5, {"update/steps": 1.0})
        run.append_metrics(6, {"update/steps": 2.0})
    assert [(series.key, series.steps) for series in load_run(trained).telemetry] == [
        ("train/kl", [0, 1, 2]),
        ("train/episodes", [0, 1, 2]),
        ("update/loss", [3, 4]),
        ("once", [3, 4]),
        ("update/steps", [5, 6]),
        ("time/total_seconds", [3, 4]),
    ]


def test_the_page_shows_where_the_time_went(trained: Path) -> None:
    with RunFolder(trained, resume=True) as run:
        run.append_metrics(
            3, {"time/rollout_seconds": 90.0, "time/update_seconds": 30.0, "time/iteration_seconds": 120.0}
        )
    shown = " ".join(Page(write_report(trained).read_text(encoding="utf-8")).text.split())
    assert re.search(r"Where the time went.*Rollouts\s*90 s\s*1.5 min\s*75 %.*Update\s*30 s\s*0.5 min\s*25 %", shown)
