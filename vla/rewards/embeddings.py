"""What a reward sees of a rollout: one vector, from the rollout's own observations alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.protocol import TrainablePolicy
from vla.rollout.observations import observations_at
from world_models.encoders.base import VideoEncoder, sample_frames

LAST_MOMENTS = 2
"""Moments at a rollout's end that are averaged apart from all."""


class RolloutEmbedding(Protocol):
    """Rollouts in, one embedding for each out."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D], each row from its own rollout alone."""

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D] of rollouts that stay where these began."""


class FrameEmbedding:
    """A video encoder on evenly spaced frames of the embodiment's first camera."""

    def __init__(self, encoder: VideoEncoder, max_frames: int = 16) -> None:
        """At most `max_frames` frames of a rollout are embedded, the first and the last always among them."""
        self._encoder, self._max_frames = encoder, max_frames

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D]. Raises `world_models.errors.WorldModelError` when the encoder cannot embed a clip."""
        return self._encoder.encode([rollout_clip(episode, self._max_frames) for episode in episodes])

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D] of clips of each rollout's first frame alone."""
        clips = [rollout_clip(episode, self._max_frames) for episode in episodes]
        return self._encoder.encode([np.repeat(clip[:1], len(clip), axis=0) for clip in clips])


class PolicyEmbedding:
    """What a policy, which is not trained meanwhile, makes of pictures, state and instruction before it acts.

    The mean over evenly spaced moments beside that over the last two: what was done, and how it ended. The policy
    knows the instruction, so the same movement with the wrong object looks different to it.
    """

    def __init__(self, policy: TrainablePolicy, max_moments: int = 16, shares_vision: bool = False) -> None:
        """`shares_vision`: the policy that plays the rollouts sees as this one does, so what it kept is used again."""
        self._policy, self._max_moments, self._shares_vision = policy, max_moments, shares_vision

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 2 D], D the policy's width."""
        return self._means([self._inputs(episode) for episode in episodes])

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 2 D]"""
        return self._means([self._policy.prepare(observations_at(episode, np.array([0]))) for episode in episodes])

    def _inputs(self, episode: Episode) -> Any:
        if not self._shares_vision or episode.inputs is None:
            return self._policy.prepare(observations_at(episode, _moments(episode, self._max_moments)))
        last = self._policy.prepare(observations_at(episode, np.array([len(episode.observation_steps) - 1])))
        seen = type(last).concatenate([episode.inputs, self._policy.encode_vision(last)])
        return seen[torch.from_numpy(sample_frames(len(seen), min(len(seen), self._max_moments)))]

    def _means(self, inputs: Sequence[Any]) -> NDArray[np.float32]:
        features = self._policy.features_from_inputs(type(inputs[0]).concatenate(inputs))
        edges = np.cumsum([0, *map(len, inputs)]).tolist()
        rows = [features[first:last] for first, last in pairwise(edges)]
        return np.stack([np.concatenate([row.mean(axis=0), row[-LAST_MOMENTS:].mean(axis=0)]) for row in rows])


class ProprioceptionEmbedding:
    """The robot's own state at evenly spaced moments, side by side: where the arm went, and nothing of the scene."""

    def __init__(self, moments: int) -> None:
        self._moments = moments

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, S * moments]"""
        return np.stack([self._states(episode).ravel() for episode in episodes])

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """The first state, held."""
        return np.stack([np.tile(episode.states[0], self._moments) for episode in episodes])

    def _states(self, episode: Episode) -> NDArray[np.float32]:
        states: NDArray[np.float32] = episode.states[sample_frames(len(episode.states), self._moments)]
        return states


class TrueProgressEmbedding:
    """The simulator's own progress at the end: the best that could be known of a failure, to compare with."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 1] in [0, 1]; 1 for a success."""
        ends = [1.0 if episode.success else float(episode.progress[-1]) for episode in episodes]
        return np.array(ends, dtype=np.float32)[:, None]

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 1] of 0: nothing has been done."""
        return np.zeros((len(episodes), 1), dtype=np.float32)


WITHOUT_PICTURES: dict[str, Callable[[int], RolloutEmbedding]] = {
    "proprioception": ProprioceptionEmbedding,
    "true_progress": lambda moments: TrueProgressEmbedding(),
}
"""Encoder name -> its embedding of so many moments; there is no encoder to load."""


def rollout_clip(episode: Episode, max_frames: int) -> NDArray[np.uint8]:
    """The frames [T, H, W, 3] of one rollout that an encoder sees, 2 <= T <= max_frames, in an own array.

    They are those of the first of the embodiment's cameras: the one that looks on, where there is one. Raises
    `ReflexError` for an embodiment without.

    A rollout with a single frame holds it: a clip of one frame has no motion to encode.
    """
    if not episode.embodiment.cameras:
        raise ReflexError(
            f"{episode.embodiment.name} has no camera, so that an encoder of pictures has nothing to look at; set "
            "encoder=proprioception"
        )
    frames = episode.images[episode.embodiment.cameras[0].name]
    clip: NDArray[np.uint8] = frames[_moments(episode, max_frames)]
    return clip


def thinned(episode: Episode, stride: int) -> Episode:
    """The episode with the observations of every `stride`-th moment and the last: a demonstration seen as a rollout."""
    last = len(episode.observation_steps) - 1
    kept = sorted({*range(0, last, stride), last})
    return replace(with_observations(episode, np.array(kept)), observation_steps=episode.observation_steps[kept])


def with_observations(episode: Episode, rows: NDArray[np.int64]) -> Episode:
    """The episode with what was observed at `rows` [n] in the place of what was; the moments stay those it had."""
    return replace(
        episode,
        images={camera: frames[rows] for camera, frames in episode.images.items()},
        states=episode.states[rows],
        instructions=None if episode.instructions is None else tuple(episode.instructions_at(rows)),
    )


def _moments(episode: Episode, count: int) -> NDArray[np.int64]:
    """At most `count` evenly spaced moments, and at least 2."""
    kept = len(episode.observation_steps)
    return sample_frames(kept, min(max(kept, 2), count))
