"""Successes learnt from again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.rl.helpers import FakeInputs, TrainableFakePolicy
from tests.vla.rl.test_implicit_reward import rollout
from vla.errors import ReflexError
from vla.rl.config import AlgoConfig
from vla.rl.replay import FILE, Replay, forgotten

ALGO = AlgoConfig(temperature=1.0, token_noise=0.0)


def test_what_became_less_likely_but_not_foreign_is_forgotten():
    then = np.log(np.full((4, 2), 0.1))
    now = np.log(np.array([[0.1, 0.1], [0.08, 0.08], [0.02, 0.02], [0.01, 0.08]]))
    executed = np.array([[True, True], [True, True], [True, True], [False, True]])
    # Ratios 1, 0.8, 0.2; the last counts its second token only: 0.8.
    assert forgotten(now, then, executed).tolist() == [False, True, False, True]
    assert not forgotten(now[1:2], then[1:2], np.zeros((1, 2), dtype=bool)).any()


def test_the_newest_successes_are_kept_and_survive_a_checkpoint(tmp_path: Path):
    replay = Replay(capacity=2)
    replay.add([rollout(True, 1.0), rollout(False, 1.0), rollout(True, 0.5)])
    dropped = rollout(True, 0.25)
    dropped.inputs = None
    replay.add([dropped, rollout(True, -0.5)])
    assert len(replay) == 2
    replay.save(tmp_path)
    again = Replay(capacity=2)
    again.load(tmp_path)
    policy = TrainableFakePolicy()
    drawn = [source.samples(policy, FakeInputs, ALGO, np.random.default_rng(1)) for source in (replay, again)]
    assert (drawn[0] is None) == (drawn[1] is None)
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(ReflexError, match=FILE):
        again.load(tmp_path)


def test_forgotten_decisions_are_samples_of_advantage_one_and_ratio_one():
    policy, success = TrainableFakePolicy(), rollout(True, 0.5)
    with torch.no_grad():
        now, _ = policy.log_prob_from_inputs(success.inputs, torch.from_numpy(success.tokens))
    # The first decision is 0.8 times as likely as it was, the second as likely as it was.
    success.log_probs = (now - torch.tensor([[math.log(0.8)], [0.0]])).numpy()
    replay = Replay(capacity=1)
    replay.add([success])
    samples = replay.samples(policy, FakeInputs, ALGO, np.random.default_rng(0))
    assert samples is not None and len(samples) == 1
    assert samples.advantages.tolist() == [1.0]
    torch.testing.assert_close(samples.old_log_probs, now[:1])
    assert samples.tokens.tolist() == success.tokens[:1].tolist()
    success.log_probs = now.numpy()
    kept = Replay(capacity=1)
    kept.add([success])
    assert kept.samples(policy, FakeInputs, ALGO, np.random.default_rng(0)) is None, "nothing was forgotten"
    assert Replay(capacity=1).samples(policy, FakeInputs, ALGO, np.random.default_rng(0)) is None
