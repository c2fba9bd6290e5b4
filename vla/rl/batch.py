"""Rollouts of one iteration, reduced to what the update needs, and the decisions (samples) they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.protocol import PolicySpec, TrainablePolicy
from vla.rl.advantages import LengthNormalisation, length_weights
from vla.rollout.observations import observations_at
from vla.rollout.pool_rollouts import decision_indices


@dataclass
class Rollout:
    """One rollout of D decisions, without its frames."""

    task_id: int
    success: bool
    record: dict[str, Any]
    """Its line of `episodes.jsonl`."""
    decisions: NDArray[Any]  # [D, ...] which only the policy opens
    log_probs: NDArray[np.float32]  # [D, U] of their units, under the policy that sampled them
    executed: NDArray[np.bool_]  # [D, U]
    states: NDArray[np.float32]  # [D, S] proprioception at each decision
    elapsed: NDArray[np.int64]  # [D] control steps before each decision
    features: NDArray[np.float32] | None  # [D, F] what each decision was made from
    inputs: Any = field(repr=False)
    """What the policy saw at each decision, prepared; None once the rollout can teach nothing."""
    lead_steps: int = 0
    """Control steps of a demonstration that it went on from."""

    def features_for(self, setting: str) -> NDArray[np.float32]:
        """The features. Raises `ReflexError` naming the setting that asks for them when the policy gives none."""
        if self.features is None:
            raise ReflexError(f"{setting} needs a policy that gives its features (`PolicyOutput.features`)")
        return self.features

    @classmethod
    def from_episode(cls, episode: Episode, policy: TrainablePolicy) -> Rollout:
        """Keep what the update needs. Raises `ValueError` when the episode has no decisions or log-probabilities."""
        if episode.decisions is None or episode.log_probs is None:
            raise ValueError("a rollout without decisions and log-probabilities cannot be trained on")
        kept = decision_indices(episode, policy.spec.execute_steps)
        inputs = episode.inputs if episode.inputs is not None else policy.prepare(observations_at(episode, kept))
        return cls(
            task_id=episode.task_id,
            success=episode.success,
            record=episode.record(),
            decisions=episode.decisions,
            log_probs=episode.log_probs,
            executed=executed_units(episode.length, len(episode.decisions), policy.spec),
            states=episode.states[kept],
            elapsed=episode.observation_steps[kept],
            features=episode.features,
            inputs=inputs,
        )


@dataclass
class Batch:
    """The rollouts of one iteration, groups in a row."""

    rollouts: list[Rollout] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    """[D] one for each rollout."""
    groups: list[int] = field(default_factory=list)
    """Group of each rollout, numbered from 0 in order of sampling."""
    rewards: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    advantages: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """[N] means over decisions, where these differ."""
    decision_advantages: Sequence[NDArray[np.float32] | np.float32] = ()
    """[N] each one number or one for each decision [D]."""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def successes(self) -> NDArray[np.bool_]:
        """[N]"""
        return np.array([rollout.success for rollout in self.rollouts], dtype=bool)

    @property
    def task_ids(self) -> NDArray[np.int64]:
        """[N]"""
        return np.array([rollout.task_id for rollout in self.rollouts], dtype=np.int64)


def executed_units(length: int, decisions: int, spec: PolicySpec) -> NDArray[np.bool_]:
    """[D, U] which units of the decisions of an episode of `length` steps count: those whose step was executed.

    The rest (planned beyond `execute_steps`, or after success ended the episode) had no influence on the outcome.
    """
    steps = np.clip(length - np.arange(decisions) * spec.execute_steps, 0, spec.execute_steps)
    return np.asarray(np.array(spec.unit_steps)[None, :] < steps[:, None])


@dataclass(frozen=True)
class Samples:
    """S decisions to learn from."""

    inputs: Any  # S prepared inputs
    decisions: torch.Tensor  # [S, ...]
    old_log_probs: torch.Tensor  # [S, U]
    executed: torch.Tensor  # [S, U] bool
    advantages: torch.Tensor  # [S]
    weights: torch.Tensor  # [S] what one unit counts

    def __len__(self) -> int:
        return len(self.decisions)

    def __getitem__(self, index: torch.Tensor) -> Samples:
        return Samples(
            self.inputs[index],
            self.decisions[index],
            self.old_log_probs[index],
            self.executed[index],
            self.advantages[index],
            self.weights[index],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Samples]) -> Samples:
        """Join one or more."""
        names = ("decisions", "old_log_probs", "executed", "advantages", "weights")
        inputs = type(parts[0].inputs).concatenate([part.inputs for part in parts])
        return cls(inputs, *(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def to(self, device: torch.device) -> Samples:
        """Copy to a device; the inputs stay where they are, the policy moves them itself."""
        moved = (self.decisions, self.old_log_probs, self.executed, self.advantages, self.weights)
        return Samples(self.inputs, *(tensor.to(device) for tensor in moved))


def build_samples(
    rollouts: Sequence[Rollout],
    advantages: Sequence[ArrayLike],
    normalisation: LengthNormalisation,
    max_samples: int | None,
    generator: np.random.Generator,
) -> Samples | None:
    """All decisions of the rollouts with an advantage; at most `max_samples`, drawn with `generator`.

    `advantages` has one number or one for each decision [D], for each rollout. None when all are 0.
    """
    chosen = [index for index in range(len(rollouts)) if np.any(advantages[index])]
    if not chosen:
        return None
    used = [rollouts[index] for index in chosen]
    counts = [len(rollout.decisions) for rollout in used]
    unit_counts = [int(rollout.executed.sum()) for rollout in used]
    samples = Samples(
        inputs=type(used[0].inputs).concatenate([rollout.inputs for rollout in used]),
        decisions=torch.from_numpy(np.concatenate([rollout.decisions for rollout in used])),
        old_log_probs=torch.from_numpy(np.concatenate([rollout.log_probs for rollout in used])),
        executed=torch.from_numpy(np.concatenate([rollout.executed for rollout in used])),
        advantages=torch.from_numpy(
            np.concatenate(
                [
                    np.broadcast_to(np.asarray(advantages[index], dtype=np.float32), count)
                    for index, count in zip(chosen, counts, strict=True)
                ]
            )
        ),
        weights=torch.from_numpy(np.repeat(length_weights(unit_counts, normalisation), counts)),
    )
    if max_samples is not None and len(samples) > max_samples:
        drawn = np.sort(generator.choice(len(samples), max_samples, replace=False))
        return samples[torch.from_numpy(drawn)]
    return samples
