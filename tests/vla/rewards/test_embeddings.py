"""What a reward sees of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sim.contract import ObservationBatch
from tests.vla.policies.helpers import small_policy
from tests.vla.rl.helpers import TrainableFakePolicy
from tests.vla.rl.test_collection import episode_of
from vla.data.episode import Episode
from vla.rewards.embeddings import PolicyEmbedding, thinned
from vla.rollout.observations import observations_at


@dataclass(frozen=True)
class Pictures:
    """Prepared inputs: brightness and length of the instruction."""

    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: torch.Tensor | slice) -> Pictures:
        return Pictures(self.values[index])

    @classmethod
    def concatenate(cls, parts: Sequence[Pictures]) -> Pictures:
        return cls(torch.cat([part.values for part in parts]))


class Brightness(TrainableFakePolicy):
    """Its features are its pictures' brightness and its instruction's length."""

    def prepare(self, observations: ObservationBatch) -> Any:
        light = observations["images"]["image"].reshape(len(observations["instruction"]), -1).mean(axis=1)
        words = [len(text) for text in observations["instruction"]]
        return Pictures(torch.tensor(np.stack([light, words], axis=1)))

    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        return inputs.values.float().numpy()


def bright(*values: int) -> Episode:
    return episode_of(np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8))


def test_a_policy_embedding_is_the_mean_over_all_moments_and_over_the_last_two():
    embedding = PolicyEmbedding(Brightness())
    rows = embedding.embed([bright(0, 10, 20, 40), bright(8, 8)])
    assert rows.tolist() == [[17.5, 0.0, 30.0, 0.0], [8.0, 0.0, 8.0, 0.0]]
    assert embedding.embed_starts([bright(4, 10, 20)]).tolist() == [[4.0, 0.0, 4.0, 0.0]]


def test_long_rollouts_are_seen_at_evenly_spaced_moments():
    (row,) = PolicyEmbedding(Brightness(), max_moments=3).embed([bright(*range(0, 90, 10))])
    assert row.tolist() == [40.0, 0.0, 60.0, 0.0]  # moments 0, 40, 80


def test_a_row_belongs_to_its_own_rollout():
    generator = np.random.default_rng(0)
    episodes = [episode_of(generator.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)) for count in (2, 5, 3)]
    embedding = PolicyEmbedding(small_policy(), max_moments=4)
    together = embedding.embed(episodes)
    assert together.shape == (3, 32)
    for row, episode in zip(together, episodes, strict=True):
        assert row == pytest.approx(embedding.embed([episode])[0], abs=1e-5)
    assert np.ptp(together, axis=0).max() > 1e-3


def test_thinning_keeps_the_observations_of_a_rollout():
    episode = thinned(bright(*range(20)), 8)
    assert episode.observation_steps.tolist() == [0, 8, 16, 19]
    assert episode.images["image"][:, 0, 0, 0].tolist() == [0, 8, 16, 19]
    assert len(episode.states) == len(episode.images["wrist_image"]) == 4
    assert episode.length == 20
    assert thinned(bright(1), 8).observation_steps.tolist() == [0]


def test_what_the_playing_policy_kept_is_used_again_where_vision_is_shared():
    """Decisions at three moments were kept as brighter than their pictures; the last picture is looked at anew."""
    episode = replace(bright(10, 20, 30, 40), inputs=Pictures(torch.tensor([[110.0, 0], [120, 0], [130, 0]])))
    shared = PolicyEmbedding(Brightness(), shares_vision=True).embed([episode])
    assert shared.tolist() == [[100.0, 0.0, 85.0, 0.0]]
    assert PolicyEmbedding(Brightness()).embed([episode]).tolist() == [[25.0, 0.0, 35.0, 0.0]]


def test_kept_inputs_give_the_features_of_the_pictures():
    policy = small_policy()
    policy.freeze_vision()
    generator = np.random.default_rng(1)
    episode = episode_of(generator.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
    kept = policy.act(observations_at(episode, np.arange(3))).inputs
    assert kept.images.dim() == 3
    shared = PolicyEmbedding(policy, shares_vision=True).embed([replace(episode, inputs=kept)])
    assert shared == pytest.approx(PolicyEmbedding(policy).embed([episode]), abs=1e-5)
