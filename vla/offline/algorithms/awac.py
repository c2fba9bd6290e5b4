"""AWAC: advantage-weighted actor-critic (Nair et al., arXiv 2006.09359).

The critics judge the policy's own actions, and the policy imitates the data's, each weighted by how much better it is
than the policy's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vla.offline.algorithms.algorithm import (
    Algorithm,
    Batch,
    Metrics,
    Sizes,
    State,
    copied,
    critic_values,
    fit_critics,
    follow,
    imitate,
    twin_critics,
    with_moments,
)
from vla.offline.algorithms.iql import advantage_weights
from vla.policies.gaussian.perceptron import Parameters
from vla.policies.gaussian.policy import gaussian_mean, log_deviations
from vla.run.settings import Checks


@dataclass(frozen=True)
class AWAC(Algorithm):
    """AWAC."""

    temperature: float = 1.0
    """How much an advantage counts in the policy's weights exp(temperature A): 1 / lambda of the paper."""
    greatest_weight: float = 100.0
    """Limit of those weights."""
    target_share: float = 0.005
    """How far the target critics go towards the critics in an update."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        super().__post_init__()
        check = Checks(self)
        check.at_least(0, "temperature")
        check.positive("greatest_weight")
        check.within(0, 1, "target_share")

    def noise_size(self, sizes: Sizes) -> int:
        """An action before and one after each transition."""
        return 2 * sizes.action

    def initial_state(self, sizes: Sizes, policy: Parameters) -> State:
        """See `Algorithm.initial_state`."""
        critics = twin_critics(sizes)
        return with_moments({"policy": policy, "critics": critics, "target": copied(critics)}, ("policy", "critics"))

    def update(self, state: State, batch: Batch, bfloat16: bool = False) -> Metrics:
        """The critics by the policy's next actions, then the policy by the new critics, then the target."""
        observations, actions = batch.observations, batch.actions
        before, after = batch.noise.chunk(2, dim=1)

        def drawn(seen: Tensor, noise: Tensor) -> Tensor:
            mean = gaussian_mean(state["policy"], seen, bfloat16)
            return (mean + log_deviations(state["policy"]).exp() * noise).clamp(-1.0, 1.0)

        next_actions = drawn(batch.next_observations, after)
        following = critic_values(state["target"], batch.next_observations, next_actions, bfloat16).amin(0)
        targets = batch.rewards + batch.discounts * following
        critic_error = fit_critics(state, batch, targets, self.learning_rate, bfloat16)

        own_actions = drawn(observations, before)

        own = critic_values(state["critics"], observations, own_actions, bfloat16).amin(0)
        data = critic_values(state["critics"], observations, actions, bfloat16).amin(0)
        weights = advantage_weights(data - own, self.temperature, self.greatest_weight)
        policy_error = imitate(state, batch, self.learning_rate, bfloat16, weights)
        follow(state, "target", "critics", self.target_share)
        return {
            "loss/policy": policy_error,
            "loss/critic": critic_error,
            "value": own.mean(),
            "advantage": (data - own).mean(),
            "weight": weights.mean(),
        }

    def advantages(self, state: State, observations: Tensor, actions: Tensor) -> Tensor:
        """[B] Q of the actions less Q of the policy's mean."""
        own = critic_values(state["critics"], observations, gaussian_mean(state["policy"], observations)).amin(0)
        return critic_values(state["critics"], observations, actions).amin(0) - own
