"""What is left of the outcome after the likelihood's forecast of it. PACS (arXiv 2509.02522).

Measured from a weak start on ten tabletop tasks, one seed (docs/results/advantages.md): no better than GRPO.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.rl.advantages import MINIMUM_SPREAD, leave_one_out, with_weights
from vla.rl.batch import Batch
from vla.rl.likelihood import mean_log_probs, sampled_log_probs
from vla.rl.method import AdvantageEstimator, Advantages
from vla.rl.parts import TrainingParts
from vla.run.settings import Checks


class Pacs(AdvantageEstimator):
    """The policy gradient of PACS' supervised loss; at the starting policy it is RLOO's."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.advantage=pacs`."""

        beta: float = 1.0
        """Logits of success per unit of the mean log-ratio to the starting policy."""

        def __post_init__(self) -> None:
            Checks(self).positive("beta")

    def __init__(self, settings: Settings, parts: TrainingParts) -> None:
        super().__init__(settings, parts)
        self._reference = parts.reference()

    def estimate(
        self, batch: Batch, rewards: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> tuple[Advantages, dict[str, float]]:
        """One number for each rollout."""
        algo = self.parts.algo
        known = mean_log_probs(self._reference, batch.rollouts, algo.sampling)
        # Rollouts without inputs are of groups without spread, which get 0 whatever stands here.
        ratios = np.where(np.isnan(known), 0.0, sampled_log_probs(batch.rollouts) - known)
        advantages = pacs_advantages(rewards, batch.groups, ratios, self.settings.beta)
        return list(with_weights(advantages, algo.negative_weight, weights)), {}


def pacs_advantages(rewards: ArrayLike, groups: ArrayLike, log_ratios: ArrayLike, beta: float) -> NDArray[np.float64]:
    """Advantages [N] whose policy gradient is that of PACS' supervised loss (arXiv 2509.02522).

    PACS reads a rollout's implicit reward r = beta * log-ratio to a reference policy, less the mean of its group's
    others, as the logit of success, psi, and fits it by cross-entropy to the outcome y. Differentiated by the rollouts'
    log-ratios that is, up to the factor beta,

        A_i = (y_i - sigmoid(psi_i)) - mean over j != i of (y_j - sigmoid(psi_j))

    With psi = 0 (at the reference) it is RLOO's. A success that already is much likelier than its group's others
    says little, and so does a failure that is much less likely. Log-ratios are means over units, so that long
    rollouts do not have larger ones. Rewards between 0 and 1 are soft outcomes. A group whose rewards differ by less
    than `MINIMUM_SPREAD` gets 0.

    Args:
        rewards: [N] in [0, 1].
        groups: [N].
        log_ratios: [N] mean over a rollout's units of log pi - log pi_reference.
        beta: of the implicit reward.
    """
    outcomes, ids = np.asarray(rewards, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    implicit = beta * np.asarray(log_ratios, dtype=np.float64)
    advantages = np.zeros(len(outcomes))
    for group in np.unique(ids).tolist():
        members = np.flatnonzero(ids == group)
        if len(members) < 2 or np.ptp(outcomes[members]) < MINIMUM_SPREAD:
            continue
        logits = leave_one_out(implicit[members])
        residuals = outcomes[members] - 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))
        advantages[members] = leave_one_out(residuals)
    return advantages
