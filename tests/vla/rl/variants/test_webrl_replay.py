"""Successes learnt from again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.rl.helpers import PLAIN, FakeInputs, TrainableFakePolicy, training_parts
from tests.vla.rl.variants.test_oprl import rollout
from vla.errors import ReflexError
from vla.policies.sampling import Sampling
from vla.rl.batch import Rollout, Samples
from vla.rl.config import AlgoConfig
from vla.rl.variants.webrl_replay import FILE, WebrlReplay, forgotten

ALGO = AlgoConfig(variants=["webrl_replay"], sampling=Sampling(temperature=1.0, token_noise=0.0))


def test_what_became_less_likely_but_not_foreign_is_forgotten():
    then = np.log(np.full((4, 2), 0.1))
    now = np.log(np.array([[0.1, 0.1], [0.08, 0.08], [0.02, 0.02], [0.01, 0.08]]))
    executed = np.array([[True, True], [True, True], [True, True], [False, True]])
    # Ratios 1, 0.8, 0.2; the last counts its second token only: 0.8.
    assert forgotten(now, then, executed).tolist() == [False, True, False, True]
    assert not forgotten(now[1:2], then[1:2], np.zeros((1, 2), dtype=bool)).any()


def make_replay(capacity: int, policy: TrainableFakePolicy) -> WebrlReplay:
    return WebrlReplay(WebrlReplay.Settings(capacity), training_parts(ALGO, policy))


def more(replay: WebrlReplay, iteration: int = 0) -> Samples | None:
    """What it adds to samples of the fake policy's inputs."""
    one = torch.ones(1)
    nothing = FakeInputs(torch.zeros(1, 8), ("",))
    return replay.more_samples(Samples(nothing, one, one, one.bool(), one, one), iteration)


def faded(policy: TrainableFakePolicy, success: Rollout, ratios: tuple[float, float]) -> Rollout:
    """The rollout, its two decisions so many times as likely now as when they were sampled."""
    with torch.no_grad():
        now, _ = policy.log_prob(success.inputs, torch.from_numpy(success.decisions), PLAIN)
    success.log_probs = (now - torch.tensor(ratios).log()[:, None]).numpy()
    return success


def test_the_newest_successes_are_kept_and_survive_a_checkpoint(tmp_path: Path):
    policy = TrainableFakePolicy()
    replay = make_replay(2, policy)
    replay.add([faded(policy, rollout(True, 1.0), (0.8, 0.8)), rollout(False, 1.0), rollout(True, 0.5)])
    dropped = rollout(True, 0.25)
    dropped.inputs = None
    newest = faded(policy, rollout(True, -0.5), (0.8, 0.8))
    replay.add([dropped, newest])
    assert len(replay) == 2
    replay.save(tmp_path)
    again = make_replay(2, policy)
    again.load(tmp_path)
    drawn = [[more(source, iteration) for iteration in range(6)] for source in (replay, again)]
    taught = [part for part in drawn[0] if part is not None]
    assert taught and len(taught) < 6, "the other one kept has not been forgotten"
    assert all(part.decisions.tolist() == newest.decisions.tolist() for part in taught)
    for left, right in zip(*drawn, strict=True):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            assert torch.equal(left.decisions, right.decisions) and torch.equal(left.old_log_probs, right.old_log_probs)
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(ReflexError, match=FILE):
        again.load(tmp_path)


def test_failures_are_never_kept():
    replay = make_replay(2, TrainableFakePolicy())
    replay.add([rollout(False, 1.0), rollout(False, 0.5)])
    assert len(replay) == 0


def test_forgotten_decisions_are_samples_of_advantage_one_and_ratio_one():
    policy = TrainableFakePolicy()
    success = faded(policy, rollout(True, 0.5), (0.8, 1.0))
    replay = make_replay(1, policy)
    replay.add([success])
    samples = more(replay)
    assert samples is not None and len(samples) == 1
    assert samples.advantages.tolist() == [1.0]
    with torch.no_grad():
        now, _ = policy.log_prob(success.inputs, torch.from_numpy(success.decisions), PLAIN)
    torch.testing.assert_close(samples.old_log_probs, now[:1])
    assert samples.decisions.tolist() == success.decisions[:1].tolist()
    kept = make_replay(1, policy)
    kept.add([faded(policy, rollout(True, 0.5), (1.0, 1.0))])
    assert more(kept) is None, "nothing was forgotten"
    assert more(make_replay(1, policy)) is None
