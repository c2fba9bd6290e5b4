"""The simulator's own order of two moments, with a stated share of errors: for experiments, never a labeller to use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla.offline.preferences import Answer, Moment, Pair, Preference, Status
from vla.run.seeding import derive_seed
from vla.run.settings import Checks


@dataclass(frozen=True)
class OracleSettings:
    """How the simulator's order is spoilt."""

    error_rate: float = 0.0
    """Share of pairs whose order is turned round; ties stay ties."""
    tie_margin: float = 0.02
    """Difference in true progress up to which a pair is a tie."""

    def __post_init__(self) -> None:
        check = Checks(self, "oracle.")
        check.within(0, 1, "error_rate", "tie_margin")


def progress_at(progress: NDArray[np.float32], frame: int) -> float:
    """True progress in the picture of a frame, from `next.progress` [T].

    Row t says how far the robot was after action t, which is what picture t + 1 shows. Of the first picture nothing is
    recorded; the first action changes little, so its row stands for it.
    """
    return float(progress[max(frame - 1, 0)])


def true_answer(first: float, second: float, tie_margin: float) -> Answer:
    """Which of two true progresses is the greater, by more than a margin."""
    if abs(second - first) <= tie_margin:
        return Answer.TIE
    return Answer.SECOND if second > first else Answer.FIRST


def oracle_preferences(
    pairs: Iterable[Pair], progress: Mapping[int, NDArray[np.float32]], settings: OracleSettings, seed: int
) -> list[Preference]:
    """What the oracle says of pairs.

    Whether a pair is turned round depends on its two moments and the seed alone: not on their order, and not on which
    other pairs there are.

    Args:
        pairs: to be labelled.
        progress: by episode, its `next.progress` [T].
        settings: error rate and tie margin.
        seed: of the errors.
    """
    return [_preference(pair, progress, settings, seed) for pair in pairs]


def _preference(
    pair: Pair, progress: Mapping[int, NDArray[np.float32]], settings: OracleSettings, seed: int
) -> Preference:
    first, second = (progress_at(progress[moment.episode], moment.frame) for moment in (pair.first, pair.second))
    answer = true_answer(first, second, settings.tie_margin)
    if answer is not Answer.TIE and _turned(pair.first, pair.second, settings.error_rate, seed):
        answer = answer.swapped
    return Preference(pair, Status.OK, answer)


def _turned(first: Moment, second: Moment, error_rate: float, seed: int) -> bool:
    low, high = sorted((first, second))
    draw = derive_seed("oracle", seed, low.episode, low.frame, high.episode, high.frame)
    return draw / 2.0**63 < error_rate
