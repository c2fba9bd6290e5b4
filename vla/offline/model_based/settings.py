"""What can be set of imagined rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field

from vla.run.settings import Checks
from world_models.dynamics import PenaltyName


@dataclass(frozen=True)
class ImagineSettings:
    """Rollouts that a model fitted to the logs imagines."""

    share: float = 0.0
    """Share of every batch that is imagined; 0 fits no model. (`algo=mbrcsl` learns from imagined rollouts alone.)"""
    penalty: PenaltyName = "ensemble_deviation"
    """How unsure the model is of a step: ensemble_deviation, max_aleatoric, max_pairwise_difference, loo_kl or
    ll_variance (arXiv 2110.04135)."""
    penalty_weight: float = 0.1
    """Reward that an imagined step loses for each unit of that."""
    uncertainty_quantile: float = 1.0
    """A rollout is cut before a step of which the model is less sure than of this share of the data; 1 is all of it."""
    horizon: int | None = None
    """Decisions in an imagined rollout; null takes 5, and with `algo=mbrcsl` those of the longest episode."""
    rollouts: int = 5000
    """Rollouts that are imagined, before the first update."""
    members: int = 7
    """Networks of the model, of which the best five of seven are kept."""
    hidden: list[int] = field(default_factory=lambda: [200, 200])
    """Widths of the hidden layers of each."""
    updates: int = 10_000
    """Gradient updates of the model at most, and of the imitation of the logs' behaviour that acts in it."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self, "imagine.")
        check.literals()
        check.within(0, 1, "share", "uncertainty_quantile")
        check.at_least(0, "penalty_weight")
        check.at_least(1, "horizon", "rollouts", "updates")
        check.at_least(3, "members", reason="a penalty compares those that are kept")
