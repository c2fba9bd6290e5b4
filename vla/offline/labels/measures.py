"""What labels are worth, in numbers. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vla.offline.labels.joining import share
from vla.offline.preferences import Answer, Preference

CALIBRATION_BINS = 10


def accuracy(answers: Sequence[Answer], differences: ArrayLike) -> dict[str, Any]:
    """Share of answers other than ties whose side has the greater true progress, with its 95 % Wilson interval.

    Pairs without any difference have no right side and are left out.

    Args:
        answers: [N] what was said.
        differences: [N] true progress of the second less that of the first.
    """
    difference = np.asarray(differences, dtype=np.float64)
    decided = [
        (answer is Answer.SECOND) == (gap > 0)
        for answer, gap in zip(answers, difference, strict=True)
        if answer is not Answer.TIE and gap != 0
    ]
    return share(sum(decided), len(decided))


def by_difference(answers: Sequence[Answer], differences: ArrayLike, edges: Sequence[float]) -> list[dict[str, Any]]:
    """`accuracy` and the share of ties in each bin of |difference|: (low, high], the first with its low edge."""
    difference = np.asarray(differences, dtype=np.float64)
    size = np.abs(difference)
    rows = []
    for low, high in pairwise(edges):
        rows_in = np.flatnonzero((size <= high) & ((size > low) | ((low == edges[0]) & (size == low))))
        said = [answers[int(row)] for row in rows_in]
        ties = sum(answer is Answer.TIE for answer in said)
        rows.append(
            {
                "low": low,
                "high": high,
                "pairs": len(said),
                "accuracy": accuracy(said, difference[rows_in]),
                "ties": share(ties, len(said)),
            }
        )
    return rows


def kappa(said: Sequence[Answer], truth: Sequence[Answer]) -> float | None:
    """Cohen's kappa of two labellings [N] into first, second and tie (Cohen 1960): agreement beyond chance.

    (p - e) / (1 - e) with p the share of equal labels and e what their frequencies alone would give. None of no labels,
    and where both always say the same one thing.
    """
    if not said:
        return None
    total = len(said)
    agreed = sum(one is other for one, other in zip(said, truth, strict=True)) / total
    by_chance = sum(said.count(answer) * truth.count(answer) for answer in Answer) / total**2
    return None if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def calibration(probabilities: ArrayLike, differences: ArrayLike) -> dict[str, Any] | None:
    """How far probabilities of "second" are from how often the second is better (Guo et al. 2017).

    The expected calibration error is the mean over ten equal bins, weighted by their pairs, of |mean probability -
    share of pairs whose second is better|. None without pairs that differ.

    Args:
        probabilities: [N] in [0, 1].
        differences: [N] true progress of the second less that of the first; pairs of 0 are left out.
    """
    given, difference = np.asarray(probabilities, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    given, better = given[difference != 0], difference[difference != 0] > 0
    if len(given) == 0:
        return None
    bin_of = np.minimum((given * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows, error = [], 0.0
    for number in range(CALIBRATION_BINS):
        members = bin_of == number
        if not members.any():
            continue
        mean, true = float(given[members].mean()), float(better[members].mean())
        error += float(members.mean()) * abs(mean - true)
        rows.append({"probability": mean, "second_better": true, "pairs": int(members.sum())})
    return {"expected_error": error, "pairs": len(given), "bins": rows}


def check_rates(kind: str, preferences: Sequence[Preference], later_is_better: Sequence[bool]) -> dict[str, Any]:
    """How often a check's pairs were answered as they must be.

    Args:
        kind: "identical" pairs must tie in each order; of others the better moment must be named.
        preferences: [N] with an answer.
        later_is_better: [N] whether the second is the better one; unused of identical pairs.
    """
    answers = [preference.answer for preference in preferences]
    if kind == "identical":  # the answer of an inconsistent pair is a tie as well, but not what was said
        right = [
            answer is Answer.TIE and preference.consistent is not False
            for answer, preference in zip(answers, preferences, strict=True)
        ]
    else:
        right = [
            answer is (Answer.SECOND if second else Answer.FIRST)
            for answer, second in zip(answers, later_is_better, strict=True)
        ]
    return share(sum(right), len(right))
