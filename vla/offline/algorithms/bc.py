"""Behaviour cloning: the likelihood of the data's actions, plain, of the best episodes, or of successful ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.func import grad_and_value

from vla.offline.algorithms.algorithm import Algorithm, Batch, Metrics, Sizes, State, adam, with_moments
from vla.policies.gaussian.perceptron import Parameters
from vla.policies.gaussian.policy import gaussian_mean, log_density, log_deviations


@dataclass(frozen=True)
class BC(Algorithm):
    """Behaviour cloning. Which episodes it imitates is `weighting`'s to say: "best" makes it 10 % BC, "success"
    filtered BC."""

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        return with_moments({"policy": policy}, ("policy",))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """The negative log-likelihood of the actions."""

        def policy_loss(policy: Parameters) -> Tensor:
            mean = gaussian_mean(policy, batch.observations, bfloat16)
            return -log_density(batch.actions, mean, log_deviations(policy)).mean()

        gradients, policy_error = grad_and_value(policy_loss)(state["policy"])
        adam(state, "policy", gradients, batch.step, self.learning_rate)
        return {"loss/policy": policy_error}
