"""A preference: which of two moments comes nearer to a goal, or that nobody could say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Answer(StrEnum):
    """What a labeller said of a pair."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"

    @property
    def swapped(self) -> Answer:
        """The same with the two moments in the other order."""
        return {Answer.FIRST: Answer.SECOND, Answer.SECOND: Answer.FIRST, Answer.TIE: Answer.TIE}[self]


class Status(StrEnum):
    """How a question ended. Only `OK` has an answer; nothing else is ever counted as a tie."""

    OK = "ok"
    REFUSED = "refused"
    UNPARSABLE = "unparsable"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True, order=True)
class Moment:
    """One frame of a dataset."""

    episode: int
    """Its `episode_index`."""
    frame: int
    """Its `frame_index` in the episode, from 0."""


@dataclass(frozen=True)
class Pair:
    """Two moments to be compared with respect to a goal."""

    first: Moment
    second: Moment
    goal: str
    """The sentence that says what is wanted."""


@dataclass(frozen=True)
class Preference:
    """What came of a pair."""

    pair: Pair
    status: Status
    answer: Answer | None
    """None unless the status is `OK`."""
    probability_second: float | None = None
    """How likely the labeller found the second to be better, in [0, 1], where it can say."""
    consistent: bool | None = None
    """Whether it said the same of both orders; where not, the answer is a tie. None where one order was asked."""

    def __post_init__(self) -> None:
        """Raises `ValueError` when answer and status contradict one another."""
        if (self.answer is None) == (self.status is Status.OK):
            raise ValueError(f"status {self.status} with answer {self.answer}")
