"""`vla reward`: a reward model from labelled pairs, or from outcomes alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from vla.data.content_hash import observations_hash
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.labels.files import Labels, read_labels
from vla.offline.preferences import Answer, Preference, Status
from vla.offline.reward_model.bradley_terry import FIRST, SECOND, TIE
from vla.offline.reward_model.fit import FitSettings, fit
from vla.offline.reward_model.outcomes import OutcomeSettings, Timeline, fit_goals, fit_value, nearest_success
from vla.offline.reward_model.rows import Look, Rows, features_of, look_at, pictures_of, rows_of
from vla.policies.moment_features import PICTURES
from vla.rewards.models.ensemble import RewardEnsemble
from vla.rewards.models.model import MODEL_FILE, model_hash, save_reward_model
from vla.run.devices import resolve_device, set_threads
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks

Method = Literal["preferences", "value", "contrastive", "distance"]

NUMBERS = {Answer.FIRST: FIRST, Answer.SECOND: SECOND, Answer.TIE: TIE}


@dataclass(frozen=True)
class RewardConfig:
    """Which labels a reward is fitted to, on which dataset, and how."""

    dataset: str
    """The LeRobot dataset that was labelled, or whose outcomes are known: a folder or a hub id."""
    labels: str | None = None
    """Folder of labels that vla label wrote; null for the methods that need none."""
    method: Method = "preferences"
    """What it is fitted to: "preferences" (the labels), or without any label "value" (outcomes and the order of time),
    "contrastive" (what later leads to a success), "distance" (SRPO's, to ends of successes; nothing is fitted)."""
    output: str = field(default_factory=partial(dated_folder, "reward"))
    """Folder for the reward model; must not hold one yet. It has the date where none is given."""
    encoder: str = "pixels"
    """What an mlp sees of a moment: "pixels" (the picture, small), "state", "policy:FOLDER" (what a policy makes of
    what it sees), a folder or hub id of an encoder. A cnn sees the picture itself."""
    camera: str | None = None
    """Camera whose pictures are looked at, by the dataset's name; null for its first."""
    fit: FitSettings = field(default_factory=FitSettings)
    """How the reward is fitted: fit.network=cnn for the paper's."""
    outcome: OutcomeSettings = field(default_factory=OutcomeSettings)
    """What the methods without labels make of outcomes."""
    seed: int = 0
    """Seed of the first parameters, the shuffling and the held-out episodes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core."""

    def __post_init__(self) -> None:
        Checks(self).shared()
        if (self.labels is None) == (self.method == "preferences"):
            raise ReflexError(
                f"method={self.method} with labels={self.labels}; preferences need labels=FOLDER, and no other method "
                "takes any"
            )
        if self.method != "preferences" and self.fit.network == "cnn":
            raise ReflexError(f"method={self.method} looks at features; use fit.network=mlp with an encoder")


def fit_reward(config: RewardConfig) -> None:
    """Fit a reward model and write its folder.

    Raises:
        ReflexError: the output holds a model, the labels are of another dataset or have no answer, or something cannot
            be read.
        WorldModelError: the encoder cannot be loaded.
    """
    output = Path(config.output)
    if (output / MODEL_FILE).exists():
        raise ReflexError(f"{output} already holds a reward model; choose another output folder or delete it")
    set_threads(config.threads)
    device = str(resolve_device(config.device))
    dataset = LeRobotDataset(config.dataset)
    encoder = PICTURES if config.fit.network == "cnn" else config.encoder
    look = look_at(dataset, encoder, config.camera, device)
    about: dict[str, Any] = {
        "method": config.method,
        "dataset": {"name": str(config.dataset), "sha256": observations_hash(dataset)},
        "goals": dataset.tasks,
        "labels": None,
    }
    if config.labels is None:
        ensemble = _fit_outcomes(config, dataset, look, device)
    else:
        labels = read_labels(config.labels)
        ensemble = _fit_preferences(config, dataset, look, labels, device)
        about["goals"] = sorted({preference.pair.goal for preference in labels.preferences})
        about["labels"] = {
            "folder": str(labels.folder),
            "sha256": labels.sha256,
            "prompt_version": labels.prompt,
            "model": labels.model,
            "statuses": count_statuses(labels.preferences),
        }
    save_reward_model(output, ensemble, look.describe(), about)
    _report(output, ensemble)


def answered_pairs(labels: Labels, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows [P, 2] of the pairs that have an answer, and the answers [P] as numbers.

    Raises `ReflexError` when there is none, or a moment is not in the dataset.
    """
    answered = [one for one in labels.preferences if one.answer is not None]
    if not answered:
        raise ReflexError(
            f"{labels.folder} has no pair with an answer ({count_statuses(labels.preferences)}); label some (vla label)"
        )
    first = rows.of(one.pair.first for one in answered)
    second = rows.of(one.pair.second for one in answered)
    numbers = [NUMBERS[one.answer] for one in answered if one.answer is not None]
    return np.stack([first, second], axis=1), np.array(numbers, dtype=np.int64)


def count_statuses(preferences: list[Preference]) -> dict[str, int]:
    """How many pairs ended how; answered ones by answer."""
    named = [str(one.answer if one.status is Status.OK else one.status) for one in preferences]
    return {name: named.count(name) for name in sorted(set(named))}


def _fit_preferences(
    config: RewardConfig, dataset: LeRobotDataset, look: Look, labels: Labels, device: str
) -> RewardEnsemble:
    """On features of the whole dataset, or on the pictures of the labelled moments alone."""
    rows = rows_of(dataset)
    pairs, answers = answered_pairs(labels, rows)
    inputs: NDArray[Any]
    if look.encoder == PICTURES:
        used, places = np.unique(pairs, return_inverse=True)
        with progress_bar("pictures", dataset.num_episodes) as show:
            inputs = pictures_of(dataset, look, used, lambda done, total: show(done, ""))
        pairs, episodes = places.reshape(pairs.shape), rows.episodes[used]
    else:
        inputs, episodes = _features(dataset, look), rows.episodes
    return fit(inputs, pairs, answers, episodes, config.fit, config.seed, device)


def _fit_outcomes(config: RewardConfig, dataset: LeRobotDataset, look: Look, device: str) -> RewardEnsemble:
    successes = [dataset.episode(index, cameras=()).success for index in range(dataset.num_episodes)]
    timeline = Timeline(rows_of(dataset).episodes, np.array(successes))
    features = _features(dataset, look)
    if config.method == "distance":
        return nearest_success(features, timeline, device)
    method = fit_value if config.method == "value" else fit_goals
    return method(features, timeline, config.fit, config.outcome, config.seed, device)


def _features(dataset: LeRobotDataset, look: Look) -> NDArray[np.float32]:
    with progress_bar("features", dataset.num_episodes) as show:
        return features_of(dataset, look, lambda done, total: show(done, ""))


def _report(output: Path, ensemble: RewardEnsemble) -> None:
    record = ensemble.record
    line = f"{output}: "
    line += f"{record['pairs_fitted']} pairs, {record['epochs']} epochs" if "epochs" in record else "nothing to fit"
    if record.get("held_out_accuracy") is not None:
        line += (
            f"; of {record['pairs_held_out']} pairs of held-out episodes the order is predicted in "
            f"{record['held_out_accuracy']:.1%}"
        )
    Console().print(f"{line}; model {model_hash(output)[:12]}", soft_wrap=True)
