"""Rewards that know nothing keep what they say they keep, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from vla.offline.controls import WITHOUT_KNOWLEDGE


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
