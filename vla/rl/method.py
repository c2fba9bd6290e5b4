"""What a method of the literature can change about the loop: how advantages are estimated, and what comes beside them.

The loop knows these two classes and none of their subclasses. Shipped ones are in `vla/rl/variants/`, one file each;
one of a user's own is named by its import path. A method that remembers something writes it into each checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.rl.batch import Batch, Samples
from vla.rl.sampling import GroupRequest, Start
from vla.run.plugins import Part, load_class

VARIANTS = "vla.rl.variants"
ESTIMATORS = ("vla.rl.group_mean", "vla.rl.critic", VARIANTS)
"""Where they are found by name."""

Advantages = Sequence[NDArray[np.float32] | np.float32]
"""Of N rollouts, each one number or one for each decision [D]."""


class Method(Part):
    """What estimators and variants have in common. What can be set is the dataclass `Settings`."""

    def __init__(self, settings: Any, parts: Any) -> None:
        """`parts` is a `vla.rl.parts.TrainingParts`: what a method may be made of."""
        self.settings, self.parts = settings, parts

    def learn(self, batch: Batch, iteration: int) -> dict[str, float]:
        """Take in an iteration's batch after the update; returns metrics."""
        return {}


class AdvantageEstimator(Method, ABC):
    """From rewards to advantages."""

    replaces_groups: ClassVar[bool] = True
    """Whether a group whose rewards are all equal gives no gradient, so that another takes its place."""

    @abstractmethod
    def estimate(
        self, batch: Batch, rewards: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> tuple[Advantages, dict[str, float]]:
        """Advantages of the batch's N rollouts, and metrics.

        Args:
            batch: rollouts, groups and successes.
            rewards: [N] what is to be compared, which a variant may have changed.
            weights: [N] what each rollout counts.
        """


class Variant(Method):
    """What comes beside an estimator. Every hook leaves things as they are; they are called in this order."""

    def eligible_tasks(self, tasks: Sequence[int], success_rates: Mapping[Start, float]) -> list[int]:
        """Tasks to choose initial states of, from each start's newest share of successes."""
        return list(tasks)

    def choose(
        self,
        requests: Sequence[GroupRequest],
        success_rates: Mapping[Start, float],
        iteration: int,
        sampling_round: int,
    ) -> list[GroupRequest]:
        """Groups to roll out in the place of those chosen."""
        return list(requests)

    def rewards(self, batch: Batch, rewards: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Rewards [N] to compare in the place of those given, and metrics."""
        return rewards, {}

    def weights(self, batch: Batch) -> NDArray[np.float32] | None:
        """What each rollout's advantage is multiplied by [N]; None for 1."""
        return None

    def credit(self, batch: Batch) -> dict[str, float]:
        """Tell decisions apart by setting `batch.decision_advantages`; returns metrics."""
        return {}

    def more_samples(self, samples: Samples, iteration: int) -> Samples | None:
        """Decisions that the update learns from beside those of the batch; None for none."""
        return None

    def kl_weight(self, weight: float) -> float:
        """Weight of the penalty on distance from the starting policy."""
        return weight


def refuse_critic(algo: Any, variant: str) -> None:
    """Raise `ReflexError` under a critic, which tells decisions apart already."""
    if algo.advantage == "critic":
        raise ReflexError(
            f"algo.variants has {variant}, but the critic tells decisions apart already; leave it out, or set "
            "algo.advantage to another"
        )


def estimator_class(name: str) -> type[AdvantageEstimator]:
    """The estimator called `name`. Raises `ReflexError` when there is none."""
    return load_class(name, AdvantageEstimator, ESTIMATORS, "algo.advantage")


def variant_class(name: str) -> type[Variant]:
    """The variant called `name`. Raises `ReflexError` when there is none."""
    return load_class(name, Variant, (VARIANTS,), "algo.variants")
