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
    """reward = factor * score + offset."""

    factor: float
    offset: float

    def __call__(self, scores: Floats) -> Floats:
        """Of scores of any shape."""
        return np.asarray(self.factor * scores.astype(np.float64) + self.offset, dtype=np.float32)


def transition_scores(scores: Floats, form: Form) -> Floats:
    """What each of T transitions is given, from the scores [T] of the pictures before each action.

    "score" is that of the next observation (Offline RL-VLM-F), "difference" how much more that is than the one before.
    A dataset has no picture after an episode's last action: the picture before it stands for it, so that the last
    transition has that picture's score, or a difference of 0.
    """
    following = np.append(scores[1:], scores[-1:])
    return following if form == "score" else following - scores


def to_unit_cost(scores: Floats) -> Affine:
    """The map that takes the least of the scores to -1 and the greatest to 0; equal scores all become 0.

    Rewards of at most 0 do not punish finishing: no stay anywhere is worth more than the 0 after a terminal.
    """
    low, high = float(scores.min()), float(scores.max())
    if high == low:
        return Affine(0.0, 0.0)
    return Affine(1 / (high - low), -high / (high - low))


def scale_maps(scores: Sequence[Floats], tasks: Sequence[int], scale: Scale) -> dict[int, Affine]:
    """For each task the map from scores to rewards: over the whole dataset, over the task, or none at all."""
    if scale == "none":
        return {task: Affine(1.0, 0.0) for task in tasks}
    if scale == "dataset":
        shared = to_unit_cost(np.concatenate(scores))
        return dict.fromkeys(tasks, shared)
    return {
        task: to_unit_cost(np.concatenate([part for part, of in zip(scores, tasks, strict=True) if of == task]))
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
