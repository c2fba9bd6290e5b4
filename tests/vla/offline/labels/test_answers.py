"""What replies say, by hand and by property."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.offline.labels.answers import is_refusal, parse_answer, probability_second
from vla.offline.preferences import Answer, Status


@pytest.mark.parametrize(
    "text",
    [
        "second",
        "Second",
        " second\n",
        '"second".',
        "**Second**",
        "Answer: second",
        "The answer is: **second**.",
        "`second`",
        "second\nbecause it is nearer",
        "<think>first? no</think>\nsecond",
        "\n\nsecond",
    ],
)
def test_a_word_is_understood_however_it_is_dressed(text: str) -> None:
    assert parse_answer(text, structured=False).answer is Answer.SECOND


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "the second",
        "second or first",
        "1",
        "-1",
        "Neither picture shows it.",
        "firsts",
        '{"answer": "first"}',
    ],
)
def test_what_says_anything_else_is_unparsable_and_no_tie(text: str) -> None:
    parsed = parse_answer(text, structured=False)
    assert (parsed.status, parsed.answer) == (Status.UNPARSABLE, None)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "I am unable to view images.",
        "Sorry: I can’t compare these.",
        "I must decline.",
    ],
)
@pytest.mark.parametrize("structured", [False, True])
def test_a_refusal_is_told_from_nonsense(text: str, structured: bool) -> None:
    assert parse_answer(text, structured).status is Status.REFUSED


def test_an_analysis_that_says_what_cannot_be_seen_is_no_refusal() -> None:
    assert not is_refusal("1. I cannot see the drawer in picture 1. 2. It is open. 3. Picture 2 is nearer.")
    assert not is_refusal("The robot is unable to help itself." + " The drawer is closed." * 20 + " I cannot assist.")
    assert is_refusal("I can't view the images.")


@pytest.mark.parametrize("dress", ["{}", "```json\n{}\n```", "Here it is:\n```\n{}\n```", "<think>x</think>{}"])
def test_an_object_is_understood_in_a_fence_too(dress: str) -> None:
    text = dress.replace("{}", json.dumps({"difference": "I'm sorry", "answer": "Tie "}))
    assert parse_answer(text, structured=True).answer is Answer.TIE


@pytest.mark.parametrize(
    "text", ["first", "[]", "{}", '{"answer": 1}', '{"answer": "both"}', '{"answer": "first"', "null"]
)
def test_what_is_no_object_with_an_answer_is_unparsable(text: str) -> None:
    assert parse_answer(text, structured=True).status is Status.UNPARSABLE


@given(st.text(), st.booleans())
def test_any_text_is_read_and_has_an_answer_only_when_it_is_understood(text: str, structured: bool) -> None:
    parsed = parse_answer(text, structured)
    assert (parsed.answer is not None) == (parsed.status is Status.OK)


@given(st.sampled_from(list(Answer)), st.text(alphabet=" \n*_`\"'.", max_size=5))
def test_a_word_survives_punctuation(answer: Answer, around: str) -> None:
    assert parse_answer(around + answer.value + around, structured=False).answer is answer


def logs(**shares: float) -> dict[str, float]:
    return {token: math.log(share) for token, share in shares.items()}


def test_the_probability_is_of_the_first_token_with_letters() -> None:
    tokens = [
        ("\n", logs(first=1.0)),
        ('"', {}),
        ("sec", {**logs(sec=0.6, First=0.2, tie=0.1), "x": math.log(0.1)}),
        ("ond", {}),
    ]
    assert probability_second(tokens, structured=False) == pytest.approx((0.6 + 0.05) / 0.9)


def test_in_an_object_it_is_of_the_answers_token() -> None:
    tokens = [(text, logs(first=1.0)) for text in ('{"', "difference", '": "', "second", '", "', "answer", '": "')]
    tokens += [("first", logs(first=0.75, second=0.25))]
    assert probability_second(tokens, structured=True) == pytest.approx(0.25)


def test_where_no_word_is_among_the_alternatives_there_is_no_probability() -> None:
    assert probability_second([("Hello", logs(Hello=1.0))], structured=False) is None
    assert probability_second([("12", logs(first=1.0))], structured=False) is None
    assert probability_second([], structured=True) is None
