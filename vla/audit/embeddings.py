"""What a reward sees of a rollout: an encoder's embedding of its frames, or something simpler to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from vla.data.episode import Episode
from vla.policies.prismatic import PrismaticPolicy
from vla.rl.rewards import rollout_clip
from world_models.encoders.base import VideoEncoder, sample_frames

CONTROLS = ("proprioception", "time")
"""Names of those that see no picture. A reward on pictures that is no better needs no pictures."""


class RolloutEmbedding(Protocol):
    """Rollouts in, one embedding for each out."""

    name: str

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D], each row from its own rollout alone."""

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, D] of rollouts that stay where these began."""


class FrameEmbedding:
    """A video encoder on evenly spaced third-person frames, as the rewards in training use it."""

    def __init__(self, name: str, encoder: VideoEncoder, max_frames: int) -> None:
        self.name = name
        self._encoder, self._max_frames = encoder, max_frames

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """See `RolloutEmbedding.embed`. Raises `WorldModelError` when the encoder cannot embed a clip."""
        return self._encoder.encode([rollout_clip(episode, self._max_frames) for episode in episodes])

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """See `RolloutEmbedding.embed_starts`."""
        clips = [rollout_clip(episode, self._max_frames) for episode in episodes]
        return self._encoder.encode([np.repeat(clip[:1], len(clip), axis=0) for clip in clips])


class PolicyEmbedding:
    """What a policy makes of pictures, state and instruction just before it chooses actions; nothing to be trained.

    The mean over evenly spaced moments beside that over the last ones: what was done, and how it ended.
    """

    name = "policy"
    last_moments = 2

    def __init__(self, policy: PrismaticPolicy, moments: int) -> None:
        self._policy, self._moments = policy, moments

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 2 * width of the policy's language model]"""
        return np.stack(
            [self._embed(episode, sample_frames(len(episode.states), self._moments)) for episode in episodes]
        )

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """See `RolloutEmbedding.embed_starts`."""
        return np.stack([self._embed(episode, np.array([0])) for episode in episodes])

    @torch.inference_mode()
    def _embed(self, episode: Episode, moments: NDArray[np.int64]) -> NDArray[np.float32]:
        observations = ObservationBatch(
            image=episode.images[moments],
            wrist_image=episode.wrist_images[moments],
            state=episode.states[moments],
            instruction=[episode.instruction] * len(moments),
        )
        hidden = self._policy.forward_features(self._policy.prepare(observations)).action_hidden.mean(dim=1)
        rows: NDArray[np.float32] = hidden.float().cpu().numpy()
        return np.concatenate([rows.mean(axis=0), rows[-self.last_moments :].mean(axis=0)])


class ProprioceptionEmbedding:
    """The robot's own state at evenly spaced moments, side by side: where the arm went, and nothing of the scene."""

    name = "proprioception"

    def __init__(self, moments: int) -> None:
        self._moments = moments

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 8 * moments]"""
        return np.stack([self._states(episode).ravel() for episode in episodes])

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """The first state, held."""
        return np.stack([np.tile(episode.states[0], self._moments) for episode in episodes])

    def _states(self, episode: Episode) -> NDArray[np.float32]:
        states: NDArray[np.float32] = episode.states[sample_frames(len(episode.states), self._moments)]
        return states


class TimeEmbedding:
    """The number of control steps. It tells successes from failures, since those run to the end, and nothing else."""

    name = "time"

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """[n, 1]"""
        return np.array([[episode.length] for episode in episodes], dtype=np.float32)

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        """The same: time passes where nothing moves."""
        return self.embed(episodes)
