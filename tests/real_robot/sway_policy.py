"""A policy that turns the arm's base to and fro, in a folder that `load_policy` reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from sim.embodiments import Embodiment
from vla.policies.base import BasePolicy
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling


class SwayPolicy(BasePolicy):
    """Each action turns the base `step` degrees further than the one before, the way `direction` says."""

    family = "tests.real_robot.sway_policy:SwayPolicy"

    def __init__(
        self,
        embodiment: Embodiment,
        policy_id: str = "sway",
        step: float = 1.0,
        seconds: float = 0.0,
        horizon: int = 16,
    ) -> None:
        super().__init__(embodiment, policy_id)
        self.step, self.seconds, self.horizon = step, seconds, horizon
        self.direction = 1.0

    @property
    def spec(self) -> PolicySpec:
        return PolicySpec(self.embodiment, True, self.horizon, 8, (0,))

    def settings(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": self.seconds, "horizon": self.horizon}

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        time.sleep(self.seconds)
        chunk = np.repeat(observations["state"][:, None], self.horizon, axis=1)
        if abs(float(chunk[0, 0, 0])) > 25.0:
            self.direction = -np.sign(float(chunk[0, 0, 0]))
        chunk[..., 0] += self.direction * self.step * np.arange(1, self.horizon + 1)
        return PolicyOutput(chunk, np.zeros(len(chunk)), np.zeros((len(chunk), 1), np.float32))

    def prepare(self, observations: ObservationBatch) -> Any:
        raise NotImplementedError

    def log_prob(self, inputs: Any, decisions: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def imitation_loss(self, inputs: Any, actions: NDArray[np.float32]) -> tuple[torch.Tensor, dict[str, float]]:
        raise NotImplementedError

    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        raise NotImplementedError
