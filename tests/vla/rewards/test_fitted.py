"""A reward model ranks failures in training: by their last moment, within a task, below every success."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vla.offline.reward_model.recorded import bar_episode, write_bars, write_labels
from vla.errors import ReflexError
from vla.offline.reward_model.command import RewardConfig, fit_reward
from vla.offline.reward_model.fit import FitSettings
from vla.rewards.reward import Reward, RewardParts, make_reward
from vla.rl.config import AlgoConfig

NAME = f"{__name__}:Whiteness"


class Whiteness:
    """The brightest a picture is, on average: how long the bar is."""

    def score(
        self, frames: NDArray[np.uint8], instruction: str, states: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        white: NDArray[np.float32] = (frames == 250).mean(axis=(1, 2, 3), dtype=np.float32)
        return white


def fitted(**settings: object) -> Reward:
    return make_reward("fitted", RewardParts(settings={"fitted": settings}))


def test_failures_are_ranked_by_their_end_within_their_task() -> None:
    reward = fitted(model=NAME, alpha=0.6)
    assert not reward.looks_at_rollouts and reward.compares_rollouts
    embeddings = np.array([[9.0], [1.0], [3.0], [100.0]], np.float32)
    found = reward.score(embeddings, np.array([True, False, False, False]), np.array([0, 0, 0, 1]), np.zeros(4, int))
    # Task 0: scores 1 and 3 have z = -1 and 1; task 1 has one failure, z = 0.
    sigmoid = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(found.rewards, [1.0, 0.6 * (1 - sigmoid), 0.6 * sigmoid, 0.3], rtol=1e-6)
    assert found.metrics["reward/failure_mean"] == pytest.approx(0.3)


def test_a_rollout_counts_by_its_last_moment() -> None:
    episode = bar_episode(1)
    dark = replace(
        episode, images={name: np.append(frames[:-1], 0 * frames[:1], 0) for name, frames in episode.images.items()}
    )
    rows = fitted(model=NAME).embed([episode, dark])
    assert rows.shape == (2, 1) and rows[0, 0] > 0 and rows[1, 0] == 0


def test_a_folder_of_vla_reward_is_one(tmp_path: Path) -> None:
    dataset = write_bars(tmp_path / "bars")
    labels = write_labels(tmp_path / "labels", dataset)
    folder = tmp_path / "reward"
    fit_reward(RewardConfig(
        dataset=str(dataset.root), labels=str(labels), output=str(folder), encoder="state", threads=1, device="cpu",
        fit=FitSettings(max_epochs=30),
    ))  # fmt: skip
    rows = fitted(model=str(folder)).embed([bar_episode(seed) for seed in range(20, 40)])[:, 0]
    successes = np.arange(20) % 2 == 0
    assert rows[successes].mean() > rows[~successes].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": NAME, "alpha": 1.5}, r"algo\.settings\.fitted\.alpha is 1\.5"),
        ({"model": "nowhere"}, "nowhere holds no reward model"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        fitted(**settings)


def test_a_run_without_a_model_is_refused_before_it_begins() -> None:
    with pytest.raises(ReflexError, match=r"algo\.settings\.fitted\.model is empty"):
        AlgoConfig(reward="fitted")
    AlgoConfig(reward="fitted", settings={"fitted": {"model": NAME}})
