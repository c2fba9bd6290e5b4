"""The likelihood of preferences under a reward, with labellers that err.

Bradley and Terry (1952): of two moments with rewards r1 and r2 the second is preferred with probability
p = exp r2 / (exp r1 + exp r2) = sigmoid(r2 - r1). A labeller that errs with probability e says "second" with
probability p' = (1 - 2 e) p + e. A tie is half a vote for each (RL-VLM-F drops ties; e = 0 is its likelihood).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

FIRST, SECOND, TIE = 0, 1, 2
"""Answers as numbers."""

TARGETS = {FIRST: 0.0, SECOND: 1.0, TIE: 0.5}
"""What share of a vote the second moment has under each."""


def targets_of(answers: NDArray[np.integer]) -> NDArray[np.float32]:
    """The second moment's share of each vote [P], from answers [P] of `FIRST`, `SECOND` and `TIE`.

    Raises `ValueError` for another number.
    """
    unknown = ~np.isin(answers, list(TARGETS))
    if unknown.any():
        raise ValueError(f"answer {answers[unknown][0]} is none of first (0), second (1) and tie (2)")
    shares: NDArray[np.float32] = np.array([TARGETS[FIRST], TARGETS[SECOND], TARGETS[TIE]], dtype=np.float32)
    return np.take(shares, answers)


def negative_log_likelihood(difference: torch.Tensor, target: torch.Tensor, error_rate: float = 0.0) -> torch.Tensor:
    """-log likelihood of each preference, in nats, of the shape of `difference`.

    Args:
        difference: r2 - r1.
        target: the second moment's share of the vote: 0, 0.5 or 1, or how likely the labeller found it better.
        error_rate: e in [0, 0.5): how often the labeller says the opposite of what it should.

    Raises:
        ValueError: `error_rate` is outside [0, 0.5): at 0.5 answers say nothing.
    """
    if not 0 <= error_rate < 0.5:
        raise ValueError(f"error rate {error_rate} must lie in [0, 0.5)")
    second, first = functional.logsigmoid(difference), functional.logsigmoid(-difference)
    if error_rate > 0:  # p' = (1 - e) p + e (1 - p), in logarithms: neither vanishes for a large difference
        right, wrong = math.log1p(-error_rate), math.log(error_rate)
        second, first = (
            torch.logaddexp(right + second, wrong + first),
            torch.logaddexp(right + first, wrong + second),
        )
    return -(target * second + (1 - target) * first)


def agreement(difference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The share [...] of preferences [..., P] that a reward agrees with, ties left out; NaN where all are ties.

    An equal reward for both counts one half.
    """
    decided = target != 0.5
    votes = torch.where(difference == 0, 0.5, ((difference > 0) == (target > 0.5)).float())
    return (votes * decided).sum(-1) / decided.sum(-1)
