"""A policy that draws several chunks of actions for every decision, of which the critics choose one.

What critics know shows in rollouts at once, before the policy has learnt it from them (IDQL, arXiv 2304.10573).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.contract import Observation, ObservationBatch
from vla.policies.gaussian import GaussianPolicy
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling

Scores = Callable[[Tensor, Tensor], Tensor]
"""(normalised states [B, S], chunks [B, K] in [-1, 1]) -> how good they are, [B]."""


class ChosenByCritics:
    """A Gaussian policy whose samples critics choose from; greedy, it is that policy."""

    def __init__(self, policy: GaussianPolicy, scores: Scores, candidates: int) -> None:
        """`candidates` chunks a decision: the policy's mean, and samples."""
        self._policy, self._scores, self._candidates = policy, scores, candidates
        self.policy_id, self.feature_map = policy.policy_id, policy.feature_map

    @property
    def spec(self) -> PolicySpec:
        """The policy's."""
        return self._policy.spec

    @torch.no_grad()
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """See `Policy.act`; log-probabilities are of a candidate as such, and not of its being chosen."""
        best = self._policy.act(observations)
        if sampling.greedy:
            return best
        states = self._policy.state_scale(best.inputs.state)
        score = self._score(states, best)
        for _ in range(self._candidates - 1):
            other = self._policy.act(observations, sampling, generators)
            found = self._score(states, other)
            better = found > score
            score = np.maximum(found, score)
            best = replace(
                best,
                actions=np.where(better[:, None, None], other.actions, best.actions),
                decision=np.where(better[:, None], other.decision, best.decision),
                log_probs=np.where(better[:, None], other.log_probs, best.log_probs),
            )
        return best

    def _score(self, states: Tensor, output: PolicyOutput) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._scores(states, torch.from_numpy(output.decision).clamp(-1.0, 1.0)).numpy()
        return scores

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The policy's own."""
        return self._policy.select_action(observation)

    def save_pretrained(self, folder: Path) -> None:
        """Write the policy, without the critics."""
        self._policy.save_pretrained(folder)
