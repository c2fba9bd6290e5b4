"""Puts together what a data set's report card says, as a JSON-ready dictionary, from its episodes without pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError
from vla.evaluation.statistics import wilson_interval
from vla.offline.data_report.broken import problems
from vla.offline.data_report.measures import (
    bin_counts,
    concatenated,
    discounted_return,
    occupancy,
    principal_plane,
    state_action_coverage,
    trajectory_quality,
)
from vla.offline.data_report.recommendation import Measured, recommend
from vla.offline.episode_weights import positive_sided_variance
from vla.rollout.actors import EXPERT, RANDOM

HISTOGRAM_BINS = 24
GRID = 32
"""Cells a side of the map of visited states."""


@dataclass(frozen=True)
class Scale:
    """What returns are compared with, and where the two numbers come from."""

    worst: float
    best: float
    worst_from: str
    best_from: str


@dataclass
class Contents:
    """A data set's episodes, without their pictures, and what is wrong with some of them."""

    episodes: dict[int, Episode]
    """By index in the data set; those that could be read."""
    broken: dict[int, list[str]]
    """By index, what is wrong; of those that could not be read, why."""
    usable: list[int]
    """Indices of episodes whose numbers are all finite: what is measured."""
    duplicates: dict[int, int]
    """By index, an earlier episode with the same states and actions."""

    def note(self, index: int, found: Iterable[str]) -> None:
        """Add to what is wrong with an episode."""
        if phrases := list(found):
            self.broken.setdefault(index, []).extend(phrases)


def read_contents(dataset: LeRobotDataset) -> Contents:
    """Read every episode's numbers and check them.

    Raises `ReflexError` when no episode can be read, with what the first one's reading said.
    """
    contents = Contents({}, {}, [], {})
    for index in range(dataset.num_episodes):
        try:
            contents.episodes[index] = dataset.episode(index, cameras=())
        except ReflexError as error:
            contents.note(index, [f"cannot be read: {error}"])
    if not contents.episodes:
        first = next(iter(contents.broken.values()), ["it has none"])[0]
        raise ReflexError(f"no episode of {dataset.root} can be read; the first one {first}")
    usual = _usual_lengths(list(contents.episodes.values()))
    seen: dict[bytes, int] = {}
    for index, episode in contents.episodes.items():
        contents.note(index, problems(episode, usual[episode.task_id]))
        same = seen.setdefault(episode.states.tobytes() + episode.actions.tobytes(), index)
        if same != index:
            contents.duplicates[index] = same
        if all(np.isfinite(array).all() for array in (episode.states, episode.actions, episode.rewards)):
            contents.usable.append(index)
    if not contents.usable:
        raise ReflexError(f"no episode of {dataset.root} has finite numbers only; record it again")
    return contents


def _usual_lengths(episodes: Sequence[Episode]) -> dict[int, float]:
    """By task, the median length of its successes, or of all its episodes where none succeeds."""
    lengths: dict[int, float] = {}
    for task in {episode.task_id for episode in episodes}:
        own = [episode for episode in episodes if episode.task_id == task]
        chosen = [episode.length for episode in own if episode.success] or [episode.length for episode in own]
        lengths[task] = float(np.median(chosen))
    return lengths


def returns_of(episodes: Sequence[Episode], discount: float) -> NDArray[np.float64]:
    """Discounted returns [E]."""
    return np.array([discounted_return(episode.rewards, discount) for episode in episodes])


def find_scale(
    episodes: Sequence[Episode], returns: NDArray[np.float64], worst: float | None, best: float | None
) -> Scale:
    """The returns of a worst policy and of an expert: as given, of the data set's episodes by them, or its extremes.

    Where no reward is negative, an episode that gets nothing is the worst there is.
    """
    by_policy = {name: returns[[episode.policy_id == name for episode in episodes]] for name in (RANDOM, EXPERT)}
    if worst is not None:
        low, low_from = worst, "worst_return"
    elif len(by_policy[RANDOM]):
        low, low_from = float(by_policy[RANDOM].mean()), "mean of the random episodes"
    elif all((episode.rewards >= 0).all() for episode in episodes):
        low, low_from = 0.0, "no reward at all"
    else:
        low, low_from = float(returns.min()), "the least return in the data set"
    if best is not None:
        high, high_from = best, "best_return"
    elif len(by_policy[EXPERT]):
        high, high_from = float(by_policy[EXPERT].mean()), "mean of the expert's episodes"
    else:
        high, high_from = float(returns.max()), "the greatest return in the data set"
    return Scale(low, high, low_from, high_from)


def make_card(
    dataset: LeRobotDataset,
    contents: Contents,
    reference: NDArray[np.float64] | None,
    *,
    discount: float,
    bins: int,
    worst_return: float | None,
    best_return: float | None,
) -> dict[str, Any]:
    """Everything the report says, JSON-ready; see `docs/data_report.md`. `reference` are another's pairs [M, S + A]."""
    episodes = [contents.episodes[index] for index in contents.usable]
    returns = returns_of(episodes, discount)
    scale = find_scale(episodes, returns, worst_return, best_return)
    pairs = concatenated([episode.states for episode in episodes], [episode.actions for episode in episodes])
    spread = scale.best - scale.worst
    quality = trajectory_quality(returns, scale.worst, scale.best) if spread > 0 else None
    measured = Measured(
        episodes=len(episodes),
        successes=sum(episode.success for episode in episodes),
        says_success=dataset.says_success,
        best_return=scale.best,
        worst_return=scale.worst,
        trajectory_quality=quality,
        normalised_positive_variance=positive_sided_variance(returns) / spread**2 if spread > 0 else 0.0,
        different_pairs=state_action_coverage(pairs, None, bins),
        broken=len(contents.broken),
    )
    counts = occupancy(principal_plane(pairs[:, : dataset.embodiment.state.size or None]), GRID)
    lengths = np.array([episode.length for episode in episodes])
    return {
        "dataset": str(dataset.root),
        "robot": dataset.embodiment.describe(),
        "size": {
            "episodes": dataset.num_episodes,
            "steps": dataset.num_frames,
            "hours": dataset.num_frames / dataset.fps / 3600,
            "bytes": sum(path.stat().st_size for path in dataset.root.rglob("*") if path.is_file()),
            "measured_episodes": len(episodes),
        },
        "success": _success(episodes),
        "length": _distribution(lengths.astype(np.float64)),
        "return": {"discount": discount, **_distribution(returns), "scale": dataclasses.asdict(scale)},
        "trajectory_quality": quality,
        "state_action_coverage": state_action_coverage(pairs, reference, bins),
        "different_pairs": measured.different_pairs,
        "positive_sided_variance": positive_sided_variance(returns),
        "normalised_positive_variance": measured.normalised_positive_variance,
        "coverage": {"occupied_cells": float((counts > 0).mean()), "grid": counts.tolist()},
        "tasks": _tables(episodes, returns, scale, lambda episode: (episode.task_id, episode.instruction)),
        "policies": _tables(episodes, returns, scale, lambda episode: (episode.policy_id, episode.policy_id)),
        "actions": _actions(pairs[:, dataset.embodiment.state.size :], dataset.embodiment.action.names),
        "broken": [{"episode": index, "problems": found} for index, found in sorted(contents.broken.items())],
        "duplicates": [{"episode": index, "same_as": same} for index, same in sorted(contents.duplicates.items())],
        "recommendation": dataclasses.asdict(recommend(measured)),
    }


def _success(episodes: Sequence[Episode]) -> dict[str, Any]:
    successes = sum(episode.success for episode in episodes)
    low, high = wilson_interval(successes, len(episodes))
    rate = successes / len(episodes)
    return {"episodes": len(episodes), "successes": successes, "rate": rate, "low": low, "high": high}


def _distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    low, median, high = (float(value) for value in np.quantile(values, [0.0, 0.5, 1.0]))
    return {
        "mean": float(values.mean()),
        "least": low,
        "median": median,
        "greatest": high,
        "histogram": bin_counts(values, HISTOGRAM_BINS),
    }


def _tables(episodes: Sequence[Episode], returns: NDArray[np.float64], scale: Scale, key: Any) -> list[dict[str, Any]]:
    """Size, success, length and quality of each group of episodes with one `key` (a number or word, and its name)."""
    rows = []
    for group in sorted({key(episode) for episode in episodes}):
        chosen = np.array([key(episode) == group for episode in episodes])
        own = [episode for episode, is_own in zip(episodes, chosen, strict=True) if is_own]
        rows.append(
            {
                "key": group[0],
                "name": group[1],
                **_success(own),
                "mean_length": float(np.mean([episode.length for episode in own])),
                "trajectory_quality": trajectory_quality(returns[chosen], scale.worst, scale.best)
                if scale.best > scale.worst
                else None,
            }
        )
    return rows


def _actions(actions: NDArray[np.float64], names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": name, **_distribution(values)} for name, values in zip(names, actions.T, strict=True)]
