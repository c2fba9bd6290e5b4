"""Whose successes a failure is compared with: those of its group, or of the whole batch whatever the task.

The paper compares within a task, as every reward does without this. It excludes demonstrations and a success bank,
which stand in for a task's successes. Measured from a weak start (docs/rewards.md): no gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.rewards.reward import Floats, RewardParts, Scores, WrappedReward
from vla.run.plugins import settings_of


class ReferenceScope(WrappedReward):
    """The reward inside, with other rollouts compared."""

    @dataclass(frozen=True)
    class Settings(WrappedReward.Settings):
        """Of `algo.reward=reference_scope`."""

        scope: Literal["group", "batch"] = "group"
        """Which rollouts are compared with one another, and ranked among one another's failures."""

    @classmethod
    def check_run(cls, run: Any) -> None:
        """Without what stands in for a task's successes."""
        _check(settings_of(cls, "reference_scope", run.algo.settings), run.demonstrations is not None)

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        _check(settings, bool(parts.demonstrations))
        super().__init__(settings, parts)

    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """Groups, or the batch, stand where tasks stood."""
        compared = groups if self.settings.scope == "group" else np.zeros(len(task_ids), dtype=np.int64)
        return self.inner.score(embeddings, successes, compared, groups)


def _check(settings: ReferenceScope.Settings, demonstrations: bool) -> None:
    if demonstrations or settings.reward == "success_bank":
        raise ReflexError(
            f"algo.reward=reference_scope compares within a {settings.scope}, but demonstrations and a success bank "
            "stand in for a task's successes; use one of them"
        )
