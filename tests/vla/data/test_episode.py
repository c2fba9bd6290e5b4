from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.vla.data.samples import make_episode


def test_the_record_of_an_episode() -> None:
    episode = replace(
        make_episode(5, length=4, task_id=3, success=False),
        split="eval",
        costs=np.array([0.5, 0.0, 0.25, 1.0], dtype=np.float32),
        progress=np.array([0.25, 0.75, 0.5, 0.125], dtype=np.float32),  # best in the middle
        rewards=np.array([0, 0, 0, 9], dtype=np.float32),
        worker_restarted=True,
    )
    assert episode.record() == {
        "suite": "point",
        "task_id": 3,
        "split": "eval",
        "init_state_id": 5,
        "seed": 105,
        "policy_id": "expert",
        "success": False,
        "steps": 4,
        "cost": 1.75,
        "final_progress": 0.125,
        "worker_restarted": True,
    }


def test_an_episode_without_a_step_made_no_progress() -> None:
    nothing = np.zeros(0, dtype=np.float32)
    episode = replace(make_episode(0), actions=np.zeros((0, 7), np.float32), costs=nothing, progress=nothing)
    assert (episode.length, episode.record()["final_progress"], episode.record()["cost"]) == (0, 0.0, 0.0)


def test_an_episode_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        make_episode(0).success = False  # type: ignore[misc]
