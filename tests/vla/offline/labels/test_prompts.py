"""Prompts: what is filled in where, and that a changed word is another prompt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vla.errors import ReflexError
from vla.offline.labels.prompts import FOLDER, load_prompt, shipped_prompts


def test_two_stages_show_pictures_first_and_then_only_the_analysis() -> None:
    prompt = load_prompt("two_stage_v1")
    analysis, answer = prompt.stages
    parts = analysis.parts("open the drawer")
    assert [part for part in parts if isinstance(part, int)] == [0, 1]
    assert "open the drawer" in str(parts[-1]) and analysis.schema is None
    parts = answer.parts("open the drawer", "The second is open.")
    assert len(parts) == 1 and "The second is open." in str(parts[0]) and "open the drawer" in str(parts[0])


def test_one_call_asks_for_the_words_that_are_understood() -> None:
    (stage,) = load_prompt("one_call_v1").stages
    assert stage.schema is not None
    assert stage.schema["properties"]["answer"]["enum"] == ["first", "second", "tie"]
    assert list(stage.schema["properties"])[-1] == "answer"  # reasons come before what they are reasons for


@pytest.mark.parametrize("name", shipped_prompts())
def test_nothing_is_left_unfilled_and_what_is_filled_in_is_not_filled_again(name: str) -> None:
    for stage in load_prompt(name).stages:
        text = " ".join(str(part) for part in stage.parts("GOAL {analysis} {image_1}", "SAID {goal} {image_2}"))
        assert text.count("GOAL {analysis} {image_1}") == stage.text.count("{goal}")
        assert text.count("SAID {goal} {image_2}") == stage.text.count("{analysis}")
        rest = text.replace("GOAL {analysis} {image_1}", "").replace("SAID {goal} {image_2}", "")
        assert not any(mark in rest for mark in ("{goal}", "{analysis}", "{image_1}", "{image_2}"))


def test_a_changed_word_is_another_version(tmp_path: Path) -> None:
    own = tmp_path / "two_stage_v1"
    shutil.copytree(FOLDER / "two_stage_v1", own)
    before = load_prompt("two_stage_v1")
    assert load_prompt(str(own)) == before
    (own / "answer.txt").write_text((own / "answer.txt").read_text().replace("one word", "a word"))
    assert load_prompt(str(own)).version != before.version


def test_a_prompt_that_lacks_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ReflexError, match=r"prompt is 'nope'; it must be one of one_call_v1, two_stage_v1, or a folder"
    ):
        load_prompt("nope")
    (tmp_path / "answer.txt").write_text("{image_1} or {goal}?")
    with pytest.raises(ReflexError, match=r"has no \{image_2\}"):
        load_prompt(str(tmp_path))
    (tmp_path / "answer.txt").write_text("{image_1} or {image_2}?")
    with pytest.raises(ReflexError, match=r"has no \{goal\}"):
        load_prompt(str(tmp_path))
    (tmp_path / "analysis.txt").write_text("{image_1} {image_2} {goal}")
    (tmp_path / "answer.txt").write_text("Which?")
    with pytest.raises(ReflexError, match=r"has no \{analysis\}"):
        load_prompt(str(tmp_path))
