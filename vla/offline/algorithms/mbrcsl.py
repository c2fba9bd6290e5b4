"""Model-based return-conditioned supervised learning (MBRCSL, Zhou et al., arXiv 2310.19308).

A model fitted to the logs imagines rollouts of the logs' own behaviour; those are kept that come to a greater return
than the logs did, and a policy imitates them given their return. That joins the beginning of one episode to the end of
another without a critic. `vla.offline.model_based` imagines and chooses; here is the imitation.

A batch's "rewards" are conditions: (return of the whole rollout - the return that is asked for) / their deviation. So
the policy at a condition of 0 is the one that is asked for, and an ordinary one. The return of the whole rollout, as
against the paper's return-to-go, is the same at every step, so that acting needs no rewards; the two are one where the
reward comes at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value

from vla.offline.algorithms.algorithm import Algorithm, Batch, Metrics, Sizes, State, adam, with_moments
from vla.policies.gaussian.perceptron import Parameters
from vla.policies.gaussian.policy import gaussian_mean, log_density, log_deviations
from vla.run.settings import Checks


def at_condition(policy: Parameters, condition: Parameters, values: Tensor) -> Parameters:
    """The policy's weights given conditions [B]: they add c w to the first layer's sums, w [1, width]."""
    return policy | {"bias_0": policy["bias_0"] + values[:, None] * condition["weight"]}


@dataclass(frozen=True)
class MBRCSL(Algorithm):
    """Model-based return-conditioned supervised learning."""

    nearest_starts: int = 0
    """Imagined rollouts must beat the best of so many episodes with the most similar starts; 0 compares with all, as
    the paper does."""
    target_quantile: float = 1.0
    """Which quantile of the returns of the rollouts that are kept the policy is asked for; 1 is the greatest."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        super().__post_init__()
        check = Checks(self)
        check.at_least(0, "nearest_starts")
        check.within(0, 1, "target_quantile")

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        condition = {"weight": torch.zeros(1, sizes.hidden[0])}
        return with_moments({"policy": policy, "condition": condition}, ("policy", "condition"))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """The negative log-likelihood of the actions, given the condition."""

        def loss(networks: dict[str, Parameters]) -> Tensor:
            policy = at_condition(networks["policy"], networks["condition"], batch.rewards)
            mean = gaussian_mean(policy, batch.observations, bfloat16)
            return -log_density(batch.actions, mean, log_deviations(policy)).mean()

        learning = {name: state[name] for name in ("policy", "condition")}
        gradients, error = grad_and_value(loss)(learning)
        for name in learning:
            adam(state, name, gradients[name], batch.step, self.learning_rate)
        return {"loss/policy": error}
