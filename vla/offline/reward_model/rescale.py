"""From what a reward model says of moments to rewards of transitions. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Form = Literal["score", "difference"]
Scale = Literal["dataset", "task", "none"]
Terminal = Literal["as_scored", "absorbing", "best"]


@dataclass(frozen=True)
class Affine:
    """reward = factor * score + offset, of scores within limits."""

    factor: float
    offset: float
    least: float | None = None
    """Scores below count as this one; None for no limit."""
    greatest: float | None = None
    """Scores above count as this one; None for no limit."""

    def __call__(self, scores: Floats) -> Floats:
        """Of scores of any shape."""
        values = scores.astype(np.float64)
        if self.least is not None or self.greatest is not None:
            values = np.clip(values, self.least, self.greatest)
        return np.asarray(self.factor * values + self.offset, dtype=np.float32)


def transition_scores(scores: Floats, form: Form) -> Floats:
    """What each of T transitions is given, from the scores [T] of the pictures before each action.

    "score" is that of the next observation (Offline RL-VLM-F), "difference" how much more that is than the one before.
    A dataset has no picture after an episode's last action: the picture before it stands for it, so that the last
    transition has that picture's score, or a difference of 0.
    """
    following = np.append(scores[1:], scores[-1:])
    return following if form == "score" else following - scores


def to_unit_cost(scores: Floats, outliers: float = 0.0) -> Affine:
    """The map that takes the least of the scores to -1 and the greatest to 0; equal scores all become 0.

    Rewards of at most 0 do not punish finishing: no stay anywhere is worth more than the 0 after a terminal.

    Args:
        scores: [N]
        outliers: share of the scores at each end that count as the next one inwards. Preferences say nothing about how
            far apart scores are, and a single moment unlike all that was fitted to may score several times as much as
            the best of them; all the others would then share what it leaves of the scale.
    """
    low = float(np.quantile(scores, outliers, method="lower"))
    high = float(np.quantile(scores, 1.0 - outliers, method="higher"))
    if high == low:  # nearly all are equal: what differs is rare, and no outlier
        low, high = float(scores.min()), float(scores.max())
    if high == low:
        return Affine(0.0, 0.0)
    return Affine(1 / (high - low), -high / (high - low), low, high)


def scale_maps(
    scores: Sequence[Floats], tasks: Sequence[int], scale: Scale, outliers: float = 0.0
) -> dict[int, Affine]:
    """For each task the map from scores to rewards: over the whole dataset, over the task, or none at all.

    `outliers` is `to_unit_cost`'s.
    """
    if scale == "none":
        return {task: Affine(1.0, 0.0) for task in tasks}
    if scale == "dataset":
        shared = to_unit_cost(np.concatenate(scores), outliers)
        return dict.fromkeys(tasks, shared)
    return {
        task: to_unit_cost(
            np.concatenate([part for part, of in zip(scores, tasks, strict=True) if of == task]), outliers
        )
        for task in dict.fromkeys(tasks)
    }


def end_success(rewards: Floats, terminal: Terminal, discount: float, best: float = 0.0) -> Floats:
    """The rewards [T] of an episode that succeeded, whose last transition ends in a terminal.

    Nothing is added to a terminal's reward later, while a robot that dithers goes on collecting. With rewards above 0
    finishing would be worth less than dithering, for a reward of 0.9 at the end against 0.8 for ever.

    Args:
        rewards: after scaling.
        terminal: "as_scored" leaves them: right where rewards are at most 0, since the 0 after a terminal is then the
            best there is. "absorbing" gives the last one for ever, reward / (1 - discount), as if the robot stayed
            there: right for any scale. "best" gives the end `best`, whatever the model says of it.
        discount: of the returns that are learned from.
        best: the greatest reward of the scale.
    """
    ended = rewards.copy()
    if terminal == "absorbing":
        ended[-1] = ended[-1] / (1 - discount)
    elif terminal == "best":
        ended[-1] = best
    return ended
