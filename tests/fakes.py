"""A tiny token policy for the tiny suite of `tests.fake_suite`, for tests of what sits on top of both.

It steers to the target its instruction names and has eight learnable parameters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sim.contract import FloatArray, Observation, ObservationBatch, stack_observations
from sim.embodiments import PANDA_EEF, POSITION_SCALE
from tests.fake_suite import (
    COLOURS,
    HORIZON,
    NUM_INIT_STATES,
    TARGETS,
    FakeEnvironment,
    FakeExpert,
    FakeSuite,
    get_suite,
)
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling

__all__ = [
    "COLOURS",
    "HORIZON",
    "NUM_INIT_STATES",
    "TARGETS",
    "FakeEnvironment",
    "FakeExpert",
    "FakePolicy",
    "FakeSuite",
    "get_suite",
]

BINS = torch.linspace(-1.0, 1.0, 9)
"""Action values of the tokens."""


class FakePolicy(torch.nn.Module):
    """Logits fall with the squared distance of a bin from `gain * direction to the target + bias`.

    Tokens are [H * 7], action by action. With the initial parameters it is a fair but imperfect policy when sampled.
    """

    def __init__(self, gain: float = 0.5, bias: float = 0.0, chunk_horizon: int = 8, execute_steps: int = 8) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        self.bias = torch.nn.Parameter(torch.full((7,), bias))
        self.policy_id = "fake-policy"
        self.feature_map: FeatureMap = SAME_NAMES
        self._spec = PolicySpec(
            embodiment=PANDA_EEF.with_image_size(16),
            uses_state=True,
            chunk_horizon=chunk_horizon,
            execute_steps=execute_steps,
            unit_steps=tuple(step for step in range(chunk_horizon) for _ in range(7)),
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        with torch.no_grad():
            all_log_probs = self._log_probs(observations, 1.0 if sampling.greedy else sampling.temperature)
        if not sampling.greedy:
            assert generators is not None and len(generators) == len(all_log_probs)
            uniform = np.stack([generator.random(len(self.spec.unit_steps)) for generator in generators])
            cumulative = all_log_probs.double().exp().cumsum(-1).numpy()
            tokens = (uniform[..., None] > cumulative[..., :-1]).sum(-1)
        else:
            tokens = all_log_probs.argmax(-1).numpy()
        log_probs = np.take_along_axis(all_log_probs.numpy(), tokens[..., None], -1)[..., 0]
        actions = BINS.numpy()[tokens].reshape(len(tokens), self.spec.chunk_horizon, 7)
        return PolicyOutput(actions.astype(np.float32), tokens.astype(np.int64), log_probs.astype(np.float32))

    def select_action(self, observation: Observation) -> FloatArray:
        return self.act(stack_observations([observation])).actions[0, : self.spec.execute_steps]

    def log_prob(
        self, inputs: ObservationBatch, decisions: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor]:
        all_log_probs = self._log_probs(inputs, sampling.temperature)
        chosen = all_log_probs.gather(-1, decisions[..., None])[..., 0]
        return chosen, -(all_log_probs.exp() * all_log_probs).sum(-1)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {"gain": float(self.gain.detach()), "bias": self.bias.tolist(), "policy_id": self.policy_id}
        (folder / "config.json").write_text(json.dumps(parameters))

    def _log_probs(self, observations: ObservationBatch, temperature: float) -> torch.Tensor:
        """[B, K, bins]"""
        targets = [TARGETS[COLOURS.index(text.split()[-2])] for text in observations["instruction"]]
        direction = torch.zeros(len(targets), 7)
        offset = torch.tensor(np.stack(targets) - observations["state"][:, :3], dtype=torch.float32)
        direction[:, :3] = offset / (POSITION_SCALE * self.spec.execute_steps)
        mean = self.gain * direction + self.bias
        logits = -2.0 * (BINS - mean[..., None]) ** 2
        per_action = torch.log_softmax(logits / temperature, dim=-1)  # [B, 7, bins]
        return per_action[:, None].expand(-1, self.spec.chunk_horizon, -1, -1).flatten(1, 2)
