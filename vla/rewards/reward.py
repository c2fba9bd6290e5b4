"""What a reward is: rollouts are embedded as they end, and scored together. GRPO and SRPO differ in nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rewards.embeddings import RolloutEmbedding
from vla.run.plugins import Part, load_class, settings_of

SHIPPED = ("vla.rewards.binary", "vla.rewards.srpo", "vla.rewards.fitted", "vla.rewards.variants")
"""Where rewards are found by name."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch and their telemetry."""

    rewards: Floats
    """[N] 1 for a success, less for a failure."""
    metrics: dict[str, float] = field(default_factory=dict)
    telling: Floats | None = None
    """[N] what says whether a group counts towards the groups that an update wants; None for the rewards."""


@dataclass(frozen=True)
class RewardParts:
    """What a reward may be made of."""

    embedding: RolloutEmbedding | None = None
    """What `encoder` names; None for a reward that looks at nothing."""
    demonstrations: Mapping[int, Sequence[Episode]] = field(default_factory=dict)
    """By task; they stand in for the successes that a task has not yet had."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of each reward by name, for one that is made of another."""


class Reward(Part, ABC):
    """A reward. Subclass it; what can be set is the dataclass `Settings`, one docstring a field."""

    looks_at_rollouts: ClassVar[bool] = True
    """Whether it needs an encoder."""
    compares_rollouts: ClassVar[bool] = True
    """Whether a rollout's reward depends on others."""

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        self.settings, self._parts = settings, parts

    @property
    def embedding(self) -> RolloutEmbedding:
        """What rollouts are embedded with. Raises `ReflexError` when the run has no encoder."""
        if self._parts.embedding is None:
            raise ReflexError(f"{type(self).__name__} looks at rollouts and was given no encoder; set encoder=")
        return self._parts.embedding

    def embed(self, episodes: Sequence[Episode]) -> Floats:
        """[n, D] one row for each rollout, from its own frames alone.

        Raises `world_models.errors.WorldModelError` when the encoder cannot embed a rollout.
        """
        return self.embedding.embed(episodes)

    @abstractmethod
    def score(
        self, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> Scores:
        """Rewards of a batch from embeddings [N, D], successes [N], tasks [N] and groups [N].

        Rollouts of one group began in the same initial state.
        """

    def learn(
        self, iteration: int, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> None:
        """Take in a batch that was scored."""


def reward_class(name: str, setting: str = "algo.reward") -> type[Reward]:
    """The reward called `name`. Raises `ReflexError` when there is none."""
    return load_class(name, Reward, SHIPPED, setting)


def make_reward(name: str, parts: RewardParts, prefix: str = "algo.settings") -> Reward:
    """The reward called `name`, with its own of `parts.settings`.

    Raises:
        ReflexError: there is none of that name, or a setting is wrong; `prefix` is what messages call the settings.
    """
    cls = reward_class(name)
    return cls(settings_of(cls, name, parts.settings, prefix), parts)


class WrappedReward(Reward):
    """A reward made of another: it changes what that sees, or what it says."""

    @dataclass(frozen=True)
    class Settings:
        """What is wrapped."""

        reward: str = "srpo"
        """The reward inside."""

    def __init__(self, settings: Any, parts: RewardParts) -> None:
        super().__init__(settings, parts)
        self.inner = make_reward(settings.reward, parts)

    def embed(self, episodes: Sequence[Episode]) -> Floats:
        """[n, D] as the reward inside has them."""
        return self.inner.embed(episodes)

    def learn(
        self, iteration: int, embeddings: Floats, successes: NDArray[np.bool_], task_ids: NDArray[np.int64]
    ) -> None:
        """The reward inside learns."""
        self.inner.learn(iteration, embeddings, successes, task_ids)

    def save(self, folder: Path) -> None:
        """Of the reward inside."""
        self.inner.save(folder)

    def load(self, folder: Path) -> None:
        """Of the reward inside."""
        self.inner.load(folder)


def failure_mean(rewards: Floats, successes: NDArray[np.bool_]) -> dict[str, float]:
    """The telemetry that rewards for failures share."""
    failures = rewards[~successes]
    return {"reward/failure_mean": float(failures.mean()) if failures.size else 0.0}
