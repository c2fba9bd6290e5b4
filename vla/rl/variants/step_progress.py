"""More for decisions that came nearer to the task's successes: A = A_episode + alpha A_step (arXiv 2509.19199).

Measured from a weak start on ten tabletop tasks, three seeds (docs/results/advantages.md): it evens seeds out and gains
nothing on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.rewards.success_progress import task_progress
from vla.rl.advantages import advantages_with_steps
from vla.rl.batch import Batch
from vla.rl.config import AlgoConfig
from vla.rl.method import Variant, refuse_critic
from vla.run.settings import Checks


class StepProgress(Variant):
    """Credit for single decisions from how far each came."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[step_progress]`."""

        weight: float = 0.5
        """What a decision's own part counts beside its rollout's advantage."""

        def __post_init__(self) -> None:
            Checks(self).at_least(0, "weight")

    @classmethod
    def check_algorithm(cls, algo: AlgoConfig) -> None:
        """Not beside a critic."""
        refuse_critic(algo, "step_progress")

    def credit(self, batch: Batch) -> dict[str, float]:
        """See `vla.rewards.success_progress.task_progress`."""
        features = [rollout.features_for("algo.variants=[step_progress]") for rollout in batch.rollouts]
        progress = task_progress(features, batch.successes, batch.task_ids)
        increments = [np.diff(values) for values in progress]
        batch.decision_advantages = advantages_with_steps(
            batch.advantages, increments, batch.groups, self.settings.weight
        )
        ends = [float(values[-1]) for values, won in zip(progress, batch.successes, strict=True) if not won]
        return {"advantage/failures_progress": float(np.mean(ends)) if ends else 0.0}
