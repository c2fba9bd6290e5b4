"""Behaviour cloning: the likelihood of the data's actions, plain, of the best episodes, or of successful ones."""

from __future__ import annotations

from dataclasses import dataclass

from vla.offline.algorithms.algorithm import Algorithm, Batch, Metrics, Sizes, State, imitate, with_moments
from vla.policies.gaussian.perceptron import Parameters


@dataclass(frozen=True)
class BC(Algorithm):
    """Behaviour cloning. Which episodes it imitates is `weighting`'s to say: "best" makes it 10 % BC, "success"
    filtered BC."""

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        return with_moments({"policy": policy}, ("policy",))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """The negative log-likelihood of the actions."""
        return {"loss/policy": imitate(state, batch, self.learning_rate, bfloat16)}
