"""A corridor of which no episode walks the whole: some know its beginning, others its end."""

from __future__ import annotations

import numpy as np

from tests.vla.offline.corridor import GOAL, SPEED, from_rows
from vla.offline.transitions import Transitions

MIDDLE = 0.5


def halves(episodes: int = 80, seed: int = 0) -> Transitions:
    """Even episodes begin at 0 and are cut where they pass the middle; odd ones begin there, and the goal is at +1.

    Each walks to one side, as often left as right, so that the mean action is to stay, and is cut after 12 steps.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(episodes):
        place = MIDDLE * (number % 2) + generator.normal(0, 0.02)
        lean = 0.8 if number % 4 < 2 else -0.8
        for step in range(12):
            action = float(np.clip(lean + generator.normal(0, 0.2), -1, 1))
            following = place + SPEED * action
            arrived = following >= GOAL
            rows.append((place, action, float(arrived), following, arrived, step, number, False))
            place = following
            if arrived or (number % 2 == 0 and place > MIDDLE + 0.2):
                break
    return from_rows(rows)
