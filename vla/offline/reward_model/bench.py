"""`vla bench reward`: reward models side by side, on a dataset whose true progress is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vla.data import lerobot_keys as keys
from vla.data.content_hash import observations_hash
from vla.data.episode import Episode
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.labels.files import read_labels
from vla.offline.reward_model.bradley_terry import TIE
from vla.offline.reward_model.command import answered_pairs
from vla.offline.reward_model.rows import features_of, look_at, rows_of
from vla.rewards.audit.measures import pair_agreement, rank_correlation, separation
from vla.rewards.models.model import MODEL_FILE, FittedReward, RewardModel, load_reward_model, model_hash, score_episode
from vla.run.devices import resolve_device, set_threads
from vla.run.files import write_json
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import dated_folder
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

TRUE_PROGRESS = "true_progress"
"""The simulator's own, as a model: the best that there could be."""

MEASURES = {
    "pairs": "share of pairs of moments put in the order of their true progress (equal rewards half)",
    "labels": "share of the labels (labels=) that are agreed with, ties left out",
    "rank": "Spearman's correlation with true progress, over all moments",
    "tau": "Kendall's tau-b with true progress, over all moments",
    "final": "Kendall's tau-b of the episodes' last moments with their final progress: ranking across episodes",
    "success": "chance that the last moment of a success is above that of a failure (AUROC)",
    "time": "Spearman's correlation with time within successes, mean over them",
    "spread": "deviation among an ensemble's members, in deviations of their mean over moments",
}
"""What is measured, in the order of the table."""

BIG_ENOUGH = 0.05
"""Difference in true progress below which a pair of moments is not asked about."""


@dataclass(frozen=True)
class BenchRewardConfig:
    """Which reward models are compared, on what."""

    dataset: str
    """LeRobot dataset with true progress (next.progress), best another one than the models were fitted to."""
    models: list[str]
    """Folders of reward models, package.module:Class of your own, and "true_progress", the best there could be."""
    output: str = field(default_factory=partial(dated_folder, "bench_reward"))
    """Folder for reward_models.json. It has the date where none is given."""
    labels: str | None = None
    """Labels of this dataset, to count how many each model agrees with; null for none."""
    drawn_pairs: int = 5000
    """Pairs of moments that are drawn."""
    resamples: int = 100
    """Draws of episodes with replacement, for 95 % intervals."""
    seed: int = 0
    """Seed of the pairs and the resamples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "drawn_pairs")
        check.at_least(2, "resamples")
        if not self.models or len(set(self.models)) != len(self.models):
            raise ReflexError(f"models is {self.models}; name at least one reward model, and each once")


@dataclass(frozen=True)
class Known:
    """What is true of a dataset's moments."""

    progress: NDArray[np.float32]
    """[N]"""
    episodes: NDArray[np.int64]
    """[N]"""
    last: NDArray[np.int64]
    """[E] each episode's last row."""
    successes: NDArray[np.bool_]
    """[E]"""


def bench_reward(config: BenchRewardConfig) -> None:
    """Score every moment with every model, print the table and write `reward_models.json`.

    Raises:
        ReflexError: the dataset has no true progress, or a model cannot be loaded or does not fit it.
    """
    set_threads(config.threads)
    dataset = LeRobotDataset(config.dataset)
    if keys.PROGRESS not in dataset.info.features:
        raise ReflexError(
            f"{dataset.root} has no {keys.PROGRESS}, the simulator's true progress; datasets of vla collect do"
        )
    known = _known(dataset)
    labelled = None if config.labels is None else answered_pairs(read_labels(config.labels), rows_of(dataset))
    results = {}
    for name in config.models:
        members = _member_scores(name, dataset, known, str(resolve_device(config.device)))
        estimates = measure(members, known, labelled, config.drawn_pairs, config.resamples, config.seed)
        results[name] = {"estimates": estimates, "sha256": _hash(name)}
    size = {"episodes": dataset.num_episodes, "frames": dataset.num_frames}
    document = {
        "settings": asdict(config),
        "dataset": {**size, "sha256": observations_hash(dataset)},
        "measures": MEASURES,
        "models": results,
    }
    write_json(Path(config.output) / "reward_models.json", document)
    Console(width=140).print(_table(results, dataset))


def measure(
    members: NDArray[np.float32],
    known: Known,
    labelled: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    pairs: int,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Every measure of scores [members, N], with its 95 % interval over episodes; None where there is nothing.

    Episodes are drawn, not moments: those of one episode resemble one another.
    """
    scores = members.mean(axis=0)
    generator = np.random.default_rng(derive_seed("bench reward", seed))
    rows_by_episode = np.split(np.arange(len(scores)), known.last[:-1] + 1)

    def each(chosen: NDArray[np.int64]) -> dict[str, float]:
        rows = np.concatenate([rows_by_episode[episode] for episode in chosen])
        ends = known.last[chosen]
        drawn = generator.choice(rows, (pairs, 2))
        return {
            "pairs": _in_order(scores[drawn], known.progress[drawn]),
            "rank": rank_correlation(scores[rows], known.progress[rows]),
            "tau": pair_agreement(scores[rows], known.progress[rows]),
            "final": pair_agreement(scores[ends], known.progress[ends]),
            "success": separation(scores[ends], known.successes[chosen]),
            "time": _with_time([scores[rows_by_episode[one]] for one in chosen if known.successes[one]]),
        }

    everyone = np.arange(len(known.last))
    found = each(everyone)
    drawn = [each(generator.choice(everyone, len(everyone))) for _ in range(resamples)]
    estimates = {name: _estimate(value, [one[name] for one in drawn]) for name, value in found.items()}
    estimates["labels"] = _estimate(_agreement(scores, labelled), [])
    deviation = float(scores.std())
    spread = float(members.std(axis=0).mean()) / deviation if len(members) > 1 and deviation else float("nan")
    estimates["spread"] = _estimate(spread, [])
    return {name: estimates[name] for name in MEASURES}


def _known(dataset: LeRobotDataset) -> Known:
    episodes = [dataset.episode(index, cameras=()) for index in range(dataset.num_episodes)]
    rows = rows_of(dataset)
    last = np.searchsorted(rows.episodes, np.arange(len(episodes)), side="right") - 1
    progress = np.concatenate([true_progress(episode) for episode in episodes])
    return Known(progress, rows.episodes, last, np.array([episode.success for episode in episodes]))


def true_progress(episode: Episode) -> NDArray[np.float32]:
    """How far the robot was in each picture [T]: `next.progress` of the action before; of the first, its own stands."""
    return np.append(episode.progress[:1], episode.progress[:-1]).astype(np.float32)


def _member_scores(name: str, dataset: LeRobotDataset, known: Known, device: str) -> NDArray[np.float32]:
    """[members, N]; a model without members has one."""
    if name == TRUE_PROGRESS:
        return known.progress[None]
    model: RewardModel = load_reward_model(name, device)
    if isinstance(model, FittedReward) and model.ensemble.shape.network != "cnn":
        said = model.about["features"]
        look = look_at(dataset, said["name"], said["camera"], device)
        return model.ensemble.score_features(features_of(dataset, look))
    parts = []
    with progress_bar(f"score {name}", dataset.num_episodes) as show:
        for index in range(dataset.num_episodes):
            episode = dataset.episode(index)
            members = (
                model.member_scores(episode) if isinstance(model, FittedReward) else score_episode(model, episode)[None]
            )
            parts.append(members)
            show(index + 1, "")
    return np.concatenate(parts, axis=1)


def _in_order(scores: NDArray[np.float32], progress: NDArray[np.float32]) -> float:
    """The share of pairs [P, 2] that scores put in the order of progress, of those that differ enough."""
    truth = progress[:, 1] - progress[:, 0]
    apart = np.abs(truth) > BIG_ENOUGH
    if not apart.any():
        return float("nan")
    said = np.sign(scores[apart, 1] - scores[apart, 0])
    return float(((said * np.sign(truth[apart]) + 1) / 2).mean())


def _with_time(successes: Sequence[NDArray[np.float32]]) -> float:
    found = [rank_correlation(scores, np.arange(len(scores))) for scores in successes]
    finite = [value for value in found if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _agreement(scores: NDArray[np.float32], labelled: tuple[NDArray[np.int64], NDArray[np.int64]] | None) -> float:
    if labelled is None or (labelled[1] == TIE).all():
        return float("nan")
    pairs, answers = labelled[0][labelled[1] != TIE], labelled[1][labelled[1] != TIE]
    said = np.sign(scores[pairs[:, 1]] - scores[pairs[:, 0]])
    return float(((said * (2 * answers - 1) + 1) / 2).mean())


def _estimate(value: float, resampled: Sequence[float]) -> dict[str, float | None]:
    finite = [one for one in resampled if np.isfinite(one)]
    low, high = np.quantile(finite, [0.025, 0.975]) if finite else (None, None)
    return {
        "value": value if np.isfinite(value) else None,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def _hash(name: str) -> str | None:
    return model_hash(Path(name)) if (Path(name) / MODEL_FILE).exists() else None


def _table(results: Mapping[str, Any], dataset: LeRobotDataset) -> Table:
    table = Table("model", *MEASURES, title=f"reward models on {dataset.num_episodes} episodes of {dataset.root}")
    for name, result in results.items():
        table.add_row(name, *(_cell(estimate) for estimate in result["estimates"].values()))
    return table


def _cell(estimate: Mapping[str, float | None]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f}\n{low:.2f}..{high:.2f}"
