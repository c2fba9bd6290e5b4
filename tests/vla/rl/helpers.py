"""A trainable policy on the fake suite, and the trainer's parts for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from tests.fakes import HORIZON, FakePolicy
from vla.policies.protocol import PolicyOutput
from vla.policies.sampling import GREEDY, Sampling
from vla.rewards.embeddings import RolloutEmbedding
from vla.rewards.reward import Reward, RewardParts, make_reward
from vla.rl.config import AlgoConfig, TrainConfig
from vla.rl.loop import Components
from vla.rl.method import AdvantageEstimator
from vla.rl.parts import TrainingParts, make_estimator


@dataclass(frozen=True)
class FakeInputs:
    """What the fake policy looks at: the state and the instruction."""

    state: torch.Tensor
    instruction: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, index: torch.Tensor | slice) -> FakeInputs:
        chosen = torch.arange(len(self))[index].tolist()
        return FakeInputs(self.state[chosen], tuple(self.instruction[i] for i in chosen))

    @classmethod
    def concatenate(cls, parts: Sequence[FakeInputs]) -> FakeInputs:
        return cls(
            torch.cat([part.state for part in parts]), tuple(text for part in parts for text in part.instruction)
        )


class TrainableFakePolicy(FakePolicy):
    """The shared fake policy with prepared inputs and a `from_pretrained`."""

    def prepare(self, observations: ObservationBatch) -> FakeInputs:
        return FakeInputs(torch.from_numpy(observations["state"]), tuple(observations["instruction"]))

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """Its features are the state."""
        return replace(super().act(observations, sampling, generators), features=observations["state"])

    def set_precision(self, precision: str) -> None:
        """It always computes in float32."""

    def freeze_vision(self) -> None:
        """It has no vision."""

    def encode_vision(self, inputs: FakeInputs) -> FakeInputs:
        return inputs

    def features_from_inputs(self, inputs: FakeInputs) -> NDArray[np.float32]:
        return inputs.state.numpy()

    def log_prob(
        self, inputs: FakeInputs, decisions: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor]:
        observations: Any = {"state": inputs.state.numpy(), "instruction": list(inputs.instruction)}
        return super().log_prob(observations, decisions, sampling)


PLAIN = Sampling(temperature=1.0, token_noise=0.0, chunk_correlation=0.0)
"""How the tests sample where they do not say otherwise."""


def load_fake_policy(path_or_name: str, device: str) -> TrainableFakePolicy:
    """A saved fake policy, or "weak": one that overshoots sideways and often fails."""
    policy = TrainableFakePolicy(gain=0.25)
    if path_or_name == "weak":
        with torch.no_grad():
            policy.bias[0] = 0.25
    else:
        values = json.loads((Path(path_or_name) / "config.json").read_text())
        policy.policy_id = values["policy_id"]
        with torch.no_grad():
            policy.gain.fill_(values["gain"])
            policy.bias.copy_(torch.tensor(values["bias"]))
    return policy.to(device)


def components(log: list[str] | None = None) -> Components:
    return Components("tests.fakes:get_suite", load_fake_policy, (log if log is not None else []).append)


def small_config(output: Path, **changes: Any) -> TrainConfig:
    """A run of a few seconds; keys with `algo_` go to the algorithm."""
    algo: dict[str, Any] = {
        "reward": "binary",
        "group_size": 4,
        "groups_per_iteration": 6,
        "minibatch_size": 32,
        "learning_rate": 0.02,
        "warmup_iterations": 2,
    }
    algo |= {key.removeprefix("algo_"): value for key, value in changes.items() if key.startswith("algo_")}
    settings: dict[str, Any] = {
        "suite": "fake",
        "policy": "weak",
        "output": str(output),
        "encoder": "pixels",
        "iterations": 4,
        "evaluate_every": 2,
        "evaluation_episodes_per_task": 4,
        "checkpoint_every": 100,
        "num_workers": 0,
        "num_slots": 8,
        "device": "cpu",
        "threads": 1,
    }
    settings |= {key: value for key, value in changes.items() if not key.startswith("algo_")}
    return TrainConfig(algo=AlgoConfig(**algo), **settings)


def resumable_config(output: Path, reward: str, resume: bool = False) -> TrainConfig:
    """The run that is killed and resumed: several epochs, reference policy, critic, a checkpoint every 2 iterations."""
    return small_config(
        output,
        iterations=6,
        resume=resume,
        checkpoint_every=2,
        algo_reward="success_bank",
        algo_settings={"success_bank": {"reward": reward, "capacity": 3, "age": 2}},
        algo_advantage="critic",
        algo_kl_coefficient=0.01,
        algo_update_epochs=2,
    )


def random_generator() -> np.random.Generator:
    return np.random.default_rng(0)


def training_parts(
    algo: AlgoConfig | None = None, policy: TrainableFakePolicy | None = None, **parts: Any
) -> TrainingParts:
    """What a method may be made of; its judge or reference is a copy of the weak policy."""
    defaults = {
        "trainable": lambda source: load_fake_policy(source, "cpu"),
        "start": "weak",
        "horizons": dict.fromkeys(range(3), HORIZON),
    }
    return TrainingParts(algo or AlgoConfig(), policy or TrainableFakePolicy(), **(defaults | parts))


def estimator(parts: TrainingParts | None = None, **algo: Any) -> AdvantageEstimator:
    """The estimator that an algorithm names."""
    return make_estimator(parts or training_parts(AlgoConfig(**algo)))


def reward(name: str, embedding: RolloutEmbedding | None = None, demonstrations: Any = None, **settings: Any) -> Reward:
    """A reward by name, with its settings."""
    return make_reward(name, RewardParts(embedding, demonstrations or {}, {name: settings}))
