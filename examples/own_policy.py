"""A policy family of your own: a Gaussian about a linear function of the state. It does not look, so it learns little.

`examples/own_picture_policy.py` is the same with a network that looks.

python -m examples.own_policy                  # writes the folder own_policy, with random weights
vla check policy=own_policy suite=tabletop
vla sft policy=own_policy dataset=datasets/tabletop output=runs/own_sft
vla train policy=runs/own_sft algo=grpo output=runs/own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from sim.embodiments import PANDA_EEF, Embodiment
from vla.policies.base import BasePolicy, TensorInputs, finite_states, gaussian_noise
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling


@dataclass(frozen=True)
class States(TensorInputs):
    """What it looks at."""

    state: torch.Tensor
    """[B, S]"""


class LinearPolicy(BasePolicy):
    """Chunks of H actions; its decision is what was drawn, before the limits cut it."""

    family = "examples.own_policy:LinearPolicy"

    def __init__(self, embodiment: Embodiment, horizon: int = 8, policy_id: str = "linear") -> None:
        super().__init__(replace(embodiment, cameras=()), policy_id)  # it looks through none
        self.horizon = horizon
        self.mean = torch.nn.Linear(embodiment.state.size, horizon * embodiment.action.size)
        self.log_deviation = torch.nn.Parameter(torch.full((horizon * embodiment.action.size,), -1.0))

    def settings(self) -> dict[str, Any]:
        return {"horizon": self.horizon}

    @property
    def spec(self) -> PolicySpec:
        # One unit for each number of the chunk: it counts once its step is executed.
        units = tuple(step for step in range(self.horizon) for _ in self.embodiment.action.names)
        return PolicySpec(self.embodiment, True, self.horizon, self.horizon, units)

    def prepare(self, observations: ObservationBatch) -> TensorInputs:
        return States(finite_states(observations, self.embodiment.state.size))

    def hidden(self, inputs: Any) -> torch.Tensor:
        """[B, D] what the mean is a linear function of."""
        state: torch.Tensor = self.state_scale(inputs.state)
        return state

    def gaussian(self, inputs: Any, sampling: Sampling) -> torch.distributions.Normal:
        """What decisions [B, H * A] are drawn from, at the scale of the data: the same for `act` and `log_prob`."""
        means = self.mean(self.hidden(inputs))
        deviation = self.log_deviation.exp() * (1.0 if sampling.greedy else sampling.temperature)
        return torch.distributions.Normal(means, deviation.expand_as(means))

    @torch.no_grad()
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        inputs = self.prepare(observations)
        gaussian = self.gaussian(inputs, sampling)
        decision = gaussian.mean
        if not sampling.greedy:
            noise = gaussian_noise(generators, len(inputs), decision.shape[1:])
            decision = decision + gaussian.stddev * noise.to(self.device)
        log_probs: torch.Tensor = gaussian.log_prob(decision)  # type: ignore[no-untyped-call]
        chunks = self.action_scale.inverse(decision.view(len(inputs), self.horizon, -1))
        return PolicyOutput(
            actions=self.embodiment.action.clip(chunks.cpu().numpy()),
            decision=decision.cpu().numpy(),
            log_probs=log_probs.cpu().numpy(),
            features=self.features_from_inputs(inputs),
            inputs=inputs,
        )

    def log_prob(self, inputs: Any, decisions: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        gaussian = self.gaussian(inputs, sampling)
        log_probs: torch.Tensor = gaussian.log_prob(decisions.to(self.device))  # type: ignore[no-untyped-call]
        entropies: torch.Tensor = gaussian.entropy()  # type: ignore[no-untyped-call]
        return log_probs, entropies

    def imitation_loss(self, inputs: Any, actions: NDArray[np.float32]) -> tuple[torch.Tensor, dict[str, float]]:
        # Squared errors leave the deviation to RL: demonstrations would take it to 0 where they never vary.
        errors = self.mean(self.hidden(inputs)) - self.action_scale(torch.from_numpy(actions)).flatten(1)
        return errors.square().mean(1), {"error": float(errors.detach().abs().mean())}

    @torch.no_grad()
    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        features: NDArray[np.float32] = self.hidden(inputs).cpu().numpy()
        return features


def main(folder: str = "own_policy") -> None:
    """Write a policy with random weights for the tabletop's robot."""
    torch.manual_seed(0)
    LinearPolicy(PANDA_EEF).save_pretrained(folder)
    print(f"{Path(folder).resolve()} is a policy folder: vla check policy={folder}")


if __name__ == "__main__":
    main()
