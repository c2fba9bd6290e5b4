"""Training samples from demonstrations: the observation at step t and the next H actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.episode import Episode
from vla.data.feature_map import SAME_NAMES, infer
from vla.data.images import resize_into
from vla.errors import ReflexError
from vla.policies.connect import what_it_needs
from vla.policies.normalisation import ScaleFrom
from vla.policies.protocol import TrainablePolicy


class SampleSource(Protocol):
    """An indexable set of (observation, chunk of actions) pairs from which minibatches are drawn."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64]) -> tuple[Any, NDArray[np.float32]]:
        """The policy's inputs and the actions [B, H, A] of the samples `indices` [B]."""

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


def actions_for(policy: TrainablePolicy, episode: Episode) -> NDArray[np.float32]:
    """The actions of an episode [T, A], in the policy's order. Raises `ReflexError` for one that it lacks."""
    return policy.feature_map.actions_for(policy.spec.embodiment, episode.embodiment, episode.actions)


def states_for(policy: TrainablePolicy, episode: Episode, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """The states [n, S] at some observations, or at all, in the policy's order; as they are where it ignores them."""
    states = episode.states if rows is None else episode.states[rows]
    if not policy.spec.uses_state:
        return states
    return policy.feature_map.states_for(policy.spec.embodiment, episode.embodiment, states)


def observations_for(policy: TrainablePolicy, episode: Episode, rows: NDArray[np.int64]) -> ObservationBatch:
    """Kept observations [n] of an episode as the policy takes them."""
    return ObservationBatch(
        images={camera: episode.images[camera][rows] for camera in cameras_for(policy)},
        state=states_for(policy, episode, rows),
        instruction=episode.instructions_at(rows),
    )


def cameras_for(policy: TrainablePolicy) -> list[str]:
    """The episodes' names of the policy's cameras."""
    return [policy.feature_map.camera(name) for name in policy.spec.embodiment.camera_names]


def fit_normalisation(policy: TrainablePolicy, episodes: Sequence[Episode], scale: ScaleFrom = "quantiles") -> None:
    """Give the policy the scale of these episodes' actions and states."""
    policy.fit_normalisation(
        np.concatenate([actions_for(policy, episode) for episode in episodes]),
        np.concatenate([states_for(policy, episode) for episode in episodes]),
        scale,
    )


class EpisodeSamples:
    """Every kept observation of every episode before its last action; frames are read from the episodes, not copied."""

    def __init__(
        self, policy: TrainablePolicy, episodes: Sequence[Episode], weights: NDArray[np.float32] | None = None
    ) -> None:
        """`weights` [N] says what each sample counts (`vla.imitation.weighting`); None for all the same.

        A policy that nobody told what the episodes call its cameras and numbers gets the feature map that fits.
        Raises `ReflexError` when there is nothing to train on, or an action is not finite.
        """
        self.weights = weights
        if not episodes:
            raise ReflexError("no demonstrations to train on; check the dataset and the chosen tasks")
        if policy.feature_map == SAME_NAMES:
            policy.feature_map = infer(what_it_needs(policy.spec), episodes[0].embodiment)
        self._policy = policy
        self._episodes = list(episodes)
        self._horizon = policy.spec.chunk_horizon
        self._cameras = cameras_for(policy)
        self._actions = [actions_for(policy, episode) for episode in self._episodes]
        kept = [np.flatnonzero(episode.observation_steps < episode.length) for episode in self._episodes]
        self._episode_index = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])
        self._observation_index = np.concatenate(kept)
        if weights is not None and len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} samples")
        if not len(self):
            raise ReflexError("the demonstrations hold no observation before their last action; nothing to train on")
        for number, actions in enumerate(self._actions):
            if not np.isfinite(actions).all():
                raise ReflexError(f"demonstration {number} (from 0) has actions that are NaN or infinite")

    def __len__(self) -> int:
        return len(self._episode_index)

    def batch(self, indices: NDArray[np.int64]) -> tuple[Any, NDArray[np.float32]]:
        """The policy's inputs and the actions [B, H, A] of the samples `indices` [B]."""
        numbers, moments = self._episode_index[indices].tolist(), self._observation_index[indices]
        rows = [(self._episodes[number], row) for number, row in zip(numbers, moments.tolist(), strict=True)]
        observations = ObservationBatch(
            images={
                camera: _stacked([episode.images[camera][row] for episode, row in rows]) for camera in self._cameras
            },
            state=np.concatenate([states_for(self._policy, episode, np.array([row])) for episode, row in rows]),
            instruction=[episode.instructions_at(np.array([row]))[0] for episode, row in rows],
        )
        actions = [
            chunk_targets(self._actions[number], self._horizon, episode.observation_steps[row : row + 1])
            for number, (episode, row) in zip(numbers, rows, strict=True)
        ]
        return self._policy.prepare(observations), np.concatenate(actions)


def _stacked(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """[B, H, W, 3]; episodes of several datasets may have pictures of several sizes, which are made the largest."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    stacked = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, target in zip(frames, stacked, strict=True):
        resize_into(frame, target)
    return stacked


class ArraySamples:
    """Samples already in arrays, for sets too large for one record per episode. Minibatches index them; no copies."""

    def __init__(
        self,
        policy: TrainablePolicy,
        images: Mapping[str, NDArray[np.uint8]],
        states: NDArray[np.float32],
        instructions: Sequence[str],
        instruction_index: NDArray[np.int64],
        action_chunks: NDArray[np.float32],
    ) -> None:
        """Frames [N, H, W, 3] by camera, states [N, S], `instructions[instruction_index[n]]`, chunks [N, H, A]."""
        self.weights: NDArray[np.float32] | None = None
        lengths = {*map(len, images.values()), len(states), len(instruction_index), len(action_chunks)}
        if len(lengths) != 1 or 0 in lengths:
            raise ReflexError(f"sample arrays must have one equal, positive length; got {sorted(lengths)}")
        self._policy = policy
        self._images, self._states, self._chunks = images, states, action_chunks
        self._instructions = list(instructions)
        self._instruction_index = instruction_index

    def __len__(self) -> int:
        return len(self._states)

    def batch(self, indices: NDArray[np.int64]) -> tuple[Any, NDArray[np.float32]]:
        """The policy's inputs and the actions [B, H, A] of the samples `indices` [B]."""
        observations = ObservationBatch(
            images={camera: frames[indices] for camera, frames in self._images.items()},
            state=self._states[indices],
            instruction=[self._instructions[i] for i in self._instruction_index[indices]],
        )
        return self._policy.prepare(observations), self._chunks[indices]
