"""Only tasks that succeed in 5 to 75 % of their rollouts are trained.

WebRL (arXiv 2411.02337) so keeps what its critic finds neither hopeless nor mastered; here the outcomes themselves are
asked. With `algo.initial_states=even` those tasks are taken alike. Measured from a weak start on ten tabletop tasks,
one seed (docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vla.rl.method import Variant
from vla.rl.sampling import Start

GATE = (0.05, 0.75)
"""Success from which on a task is worth trying, and up to which it is worth training."""


class WebrlGate(Variant):
    """Chooses tasks."""

    def eligible_tasks(self, tasks: Sequence[int], success_rates: Mapping[Start, float]) -> list[int]:
        """See `gated_tasks`."""
        return gated_tasks(tasks, success_rates)


def gated_tasks(tasks: Iterable[int], success_rates: Mapping[Start, float]) -> list[int]:
    """The tasks whose mean success over their states' last groups is within `GATE`; all of them when none is.

    One that was not tried yet is within.
    """
    ordered = sorted(tasks)
    tried: dict[int, list[float]] = {task: [] for task in ordered}
    for (task, _, led), rate in success_rates.items():
        if task in tried and not led:
            tried[task].append(rate)
    low, high = GATE
    return [task for task in ordered if not tried[task] or low <= np.mean(tried[task]) <= high] or ordered
