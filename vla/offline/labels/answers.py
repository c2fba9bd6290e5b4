"""What a reply says: first, second or tie; a refusal; or nothing that can be understood. Pure functions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vla.offline.preferences import Answer, Status

Alternatives = Mapping[str, float]
"""Tokens that could have stood at one place of a reply, with their log-probabilities."""

_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(r"^(?:the\s+)?answer\s*(?:is)?\s*:?\s*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i(?:'|’)?m|i am|we(?:'|’)?re)\s+(?:very\s+)?sorry\b"
    r"|\bi\s*(?:can(?:'|’)t|cannot|can not|am unable to|am not able to|won(?:'|’)t)\s+"
    r"(?:(?:help|assist|answer|comply|provide|do|analy[sz]e|compare|process|fulfil|discuss)\b"
    r"|(?:view|see|open|access)\s+(?:the\s+|these\s+|those\s+|any\s+)?(?:images?|pictures?|photos?)\b)"
    r"|\bi\s+(?:must|have to)\s+(?:decline|refuse)\b",
    re.IGNORECASE,
)
_ANSWER_KEY = re.compile(r'"answer"\s*:\s*"$')


@dataclass(frozen=True)
class Parsed:
    """A reply, understood."""

    status: Status
    answer: Answer | None


def parse_answer(text: str, structured: bool) -> Parsed:
    """Read the reply to a prompt's last call.

    Args:
        text: the reply as it came. A reasoning model's `<think>` block is left out.
        structured: it was asked to be a JSON object with the key "answer"; otherwise one of three words on its first
            line, in whatever case and punctuation.

    A reply that says no more than this is understood; one that says anything else is `UNPARSABLE`, or `REFUSED` where
    it excuses itself. Neither is ever a tie.
    """
    said = _THOUGHTS.sub("", text).strip()
    word = _structured_word(said) if structured else _first_line_word(said)
    if word in set(Answer):
        return Parsed(Status.OK, Answer(word))
    return Parsed(Status.REFUSED if is_refusal(said) else Status.UNPARSABLE, None)


def is_refusal(text: str) -> bool:
    """Whether a text excuses itself instead of answering, in its first 200 characters."""
    return _REFUSAL.search(text[:200]) is not None


def _first_line_word(said: str) -> str:
    line = next((line for line in said.splitlines() if any(map(str.isalnum, line))), "")
    bare = _LABEL.sub("", line.strip(" \t*_`\"'“”#>.-"))
    return bare.strip(" \t*_`\"'“”.!,:;").lower()


def _structured_word(said: str) -> str:
    fenced = _FENCE.search(said)
    try:
        found = json.loads(fenced.group(1) if fenced else said)
    except ValueError:
        return ""
    answer = found.get("answer") if isinstance(found, dict) else None
    return answer.strip().lower() if isinstance(answer, str) else ""


def probability_second(tokens: Sequence[tuple[str, Alternatives]], structured: bool) -> float | None:
    """How likely the model found the second picture better, from the log-probabilities of its answer's first token.

    P(second) + P(tie) / 2, over what the three words' beginnings have together. None where the answer is not found
    among the tokens, or none of the words is among the alternatives there.

    Args:
        tokens: each token of the reply, and what could have stood in its place.
        structured: as in `parse_answer`.
    """
    before = ""
    for token, alternatives in tokens:
        at_answer = _ANSWER_KEY.search(before) if structured else not re.search(r"[A-Za-z]", before)
        if at_answer and re.search(r"[A-Za-z]", token):
            return _share_of_second(alternatives)
        before += token
    return None


def _share_of_second(alternatives: Alternatives) -> float | None:
    mass = dict.fromkeys(Answer, 0.0)
    for token, log_probability in alternatives.items():
        start = token.strip(" \t\n*_`\"'").lower()
        for answer in Answer:
            if start and answer.value.startswith(start):
                mass[answer] += math.exp(log_probability)
    total = sum(mass.values())
    if total <= 0:
        return None
    return (mass[Answer.SECOND] + mass[Answer.TIE] / 2) / total
