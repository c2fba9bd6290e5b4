"""Whether states with equal future rewards lie together: a monitor of what a policy looks at, never trained on.

An encoder, or a history, that tells apart what makes no difference leaves nothing to stitch: no two episodes ever meet.
The bisimulation loss of "Offline RL with Observation Histories" (arXiv 2310.20663) says how far that goes. Two states
should be as far from each other as their rewards differ now, and their followers later.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from vla.errors import ReflexError
from vla.offline.goals import last_rows
from vla.offline.transitions import LEAST_RETURN_RANGE, Transitions
from vla.policies.gaussian import GaussianPolicy
from vla.policies.gaussian.policy import States

PAIRS = 4000
"""Pairs of transitions that are drawn; of those in which one ends the episode and the other does not, none is used."""

Floats = NDArray[np.float64]


def bisimulation_terms(
    latents: NDArray[np.float32],
    next_latents: NDArray[np.float32],
    rewards: NDArray[np.float32],
    discounts: NDArray[np.float32],
) -> tuple[Floats, Floats, Floats]:
    """For pairs of transitions the distance of their latents, of their rewards, and of what follows.

    Args:
        latents: [P, 2, D] of both states of each pair.
        next_latents: [P, 2, D] after their actions.
        rewards: [P, 2]
        discounts: [P] of what follows, the same for both: 0 where both ended.

    Returns:
        ||z_i - z_j||, |r_i - r_j| and discount ||z'_i - z'_j||, each [P]: the first should be the sum of the others
        (on-policy bisimulation; the policy is the one that made the data).
    """
    here = np.linalg.norm(latents[:, 0].astype(np.float64) - latents[:, 1], axis=1)
    later = discounts * np.linalg.norm(next_latents[:, 0].astype(np.float64) - next_latents[:, 1], axis=1)
    return here, np.abs(rewards[:, 0].astype(np.float64) - rewards[:, 1]), later


def bisimulation_metrics(here: Floats, rewards: Floats, later: Floats, futures: Floats) -> dict[str, float]:
    """What the terms [P] of `bisimulation_terms` come to, beside differences of future rewards [P].

    Returns:
        "loss", the mean of (here - rewards - later)^2, which depends on the latents' unit; "unexplained", what is left
        of the mean of rewards^2 by c (here - later) with the best c >= 0, from 0 (a bisimulation in some unit) to 1;
        "order", the rank correlation of `here` and `futures`: 1 where states lie the farther apart the more their
        future rewards differ, 0 where distances say nothing of that.
    """
    change = here - later
    factor = max(0.0, float(change @ rewards) / max(float(change @ change), 1e-12))
    left = float(((rewards - factor * change) ** 2).sum()) / max(float(rewards @ rewards), 1e-12)
    order = float(spearmanr(here, futures).statistic) if np.ptp(here) > 0 and np.ptp(futures) > 0 else 0.0
    return {
        "loss": float(((here - rewards - later) ** 2).mean()),
        "unexplained": min(left, 1.0) if rewards.any() else 0.0,
        "order": order,
    }


def future_rewards(transitions: Transitions, discount: float) -> NDArray[np.float64]:
    """[N] the discounted sum of the rewards from each transition of one step to the end of its record."""
    totals, last = transitions.rewards.astype(np.float64), last_rows(transitions.episodes)
    for row in range(len(totals) - 2, -1, -1):
        if row != last[row]:
            totals[row] += discount * totals[row + 1]
    return totals


class BisimulationMonitor:
    """Pairs of a data set, drawn once, by which a policy's observations and its last hidden layer are compared."""

    def __init__(self, transitions: Transitions, discount: float, seed: int) -> None:
        """Draw the pairs from transitions of one step. Raises `ReflexError` where all future rewards are the same."""
        futures = future_rewards(transitions, discount)
        if np.ptp(futures) < LEAST_RETURN_RANGE:
            raise ReflexError(
                f"monitor=bisimulation compares future rewards, and all are {futures[0]:g}; choose another reward, or "
                "monitor=none"
            )
        pairs = np.random.default_rng(seed).integers(0, len(transitions), (PAIRS, 2))
        ends = transitions.terminals[pairs]
        pairs = pairs[(ends[:, 0] == ends[:, 1]) & (pairs[:, 0] != pairs[:, 1])]
        if not len(pairs):
            raise ReflexError("monitor=bisimulation compares transitions, and there are too few; set monitor=none")
        self._now, self._next = transitions.observations[pairs], transitions.next_observations[pairs]
        self._rewards = transitions.rewards[pairs]
        self._discounts = np.where(transitions.terminals[pairs[:, 0]], 0.0, discount).astype(np.float32)
        self._futures = np.abs(futures[pairs[:, 0]] - futures[pairs[:, 1]])

    def metrics(self, policy: GaussianPolicy) -> dict[str, float]:
        """`bisimulation_metrics` of the policy's normalised observations and of its hidden layer, by name."""
        found: dict[str, float] = {}
        for name in ("observations", "policy"):
            latents = [self._latents(policy, name, values) for values in (self._now, self._next)]
            terms = bisimulation_terms(latents[0], latents[1], self._rewards, self._discounts)
            values = bisimulation_metrics(*terms, self._futures)
            found |= {f"bisimulation/{name}/{metric}": value for metric, value in values.items()}
        return found

    @staticmethod
    @torch.no_grad()
    def _latents(policy: GaussianPolicy, name: str, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """[P, 2, D] of observations [P, 2, O]."""
        flat = torch.from_numpy(observations.reshape(-1, observations.shape[-1]))
        if name == "observations":
            latents: NDArray[np.float32] = policy.state_scale(flat).numpy()
        else:
            latents = policy.features_from_inputs(States(flat))
        return latents.reshape(*observations.shape[:2], -1)
