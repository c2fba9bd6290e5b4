"""One label from what both orders of a pair gave, and how much answers depend on the order. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.evaluation.statistics import wilson_interval
from vla.offline.labels.asking import Outcome
from vla.offline.labels.files import AskedPair, Label
from vla.offline.preferences import Answer, Preference, Status


def join(asked: AskedPair, plain: Outcome | None, swapped: Outcome | None) -> Label | None:
    """The label of a pair that was asked as it stands, swapped, or both; None where it was not asked.

    Where both orders have an answer and they are not the same, the answer is a tie and `consistent` is False. Where
    only one has, that one counts. Where none has, the status is that of the pair as it stands.
    """
    if swapped is not None and swapped.answer is not None:
        probability = swapped.probability_second
        swapped = Outcome(
            swapped.status, swapped.answer.swapped, None if probability is None else 1 - probability, swapped.detail
        )
    given = [(turned, outcome) for turned, outcome in ((False, plain), (True, swapped)) if outcome is not None]
    if not given:
        return None
    orders = tuple(_order_row(turned, outcome) for turned, outcome in given)
    answered = [outcome for _, outcome in given if outcome.answer is not None]
    if not answered:
        return Label(Preference(asked.pair, given[0][1].status, None), asked.kind, orders)
    same = answered[0].answer is answered[-1].answer
    probabilities = [outcome.probability_second for outcome in answered if outcome.probability_second is not None]
    preference = Preference(
        asked.pair,
        Status.OK,
        answered[0].answer if same else Answer.TIE,
        float(np.mean(probabilities)) if len(probabilities) == len(answered) else None,
        same if len(answered) == 2 else None,
    )
    return Label(preference, asked.kind, orders)


def _order_row(turned: bool, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "swapped": turned,
        "status": outcome.status,
        "answer": outcome.answer,
        "probability_second": outcome.probability_second,
    }
    return row | ({"detail": outcome.detail} if outcome.detail else {})


def order_effects(labels: Sequence[Label]) -> dict[str, Any]:
    """How much answers depend on the order in which the pictures are shown, with 95 % Wilson intervals.

    Of pairs with an answer in both orders:

    - `first_shown`: share of answers other than ties that name the picture shown first. A half is unbiased: whichever
      is better is shown first once.
    - `consistent`: share of pairs whose two answers are the same.
    """
    both = [label for label in labels if label.preference.consistent is not None]
    shown_first = [
        (order["answer"] == Answer.FIRST) != order["swapped"]
        for label in both
        for order in label.orders
        if order["answer"] != Answer.TIE
    ]
    consistent = [label.preference.consistent is True for label in both]
    return {
        "first_shown": share(sum(shown_first), len(shown_first)),
        "consistent": share(sum(consistent), len(consistent)),
    }


def share(count: int, total: int) -> dict[str, Any]:
    """A share with its Wilson interval, JSON-ready; null of none."""
    count, total = int(count), int(total)  # NumPy's have no form in JSON
    low, high = wilson_interval(count, total)
    return {"share": count / total if total else None, "low": low, "high": high, "count": count, "of": total}


def counts(labels: Sequence[Label]) -> dict[str, int]:
    """How many labels there are of each status and answer."""
    found = Counter(str(label.preference.answer or label.preference.status) for label in labels)
    return {str(name): found[name] for name in (*Answer, *(status for status in Status if status is not Status.OK))}
