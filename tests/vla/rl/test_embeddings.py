"""What a reward sees of a rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.contract import ObservationBatch
from tests.fakes import FakePolicy
from tests.vla.policies.helpers import small_policy
from tests.vla.rl.test_collection import episode_of
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.protocol import PolicyOutput
from vla.rl.embeddings import PolicyEmbedding, thinned


class Brightness(FakePolicy):
    """A policy whose features are its picture's brightness and its instruction's length."""

    def act(self, observations: ObservationBatch, *_: Any, **__: Any) -> PolicyOutput:
        light = observations["image"].reshape(len(observations["image"]), -1).mean(axis=1)
        features = np.stack([light, [len(text) for text in observations["instruction"]]], axis=1).astype(np.float32)
        nothing = np.zeros((len(light), 1))
        return PolicyOutput(nothing.astype(np.float32), nothing.astype(np.int64), nothing.astype(np.float32), features)


class Featureless(FakePolicy):
    def act(self, observations: ObservationBatch, *_: Any, **__: Any) -> PolicyOutput:
        return replace(Brightness().act(observations), features=None)


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
    assert episode.images[:, 0, 0, 0].tolist() == [0, 8, 16, 19]
    assert len(episode.states) == len(episode.wrist_images) == 4
    assert episode.length == 20
    assert thinned(bright(1), 8).observation_steps.tolist() == [0]


def test_a_policy_without_features_is_refused():
    with pytest.raises(ReflexError, match="encoder=policy needs a policy that gives its features"):
        PolicyEmbedding(Featureless()).embed([bright(1, 2)])
