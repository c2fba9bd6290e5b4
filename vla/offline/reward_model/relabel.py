"""`vla relabel`: a reward model's opinion of a dataset, as a column of its own beside the original reward."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vla.data import lerobot_keys as keys
from vla.data.content_hash import observations_hash
from vla.data.lerobot_columns import stage_folder, write_number_column
from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError, writing
from vla.offline.labels.audit import Gate, read_gate
from vla.offline.labels.files import AUDIT, read_labels
from vla.offline.reward_model.rescale import (
    Affine,
    Floats,
    Form,
    Scale,
    Terminal,
    end_success,
    scale_maps,
    transition_scores,
)
from vla.offline.reward_model.rows import Look, features_of, look_at
from vla.rewards.models.features import PICTURES
from vla.rewards.models.model import FittedReward, RewardModel, load_reward_model, model_hash, score_episode
from vla.run.devices import resolve_device, set_threads
from vla.run.files import read_json_object, write_json
from vla.run.jsonl import append_lines, drop_torn_line, read_lines
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import lock
from vla.run.settings import Checks

PROVENANCE_PATH = "meta/reflex_rewards.json"
"""Which column came from which model and labels, and how."""
SCORES = "scores.jsonl"
PURPOSE = "purpose.json"


@dataclass(frozen=True)
class RelabelConfig:
    """Which dataset gets which model's reward, and how scores become rewards."""

    dataset: str
    """LeRobot dataset to relabel, a folder; its original reward stays as it is."""
    reward: str
    """Folder of a reward model (vla reward), or package.module:Class of your own."""
    name: str = "model"
    """The new column is next.reward.NAME."""
    form: Form = "score"
    """What a transition is given: "score", the model's of the next observation, or "difference", how much more that is
    than of the one before."""
    scale: Scale = "dataset"
    """Which rewards become 0 (greatest) and -1 (least): those of the whole dataset, of each task, or none, which leaves
    scores as they are."""
    outliers: float = 0.005
    """Share of the scores at each end that count as the next one inwards before they are scaled: preferences leave
    scores without bounds, and one odd moment would take most of the scale."""
    terminal: Terminal = "as_scored"
    """The last transition of a success: as_scored (right while rewards are at most 0), absorbing (the last reward for
    ever, right for any scale), or best (0, whatever the model says)."""
    discount: float = 0.99
    """Of the returns that will be learned from; terminal=absorbing needs it."""
    force: bool = False
    """Relabel although the audit of the labels says no, and replace a column of another model."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.within(0, 0.2, "outliers", reason="a share of the scores at each end")
        check.within(0, 0.9999, "discount", reason="absorbing divides by 1 - discount")
        if not re.fullmatch(r"\w+", self.name):
            raise ReflexError(f"name is {self.name!r}; it must be letters, digits and _, as in next.reward.NAME")
        if self.scale == "none" and self.terminal == "best":
            raise ReflexError("terminal=best is the greatest reward of a scale; with scale=none use terminal=absorbing")


def relabel(config: RelabelConfig) -> None:
    """Write the column and its provenance; the same command again goes on, or finds that nothing is left to do.

    Raises:
        ReflexError: the dataset is no folder, the audit of the labels says no, the column is of something else, or the
            model does not fit the dataset.
        WorldModelError: its encoder cannot be loaded.
    """
    if not Path(config.dataset).is_dir():
        raise ReflexError(f"dataset={config.dataset} is no folder; relabelling writes into it, so give a local copy")
    set_threads(config.threads)
    dataset, column = LeRobotDataset(config.dataset), f"{keys.REWARD}.{config.name}"
    model = load_reward_model(config.reward, str(resolve_device(config.device)))
    descriptor = lock(dataset.root)
    try:
        purpose = {
            **_provenance(config, model),
            "observations_sha256": observations_hash(dataset),
            "form": config.form,
            "scale": config.scale,
            "outliers": config.outliers,
            "terminal": config.terminal,
            "discount": config.discount,
        }
        if _is_done(config, dataset, column, purpose):
            Console().print(f"{dataset.root} already has {column} of this model; nothing to do", soft_wrap=True)
            return
        scores = _scores(dataset, column, model, purpose)
        rewards, maps = _rewards(config, dataset, scores)
        document = _provenance_file(dataset) | {column: {**purpose, "affine": maps}}
        write_number_column(dataset, column, rewards, {PROVENANCE_PATH: document})
    finally:
        os.close(descriptor)
    values = np.concatenate(list(rewards.values()))
    Console().print(
        f"{dataset.root}: {column} of {dataset.num_episodes} episodes, mean {values.mean():.3f} in "
        f"[{values.min():.3f}, {values.max():.3f}]",
        soft_wrap=True,
    )


def _provenance(config: RelabelConfig, model: RewardModel) -> dict[str, Any]:
    """Where the reward comes from. Raises `ReflexError` where the audit of its labels says no."""
    if not isinstance(model, FittedReward):
        return {"model": config.reward, "model_sha256": None, "labels": None, "gate": None}
    labels = model.about.get("labels")
    gate = None if labels is None else _gate(labels)
    refused = gate is not None and gate.passed is False
    if gate is not None and refused and not config.force:
        raise ReflexError(
            f"the labels of {config.reward} did not pass their audit ({gate.reason}); label better, or set force=true"
        )
    return {
        "model": str(Path(config.reward)),
        "model_sha256": model_hash(Path(config.reward)),
        "method": model.about["method"],
        "goals": model.about.get("goals"),
        "labels": labels,
        "gate": None if gate is None else asdict(gate),
        "forced": refused,
    }


def _gate(labels: dict[str, Any]) -> Gate | None:
    """What the audit of a model's labels came to; None where there was none, or of other labels."""
    folder = Path(labels["folder"])
    if not (folder / AUDIT).exists():
        return None
    now = read_labels(folder)
    return read_gate(now) if now.sha256 == labels["sha256"] else None


def _is_done(config: RelabelConfig, dataset: LeRobotDataset, column: str, purpose: dict[str, Any]) -> bool:
    """Whether the column is there already. Raises `ReflexError` when the name is that of something else."""
    if column not in dataset.info.features:
        return False
    known = _provenance_file(dataset).get(column)
    if known is not None and {**known, "affine": None} == {**_as_json(purpose), "affine": None}:
        return not stage_folder(dataset, column).exists()
    if not config.force:
        whose = "of something else" if known is None else f"of {known['model']} with other settings"
        raise ReflexError(
            f"{dataset.root} has a column {column} already, {whose}; choose another name, or replace it with force=true"
        )
    return False


def _provenance_file(dataset: LeRobotDataset) -> dict[str, Any]:
    path = dataset.root / PROVENANCE_PATH
    return read_json_object(path) if path.exists() else {}


def _as_json(content: Any) -> Any:
    return json.loads(json.dumps(content))


def _scores(dataset: LeRobotDataset, column: str, model: RewardModel, purpose: dict[str, Any]) -> dict[int, Floats]:
    """The model's score of every picture, [T] for each episode by its number; what an interrupted call had is kept."""
    stage = stage_folder(dataset, column)
    if stage.exists() and (not (stage / PURPOSE).exists() or read_json_object(stage / PURPOSE) != _as_json(purpose)):
        with writing(stage):
            shutil.rmtree(stage)  # of a call with another model or other settings
    if not stage.exists():
        with writing(stage):
            stage.mkdir()
        write_json(stage / PURPOSE, purpose)
    drop_torn_line(stage / SCORES)
    found = {line["episode"]: np.array(line["scores"], np.float32) for line in read_lines(stage / SCORES)}
    features = _features(dataset, model)
    with progress_bar("score", dataset.num_episodes, len(found)) as show:
        end = 0
        for index, number in enumerate(dataset.episode_numbers):
            start, end = end, end + dataset.length(index)
            if number in found:
                continue
            if features is not None and isinstance(model, FittedReward):
                scores = model.ensemble.mean_score(features[start:end])
            else:
                cameras = [model.camera] if isinstance(model, FittedReward) and model.camera else None
                scores = score_episode(model, dataset.episode(index, cameras=cameras))
            append_lines(stage / SCORES, [{"episode": number, "scores": scores.astype(float).tolist()}])
            found[number] = scores
            show(len(found), "")
    return found


def _features(dataset: LeRobotDataset, model: RewardModel) -> Any:
    """Features of all rows from the cache, where the model looks at features; None where it looks at pictures."""
    if not isinstance(model, FittedReward) or model.ensemble.shape.network == "cnn":
        return None
    said = model.about["features"]
    look: Look = look_at(dataset, said["name"], said["camera"], str(model.ensemble.device))
    if look.encoder == PICTURES or look.features.identity != said["identity"]:
        return None
    return features_of(dataset, look)


def _rewards(
    config: RelabelConfig, dataset: LeRobotDataset, scores: dict[int, Floats]
) -> tuple[dict[int, Floats], dict[str, Any]]:
    """Rewards [T] by episode number, and the affine maps that made them, by task."""
    numbers = list(dataset.episode_numbers)
    given = [transition_scores(scores[number], config.form) for number in numbers]
    tasks = [dataset.task_id(index) for index in range(dataset.num_episodes)]
    maps: dict[int, Affine] = scale_maps(given, tasks, config.scale, config.outliers)
    rewards = {}
    for index, (number, part, task) in enumerate(zip(numbers, given, tasks, strict=True)):
        rewards[number] = maps[task](part)
        if config.terminal != "as_scored" and dataset.episode(index, cameras=()).success:
            rewards[number] = end_success(rewards[number], config.terminal, config.discount)
    return rewards, {str(task): asdict(one) for task, one in maps.items()}
