"""Rewards that know nothing keep what they say they keep, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.vla.offline.corridor import corridor
from vla.offline.algorithms.bc import BC
from vla.offline.algorithms.iql import IQL
from vla.offline.controls import WITHOUT_KNOWLEDGE, as_control
from vla.offline.training import OfflineSettings


def test_controls_by_hand() -> None:
    rewards = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
    found = {name: control(rewards, np.random.default_rng(1)) for name, control in WITHOUT_KNOWLEDGE.items()}
    assert found["zero"].tolist() == [0, 0, 0, 0]
    assert found["constant"].tolist() == [2, 2, 2, 2]
    assert sorted(found["shuffled"].tolist()) == [0, 1, 2, 5]
    assert all(control.dtype == np.float32 for control in found.values())


def test_a_shuffle_breaks_what_a_reward_says_of_its_place() -> None:
    rewards = np.linspace(0, 1, 2000, dtype=np.float32)
    shuffled = WITHOUT_KNOWLEDGE["shuffled"](rewards, np.random.default_rng(0))
    assert abs(np.corrcoef(rewards, shuffled)[0, 1]) < 0.1
    again = WITHOUT_KNOWLEDGE["shuffled"](rewards, np.random.default_rng(0))
    assert shuffled.tolist() == pytest.approx(again.tolist())
    assert rewards[0] == 0 and rewards[-1] == 1


def test_a_control_differs_from_its_run_by_what_it_says() -> None:
    data = corridor(30)
    settings = OfflineSettings(IQL(temperature=7.0), reward_scale="returns", weighting="return", chunk_horizon=2)
    rewards, same = as_control("shuffled", data, settings, seed=3)
    assert same == settings and sorted(rewards.rewards) == sorted(data.rewards)
    nothing, scaled = as_control("zero", data, settings, seed=3)
    assert not nothing.rewards.any() and scaled == replace(settings, reward_scale="none")
    truth, _ = as_control("true", data, settings, 3, data.rewards * 2)
    assert (truth.rewards == data.rewards * 2).all() and (truth.actions == data.actions).all()
    for name, weighting in (("bc", "uniform"), ("bc_10", "best")):
        kept, imitating = as_control(name, data, settings, 3)
        assert (kept.rewards == data.rewards).all() and imitating.weighting == weighting
        assert imitating.algorithm == BC() and (imitating.chunk_horizon, imitating.best_share) == (2, 0.1)
        assert imitating.reward_scale == settings.reward_scale
    for name in ("true", "random"):
        with pytest.raises(ValueError, match="needs the true reward"):
            as_control(name, data, settings, 3)
