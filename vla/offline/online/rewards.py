"""The reward of what is played: the one that the logs have, made for a new episode in the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Embodiment
from vla.data.episode import Episode
from vla.data.lerobot_dataset import LeRobotDataset
from vla.data.lerobot_keys import PROGRESS, REWARD
from vla.errors import ReflexError
from vla.offline.reward_model.relabel import PROVENANCE_PATH
from vla.offline.reward_model.rescale import Affine, end_success, transition_scores
from vla.rewards.models.model import FittedReward, load_reward_model, model_hash, score_episode
from vla.run.files import read_json_object

EpisodeReward = Callable[[Episode], NDArray[np.float32]]
"""An episode of T steps, with an observation before each of them -> rewards [T]."""

OF_THE_SUITE: dict[str, EpisodeReward] = {
    REWARD: lambda episode: episode.rewards,
    PROGRESS: lambda episode: episode.progress,
}
"""Columns that `vla collect` writes -> what they are in an episode."""


def reward_of(dataset: str, column: str, robot: Embodiment, model: str | None = None) -> EpisodeReward:
    """What gives an episode the reward that a column of the logs holds.

    Args:
        dataset: the logs.
        column: one of `OF_THE_SUITE`, or a column that `vla relabel` wrote: the reward model, and what made rewards of
            its scores, are then what `meta/reflex_rewards.json` says.
        robot: of the suite; a reward model that looks at pictures needs its camera.
        model: where the reward model is now; None where `vla relabel` found it.

    Raises:
        ReflexError: nobody knows how the column came about, the model is another one, or it needs pictures that the
            suite does not draw.
    """
    if column in OF_THE_SUITE:
        if model is not None:
            raise ReflexError(f"reward_model={model} has no use: the logs' reward is {column}, which the suite gives")
        return OF_THE_SUITE[column]
    path = LeRobotDataset(dataset).root / PROVENANCE_PATH
    known = read_json_object(path).get(column) if path.exists() else None
    if known is None:
        raise ReflexError(
            f"the logs' reward is {column}, and nothing says how to give it to an episode that is played now: it is "
            f"neither {' nor '.join(OF_THE_SUITE)}, nor a column that vla relabel wrote; learn from one of those"
        )
    return _of_model(model or str(known["model"]), known, robot)


def _of_model(name: str, known: dict[str, Any], robot: Embodiment) -> EpisodeReward:
    """The reward that `vla relabel` gave, by what it wrote of it."""
    reward_model = load_reward_model(name)
    if known["model_sha256"] is not None and known["model_sha256"] != model_hash(Path(name)):
        raise ReflexError(
            f"{name} is another reward model than the one that the logs were relabelled with; give that one as "
            "reward_model=..., or relabel the logs and learn from them again"
        )
    if isinstance(reward_model, FittedReward) and reward_model.camera not in (None, *robot.camera_names):
        raise ReflexError(
            f"the reward model {name} looks at camera {reward_model.camera}, and {robot.name} in this suite has "
            f"{', '.join(robot.camera_names) or 'no camera'}; choose a suite that draws it"
        )
    maps = {int(task): Affine(**one) for task, one in known["affine"].items()}

    def reward(episode: Episode) -> NDArray[np.float32]:
        if episode.task_id not in maps:
            raise ReflexError(f"the logs have no rewards of task {episode.task_id}, which scores could be scaled as")
        scores = transition_scores(score_episode(reward_model, episode), known["form"])
        rewards = maps[episode.task_id](scores)
        ends = episode.success and known["terminal"] != "as_scored"
        return end_success(rewards, known["terminal"], known["discount"]) if ends else rewards

    return reward
