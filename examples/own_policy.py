"""A policy family of your own: a Gaussian about a linear function of the state, one draw and one unit for a chunk.

python -m examples.own_policy                  # writes the folder own_policy, with random weights
vla check policy=own_policy suite=tabletop
vla sft policy=own_policy dataset=datasets/tabletop output=runs/own_sft
vla train policy=runs/own_sft algo=grpo output=runs/own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch, stack_observations
from sim.embodiments import PANDA_EEF, Embodiment
from vla.data.feature_map import FeatureMap
from vla.policies.observations import as_observation
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.storage import read_config, read_surroundings, read_weights, write_policy_folder


FAMILY = "examples.own_policy:LinearPolicy"
"""Where `load_policy` finds the class: it is written into every folder."""


@dataclass(frozen=True)
class States:
    """What it looks at: [B, S]."""

    state: torch.Tensor

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, index: torch.Tensor | slice) -> States:
        return States(self.state[index])

    @classmethod
    def concatenate(cls, parts: Sequence[States]) -> States:
        return cls(torch.cat([part.state for part in parts]))


class LinearPolicy(torch.nn.Module):
    """Chunks of H actions; its decision is what was drawn, before the limits cut it."""

    has_normalisation = True  # it needs none

    def __init__(self, embodiment: Embodiment, horizon: int, policy_id: str = "linear") -> None:
        super().__init__()
        self.embodiment, self.horizon, self.policy_id, self.feature_map = embodiment, horizon, policy_id, FeatureMap()
        self.mean = torch.nn.Linear(embodiment.state.size, horizon * embodiment.action.size)
        self.log_deviation = torch.nn.Parameter(torch.tensor(-1.0))

    @property
    def spec(self) -> PolicySpec:
        return PolicySpec(self.embodiment, True, self.horizon, self.horizon, unit_steps=(0,))

    def prepare(self, observations: ObservationBatch) -> States:
        return States(torch.from_numpy(observations["state"]))

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        inputs = self.prepare(observations)
        with torch.no_grad():
            decision = self.mean(inputs.state).numpy()
            if not sampling.greedy:
                assert generators is not None
                noise = np.stack([generator.normal(size=decision.shape[1]) for generator in generators])
                decision = (decision + sampling.temperature * float(self.log_deviation.exp()) * noise).astype("float32")
            log_probs, _ = self.log_prob(inputs, torch.from_numpy(decision), sampling)
        actions = self.embodiment.action.clip(decision.reshape(len(inputs), self.horizon, -1))
        return PolicyOutput(actions, decision, log_probs.numpy(), inputs.state.numpy(), inputs)

    def log_prob(
        self, inputs: States, decisions: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor]:
        deviation = self.log_deviation.exp() * (1.0 if sampling.greedy else sampling.temperature)
        gaussian = torch.distributions.Normal(self.mean(inputs.state), deviation)
        log_probs: torch.Tensor = gaussian.log_prob(decisions)  # type: ignore[no-untyped-call]
        entropies: torch.Tensor = gaussian.entropy()  # type: ignore[no-untyped-call]
        return log_probs.sum(1, keepdim=True), entropies.sum(1, keepdim=True)

    def imitation_loss(self, inputs: States, actions: NDArray[np.float32]) -> tuple[torch.Tensor, dict[str, float]]:
        errors = self.mean(inputs.state) - torch.from_numpy(actions).flatten(1)
        return errors.square().mean(1), {"error": float(errors.detach().abs().mean())}

    def select_action(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        chunk: NDArray[np.float32] = self.act(stack_observations([as_observation(observation)])).actions[0]
        return chunk

    def features_from_inputs(self, inputs: States) -> NDArray[np.float32]:
        return inputs.state.numpy()

    def fit_normalisation(self, actions: NDArray[np.float32], states: NDArray[np.float32]) -> None: ...

    def set_precision(self, precision: str) -> None: ...

    def freeze_vision(self) -> None: ...

    def encode_vision(self, inputs: States) -> States:
        return inputs

    def save_pretrained(self, folder: Path) -> None:
        config = {"family": FAMILY, "horizon": self.horizon, "policy_id": self.policy_id}
        write_policy_folder(Path(folder), config, self.embodiment, self.feature_map, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path, device: str = "cpu") -> LinearPolicy:
        config, (embodiment, feature_map) = read_config(Path(folder)), read_surroundings(Path(folder))
        assert embodiment is not None
        policy = cls(embodiment, config["horizon"], config["policy_id"])
        policy.feature_map = feature_map
        policy.load_weights_from(folder)
        return policy.to(device).eval()

    def load_weights_from(self, folder: Path) -> None:
        read_weights(self, Path(folder))


def main(folder: str = "own_policy") -> None:
    """Write a policy with random weights for the tabletop's robot."""
    torch.manual_seed(0)
    LinearPolicy(PANDA_EEF, horizon=8).save_pretrained(Path(folder))
    print(f"{Path(folder).resolve()} is a policy folder: vla check policy={folder}")


if __name__ == "__main__":
    main()
