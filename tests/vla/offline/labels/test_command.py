"""`vla label` against a server on a real socket: whole runs, caps, resuming, and what is wrong with the input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vla.data.samples import write_dataset
from tests.vla.offline.labels.bright import bright_dataset, bright_episode, label_config
from tests.vla.offline.labels.chat_server import chat_server
from vla.errors import ReflexError
from vla.offline.labels.backend import Decoding
from vla.offline.labels.budget import Budget
from vla.offline.labels.command import label
from vla.offline.labels.files import Label, read_labels
from vla.offline.labels.oracle import progress_at
from vla.offline.labels.prompts import load_prompt
from vla.offline.labels.settings import ActiveSettings, LabelConfig
from vla.offline.labels.source import open_source
from vla.offline.preferences import Answer, Moment, Status
from vla.offline.reward_model.command import RewardConfig, fit_reward
from vla.offline.reward_model.fit import FitSettings
from vla.run.jsonl import read_lines


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_dataset(tmp_path_factory.mktemp("bright") / "data")


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def brightness(moment: Moment) -> float:
    """What the server goes by."""
    return progress_at(bright_episode(moment.episode, 12, moment.episode % 2 == 0).progress, moment.frame)


@pytest.mark.parametrize("prompt", ["two_stage_v1", "one_call_v1"])
def test_answers_are_those_of_the_model_in_either_order(dataset: Path, tmp_path: Path, prompt: str) -> None:
    config = label_config(dataset, tmp_path / "labels", prompt=prompt, both_orders=0.5)
    with chat_server(log_probabilities=True) as server:
        decoding = Decoding(log_probabilities=True)
        label(
            label_config(
                dataset, tmp_path / "labels", server.base_url, prompt=prompt, both_orders=0.5, decoding=decoding
            )
        )
        assert set(server.seen.answered.values()) == {1}
        assert 1 < server.seen.most_at_once <= config.endpoint.concurrency
    labels = read_labels(tmp_path / "labels")
    assert len(labels.preferences) == 40 and len(labels.labels) == 46
    assert (labels.model, labels.prompt) == ("test-vlm", load_prompt(prompt).version)
    clear = 0
    for one in labels.preferences:
        gap = brightness(one.pair.second) - brightness(one.pair.first)
        if min(one.pair.first.frame, one.pair.second.frame) > 0 and abs(gap) > 0.05:
            clear += 1
            assert one.answer is (Answer.SECOND if gap > 0 else Answer.FIRST)
            assert one.probability_second == pytest.approx(0.85 if gap > 0 else 0.15)
    assert clear > 20
    twice = [one for one in labels.preferences if one.consistent is not None]
    assert 10 < len(twice) < 30 and all(one.consistent for one in twice)
    found = summary(tmp_path / "labels")
    assert found["first_shown"]["share"] == 0.5 and found["not_asked"] == 0
    assert all(one.answer is Answer.TIE for one in labels.checks("identical"))


def test_a_bias_for_the_first_picture_shows(dataset: Path, tmp_path: Path) -> None:
    with chat_server(name_first=True) as server:
        label(
            label_config(dataset, tmp_path / "labels", server.base_url, prompt="one_call_v1", both_orders=1.0, checks=0)
        )
    labels = read_labels(tmp_path / "labels")
    assert {one.consistent for one in labels.preferences} == {False}
    assert {one.answer for one in labels.preferences} == {Answer.TIE}
    assert summary(tmp_path / "labels")["first_shown"]["share"] == 1.0


def test_refusals_and_nonsense_are_no_ties_and_are_not_asked_again(dataset: Path, tmp_path: Path) -> None:
    with chat_server(refuse=0.3, babble=0.3) as server:
        config = label_config(dataset, tmp_path / "labels", server.base_url, prompt="one_call_v1", checks=0)
        label(config)
        asked = server.number
        counts = summary(tmp_path / "labels")["counts"]
        assert counts["refused"] > 3 and counts["unparsable"] > 3
        label(config)
        assert server.number == asked and summary(tmp_path / "labels")["counts"] == counts
    with_detail = [Label.from_row(row) for row in read_lines(tmp_path / "labels/labels.jsonl")]
    details = {order["detail"] for one in with_detail for order in one.orders if one.preference.answer is None}
    assert details == {"I cannot help with this.", "What lovely pictures!"}


def test_what_cannot_be_had_is_an_error_and_is_asked_again_by_the_same_command(dataset: Path, tmp_path: Path) -> None:
    attempts = {"attempts": 2}
    with chat_server(broken=0.6) as server:
        config = label_config(
            dataset, tmp_path / "labels", server.base_url, prompt="one_call_v1", checks=0, endpoint=attempts
        )
        label(config)
        found = summary(tmp_path / "labels")
        assert found["counts"]["error"] > 3 and found["labelled"] > 3
        assert found["spent"]["calls"] == server.number
        server.behaviour.broken = 0.0
        label(config)
        assert summary(tmp_path / "labels")["counts"]["error"] == 0
        assert set(server.seen.answered.values()) == {1}


def test_silence_is_a_timeout_and_after_twenty_it_ends(dataset: Path, tmp_path: Path) -> None:
    endpoint = {"attempts": 1, "timeout": 0.05, "concurrency": 4}
    with chat_server(hang=True) as server:
        config = label_config(dataset, tmp_path / "labels", server.base_url, endpoint=endpoint)
        with pytest.raises(
            ReflexError, match="20 questions in a row ended in an error, the last with 'no reply in time'"
        ):
            label(config)
        assert server.number <= 24
    statuses = {one.preference.status for one in read_labels(tmp_path / "labels").labels}
    assert Status.TIMEOUT in statuses


@pytest.mark.parametrize(
    ("budget", "cap"),
    [
        (Budget(max_calls=9), "budget.max_calls=9"),
        (Budget(max_tokens=9000), "budget.max_tokens=9000"),
        (Budget(max_money=0.02, price_input=2.0, price_output=8.0), "budget.max_money=0.02"),
    ],
)
def test_caps_hold_and_a_higher_one_goes_on(
    dataset: Path, tmp_path: Path, budget: Budget, cap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "labels"
    with chat_server() as server:
        label(label_config(dataset, folder, server.base_url, budget=budget, decoding=Decoding(reply_tokens=100)))
        told = " ".join(capsys.readouterr().err.split())
        assert f"{cap} will end it before all pairs are asked" in told and f"{cap} is reached" in told
        found = summary(folder)
        assert found["stopped_by"] == cap and 0 < found["not_asked"] < 46
        assert 4 <= server.number == found["spent"]["calls"]
        assert found["spent"]["calls"] <= (budget.max_calls or 1e9)
        assert found["spent"]["tokens"] <= (budget.max_tokens or 1e9)
        assert found["spent"]["money"] <= (budget.max_money or 1e9)
        assert len(read_lines(folder / "labels.jsonl")) + found["not_asked"] == 46
        label(label_config(dataset, folder, server.base_url, decoding=Decoding(reply_tokens=100)))
        assert summary(folder)["not_asked"] == 0 and set(server.seen.answered.values()) == {1}


def test_a_rate_is_kept_and_retry_after_holds_everybody(dataset: Path, tmp_path: Path) -> None:
    with chat_server() as server:
        label(
            label_config(
                dataset, tmp_path / "a", server.base_url, pairs=12, checks=0, endpoint={"requests_per_minute": 1200.0}
            )
        )
        times = server.seen.times
        assert len(times) > 20 and times[-1] - times[0] >= (len(times) - 1) * 0.05 * 0.9
    with chat_server(too_many=0.3, retry_after="0.2", seed=1) as server:
        label(label_config(dataset, tmp_path / "b", server.base_url, pairs=12, checks=0))
        assert server.seen.outcomes["too_many"] > 3 and set(server.seen.answered.values()) == {1}
        assert summary(tmp_path / "b")["labelled"] == 12


def test_a_wait_that_is_too_long_ends_the_run(dataset: Path, tmp_path: Path) -> None:
    with chat_server(too_many=1.0, retry_after="86400", seed=1) as server:
        with pytest.raises(ReflexError, match=r"asks to wait 86400 s, more than endpoint.longest_wait=300"):
            label(label_config(dataset, tmp_path / "labels", server.base_url))
        assert server.number < 10


def test_a_liar_costs_one_call_and_nothing_is_lost(dataset: Path, tmp_path: Path) -> None:
    with chat_server(model="cheaper-vlm") as server:
        with pytest.raises(
            ReflexError, match=r"test-vlm was asked, and 'cheaper-vlm' says .* accept_model='cheaper-vlm'"
        ):
            label(label_config(dataset, tmp_path / "labels", server.base_url))
        assert server.number == 1
        label(label_config(dataset, tmp_path / "labels", server.base_url, accept_model="cheaper-vlm"))
        assert set(server.seen.answered.values()) == {1} and summary(tmp_path / "labels")["not_asked"] == 0


def test_a_liars_answer_does_not_stand_in_the_way_of_the_right_endpoint(dataset: Path, tmp_path: Path) -> None:
    refused = pytest.raises(ReflexError, match="'cheaper-vlm' says to have answered")
    with chat_server(model="cheaper-vlm") as wrong, refused:
        label(label_config(dataset, tmp_path / "labels", wrong.base_url))
    with chat_server() as right:
        label(label_config(dataset, tmp_path / "labels", right.base_url))
        assert summary(tmp_path / "labels")["not_asked"] == 0
        assert summary(tmp_path / "labels")["spent"]["calls"] == right.number + 1


@pytest.mark.parametrize("status", [401, 404])
def test_what_no_call_can_mend_costs_one_call(dataset: Path, tmp_path: Path, status: int) -> None:
    with chat_server(always=(status, {"error": {"message": "no such thing"}})) as server:
        with pytest.raises(ReflexError, match=rf"model=test-vlm cannot be asked: HTTP {status}: .*no such thing"):
            label(label_config(dataset, tmp_path / "labels", server.base_url))
        assert server.number == 1


def test_the_cache_answers_alone_and_serves_another_run(dataset: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache.jsonl")
    with chat_server() as server:
        label(label_config(dataset, tmp_path / "a", server.base_url, cache=cache))
        asked = server.number
        label(label_config(dataset, tmp_path / "b", server.base_url, cache=cache))
        assert server.number == asked
    label(label_config(dataset, tmp_path / "c", backend="recorded", cache=cache, pairs=60))
    same = [(tmp_path / name / "labels.jsonl").read_bytes() for name in "ab"]
    assert same[0] == same[1]
    found = summary(tmp_path / "c")
    assert found["not_asked"] > 0 and found["labelled"] >= 40
    assert [row["answer"] for row in read_lines(tmp_path / "c/labels.jsonl")][:40] == [
        row["answer"] for row in read_lines(tmp_path / "a/labels.jsonl")
    ][:40]


def test_labels_of_another_prompt_are_not_mixed(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    with chat_server() as server:
        label(label_config(dataset, folder, server.base_url))
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        with pytest.raises(
            ReflexError, match=r"holds answers to the prompt two_stage_v1 \(\w+\), and this is one_call_v1"
        ):
            label(label_config(dataset, folder, server.base_url, prompt="one_call_v1"))
        with pytest.raises(ReflexError, match=r"begun with other settings: pairs \(was 40, now 41\)"):
            label(label_config(dataset, folder, server.base_url, pairs=41))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    with pytest.raises(ReflexError, match=r"has labels of prompt two_stage_v1 .*, not of two_stage_v0"):
        read_labels(folder, prompt="two_stage_v0 (123)")


def test_a_goal_of_ones_own_is_what_is_asked_about_and_joins_tasks(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [bright_episode(n, 6, task_id=n % 2) for n in range(4)])
    with chat_server() as server:
        label(label_config(data, tmp_path / "own", server.base_url, goal="fold the cloth", pairs=30))
        label(label_config(data, tmp_path / "named", server.base_url, pairs=30))
        texts = [json.dumps(body) for body in server.seen.bodies]
    assert any("fold the cloth" in text for text in texts) and any("fill gauge 1" in text for text in texts)
    own, named = read_labels(tmp_path / "own").preferences, read_labels(tmp_path / "named").preferences
    assert any(one.pair.first.episode % 2 != one.pair.second.episode % 2 for one in own)
    assert all(one.pair.first.episode % 2 == one.pair.second.episode % 2 for one in named)
    assert {one.pair.goal for one in named} == {"fill gauge 0", "fill gauge 1"}


def test_a_dataset_without_a_sentence_needs_a_goal(tmp_path: Path) -> None:
    data = bright_dataset(tmp_path / "data", episodes=2, instruction="")
    with pytest.raises(ReflexError, match=r"has no task sentence for episode 0; say what is wanted with goal="):
        label(label_config(data, tmp_path / "labels", "http://localhost:9/v1"))
    assert not (tmp_path / "labels").exists()
    assert open_source(str(data), "open the drawer", None, None).goals == ("open the drawer",) * 2


def test_a_dataset_with_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    data = bright_dataset(tmp_path / "data", episodes=1, length=1)
    with pytest.raises(ReflexError, match="has no two moments to compare: 1 episodes of 1 frames"):
        label(label_config(data, tmp_path / "labels", "http://localhost:9/v1"))
    with pytest.raises(ReflexError, match=r"has no episodes of tasks=\[7\]"):
        label(label_config(data, tmp_path / "labels", "http://localhost:9/v1", tasks=[7]))
    with pytest.raises(ReflexError, match="has no camera 'front'; its cameras are"):
        label(label_config(data, tmp_path / "labels", "http://localhost:9/v1", camera="front"))


def test_a_picture_that_does_not_decode_is_said_before_anything_is_paid(tmp_path: Path) -> None:
    data = bright_dataset(tmp_path / "data")
    videos = sorted((data / "videos").rglob("*.mp4"))
    videos[3].write_bytes(videos[3].read_bytes()[:200])
    with chat_server() as server:
        with pytest.raises(ReflexError, match=videos[3].name):
            label(label_config(data, tmp_path / "labels", server.base_url))
        assert server.number == 0


def test_a_command_that_failed_can_be_corrected_in_the_same_folder(tmp_path: Path, dataset: Path) -> None:
    folder = tmp_path / "labels"
    with chat_server(always=(404, {"error": {"message": "no such model"}})) as server:
        with pytest.raises(ReflexError, match="cannot be asked"):
            label(label_config(dataset, folder, server.base_url, model="mistyped"))
        server.behaviour.always = None
        assert label(label_config(dataset, folder, server.base_url, pairs=6, checks=0)) == folder
    assert len(read_labels(folder).labels) == 6 and read_labels(folder).model == "test-vlm"
    assert summary(folder)["spent"]["calls"] == server.number  # the call that failed is still accounted for


def test_pairs_without_settings_are_chosen_anew(tmp_path: Path, dataset: Path) -> None:
    """What a kill between the two files leaves."""
    config = label_config(dataset, tmp_path / "labels", backend="oracle", model=None)
    label(config)
    before = (tmp_path / "labels/labels.jsonl").read_bytes()
    for name in ("settings.json", "labels.jsonl", "summary.json"):
        (tmp_path / "labels" / name).unlink()
    label(config)
    assert (tmp_path / "labels/labels.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ReflexError, match="holds something else than labels"):
        label(label_config(dataset, tmp_path, "http://localhost:9/v1"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def two_minds(frames: NDArray[np.uint8], instruction: str) -> NDArray[np.float64]:
    """Two members that agree about dark pictures and not about bright ones."""
    assert instruction == "fill gauge 0" and frames.dtype == np.uint8
    level = frames[..., 0].mean(axis=(1, 2)) / 255
    return np.stack([4 * level, np.where(level > 0.5, -4 * level, 4 * level)])


@pytest.mark.parametrize("selection", ["disagreement", "diverse"])
def test_pairs_are_chosen_by_disagreement_beside_a_uniform_share(dataset: Path, tmp_path: Path, selection: str) -> None:
    active = ActiveSettings(scorer="tests.vla.offline.labels.test_command:two_minds", candidates=6)
    config = label_config(
        dataset, tmp_path / "labels", backend="oracle", model=None, selection=selection, active=active, checks=0
    )
    label(config)
    labels = read_labels(tmp_path / "labels").labels
    kinds = [one.kind for one in labels]
    assert (kinds.count("uniform"), kinds.count("selected")) == (12, 28)

    def bright_share(kind: str) -> float:
        pairs = [one.preference.pair for one in labels if one.kind == kind]
        return float(np.mean([max(brightness(p.first), brightness(p.second)) > 0.5 for p in pairs]))

    assert bright_share("selected") > bright_share("uniform")
    if selection == "disagreement":
        assert bright_share("selected") == 1.0


def test_a_fitted_reward_chooses_the_next_pairs(dataset: Path, tmp_path: Path) -> None:
    label(label_config(dataset, tmp_path / "first", backend="oracle", model=None, checks=0))
    fitting = FitSettings(max_epochs=3)
    fit_reward(RewardConfig(
        dataset=str(dataset), labels=str(tmp_path / "first"), output=str(tmp_path / "reward"), fit=fitting, threads=1,
    ))  # fmt: skip
    active = ActiveSettings(scorer=str(tmp_path / "reward"), candidates=3)
    again = label_config(
        dataset, tmp_path / "second", backend="oracle", model=None, selection="disagreement", active=active, checks=0
    )
    label(again)
    kinds = [one.kind for one in read_labels(tmp_path / "second").labels]
    assert (kinds.count("uniform"), kinds.count("selected")) == (12, 28)
    with pytest.raises(ReflexError, match="nowhere holds no reward model"):
        label(replace(again, output=str(tmp_path / "x"), active=replace(active, scorer="nowhere")))


def one_mind(frames: NDArray[np.uint8], instruction: str) -> NDArray[np.float64]:
    return np.zeros((1, len(frames)))


def test_a_scorer_that_cannot_disagree_is_refused(dataset: Path, tmp_path: Path) -> None:
    active = ActiveSettings(scorer="tests.vla.offline.labels.test_command:one_mind")
    with pytest.raises(ReflexError, match=r"gave \[1, \d+\] for \d+ pictures; it must give finite scores"):
        label(
            label_config(dataset, tmp_path / "x", backend="oracle", model=None, selection="disagreement", active=active)
        )
    with pytest.raises(ReflexError, match=r"selection=diverse needs active.scorer"):
        LabelConfig("d", model="m", selection="diverse")


def test_the_oracle_asks_nobody_and_reads_no_picture(dataset: Path, tmp_path: Path) -> None:
    label(label_config(dataset, tmp_path / "labels", backend="oracle", model=None))
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
        "labels.jsonl",
        "pairs.jsonl",
        "settings.json",
        "summary.json",
    ]
    assert read_labels(tmp_path / "labels").prompt == "oracle"


def test_still_scenes_are_ties_without_a_question(tmp_path: Path) -> None:
    """Pictures equal to the pixel; a check of a picture and itself is asked all the same."""
    still = [
        bright_episode(0, 4, images=dict.fromkeys(("image", "wrist_image"), np.full((4, 32, 32, 3), 90, np.uint8)))
    ]
    data = write_dataset(tmp_path / "data", still)
    with chat_server(name_first=True) as server:
        label(label_config(data, tmp_path / "labels", server.base_url, prompt="one_call_v1", checks=1, pairs=4))
        assert server.number == 1
    labels = read_labels(tmp_path / "labels")
    assert {one.answer for one in labels.preferences} == {Answer.TIE}
    assert labels.checks("identical")[0].consistent is False
