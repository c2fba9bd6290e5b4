"""Training samples from demonstrations: the observation at step t and the next H actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.prismatic import PrismaticPolicy
from vla.policies.processing_prismatic import ModelInputs


class SampleSource(Protocol):
    """An indexable set of (observation, action tokens) pairs from which minibatches are drawn."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64]) -> tuple[ModelInputs, torch.Tensor]:
        """Inputs and tokens [B, K] of the samples `indices` [B]."""

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """[N] what each sample counts, of mean 1; None when all count the same."""


def chunk_targets(
    actions: NDArray[np.float32], horizon: int, steps: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Actions [T, A] -> for each step t (all, or those in `steps`) the actions t .. t + H - 1, [N, H, A].

    Past the end the last action repeats.
    """
    starts = np.arange(len(actions)) if steps is None else np.asarray(steps)
    indices = np.minimum(starts[:, None] + np.arange(horizon), len(actions) - 1)
    targets: NDArray[np.float32] = actions[indices]
    return targets


def quantiles(values: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """1 % and 99 % quantiles over the first axis."""
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return low.astype(np.float32), high.astype(np.float32)


def set_normalisation_from_episodes(policy: PrismaticPolicy, episodes: Sequence[Episode]) -> None:
    """Give the policy the quantiles of these episodes' actions and states."""
    action_low, action_high = quantiles(np.concatenate([episode.actions for episode in episodes]))
    state_low, state_high = quantiles(np.concatenate([episode.states for episode in episodes]))
    size = policy.config.state_size
    policy.set_normalisation(action_low, action_high, state_low[:size], state_high[:size])


class EpisodeSamples:
    """Every kept observation of every episode before its last action; frames are read from the episodes, not copied."""

    def __init__(
        self, policy: PrismaticPolicy, episodes: Sequence[Episode], weights: NDArray[np.float32] | None = None
    ) -> None:
        """`weights` [N] says what each sample counts (`vla.imitation.weighting`); None for all the same."""
        self.weights = weights
        if not episodes:
            raise ReflexError("no demonstrations to train on; check the dataset and the chosen tasks")
        self._policy = policy
        self._episodes = list(episodes)
        horizon = policy.config.chunk_horizon
        episode_index, observation_index, tokens = [], [], []
        for number, episode in enumerate(self._episodes):
            kept = np.flatnonzero(episode.observation_steps < episode.length)
            targets = chunk_targets(episode.actions, horizon, episode.observation_steps[kept])
            episode_index.append(np.full(len(kept), number, np.int64))
            observation_index.append(kept)
            tokens.append(policy.tokenize_actions(targets).astype(np.int16))
        self._episode_index = np.concatenate(episode_index)
        self._observation_index = np.concatenate(observation_index)
        self._tokens = np.concatenate(tokens)
        if weights is not None and len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} samples")
        if not len(self):
            raise ReflexError("the demonstrations hold no observation before their last action; nothing to train on")

    def __len__(self) -> int:
        return len(self._episode_index)

    def batch(self, indices: NDArray[np.int64]) -> tuple[ModelInputs, torch.Tensor]:
        """Inputs and tokens [B, K] of the samples `indices` [B]."""
        rows = [(self._episodes[self._episode_index[i]], self._observation_index[i]) for i in indices]
        observations = ObservationBatch(
            image=np.stack([episode.images[row] for episode, row in rows]),
            wrist_image=np.stack([episode.wrist_images[row] for episode, row in rows]),
            state=np.stack([episode.states[row] for episode, row in rows]),
            instruction=[episode.instruction for episode, _ in rows],
        )
        return self._policy.prepare(observations), torch.from_numpy(self._tokens[indices].astype(np.int64))


class ArraySamples:
    """Samples already in arrays, for sets too large for one record per episode. Minibatches index them; no copies."""

    def __init__(
        self,
        policy: PrismaticPolicy,
        images: NDArray[np.uint8],
        wrist_images: NDArray[np.uint8],
        states: NDArray[np.float32],
        instructions: Sequence[str],
        instruction_index: NDArray[np.int64],
        action_chunks: NDArray[np.float32],
    ) -> None:
        """Frames [N, S, S, 3], states [N, 8], `instructions[instruction_index[n]]`, action chunks [N, H, 7]."""
        self.weights: NDArray[np.float32] | None = None
        lengths = {len(images), len(wrist_images), len(states), len(instruction_index), len(action_chunks)}
        if len(lengths) != 1 or 0 in lengths:
            raise ReflexError(f"sample arrays must have one equal, positive length; got {sorted(lengths)}")
        self._policy = policy
        self._images, self._wrist_images, self._states = images, wrist_images, states
        self._instructions = list(instructions)
        self._instruction_index = instruction_index
        parts = np.array_split(action_chunks, len(action_chunks) // 65536 + 1)  # bounds the float64 temporaries
        self._tokens = np.concatenate([policy.tokenize_actions(part).astype(np.int16) for part in parts])

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: NDArray[np.int64]) -> tuple[ModelInputs, torch.Tensor]:
        """Inputs and tokens [B, K] of the samples `indices` [B]."""
        observations = ObservationBatch(
            image=self._images[indices],
            wrist_image=self._wrist_images[indices],
            state=self._states[indices],
            instruction=[self._instructions[i] for i in self._instruction_index[indices]],
        )
        return self._policy.prepare(observations), torch.from_numpy(self._tokens[indices].astype(np.int64))
