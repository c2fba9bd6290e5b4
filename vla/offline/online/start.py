"""What an online run goes on from: the settings and the newest checkpoint of a run of `vla offline`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vla.errors import ReflexError
from vla.offline.command import OfflineConfig
from vla.offline.goals import GoalSettings
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.model_based.training import is_model_based
from vla.offline.training import OfflineTrainer
from vla.policies.gaussian import GaussianPolicy
from vla.run.checkpoints import newest_checkpoint
from vla.run.run_folder import read_config

SIGNS = ("algo", "dataset", "reward_scale", "ends", "chunk_horizon")
"""Settings that only a run of `vla offline` has together."""


@dataclass(frozen=True)
class Start:
    """Where learning goes on from."""

    folder: Path
    """Of the run."""
    config: OfflineConfig
    """How it was learnt, with the settings of the algorithm that the online run changes."""
    checkpoint: Path
    """Its newest."""


def read_start(folder: Path, settings: Mapping[str, Mapping[str, Any]], logs: str | None) -> Start:
    """Read a run folder of `vla offline`.

    Args:
        folder: the run.
        settings: of the algorithm, by its name: those that are other than they were.
        logs: the dataset that the run learnt from, where it is elsewhere by now; None where it was.

    Raises:
        ReflexError: it is a run of another command, has no whole checkpoint, or a setting does not exist.
    """
    found = read_config(folder)
    if any(name not in found for name in SIGNS):
        raise ReflexError(f"start={folder} is no run folder of vla offline; learn a policy and critics with it first")
    known = {entry.name for entry in dataclasses.fields(OfflineConfig)}
    values = {name: value for name, value in found.items() if name in known}
    merged = {name: dict(part) for name, part in values["settings"].items()}
    for name, part in settings.items():
        merged[name] = merged.get(name, {}) | dict(part)
    groups = {"goals": GoalSettings(**values.get("goals", {})), "imagine": ImagineSettings(**values.get("imagine", {}))}
    config = OfflineConfig(**(values | groups | {"settings": merged, "dataset": logs or values["dataset"]}))
    if config.encoder is not None or config.goals.method != "none":
        raise ReflexError(
            f"start={folder} was learnt with encoder={config.encoder} and goals.method={config.goals.method}; what "
            "goes on online is learnt from states and rewards: run vla offline without the two"
        )
    if is_model_based(config.training_settings(), config.imagine):
        raise ReflexError(
            f"start={folder} was learnt from imagined rollouts (algo={config.algo}, imagine.share="
            f"{config.imagine.share}), which vla online does not go on with; run vla offline without them"
        )
    last = newest_checkpoint(folder / "checkpoints")
    if last is None:
        raise ReflexError(f"start={folder} has no whole checkpoint; let vla offline finish (resume=true)")
    return Start(folder, config, last[1])


def check_start(start: Start, trainer: OfflineTrainer) -> None:
    """Whether learning can go on in a trainer, by what the start's policy says.

    Raises:
        ReflexError: the algorithm has no critics; the checkpoint is of another robot or chunk horizon than its
            settings say; the logs are not those that it was learnt from.
    """
    if {name.partition(".")[0] for name in trainer.state} == {"policy"}:
        raise ReflexError(
            f"start={start.folder} was learnt with algo={start.config.algo}, which has no critics that could go on "
            "learning; start from one that has, such as iql"
        )
    was, now = GaussianPolicy.from_pretrained(start.checkpoint / "policy"), trainer.policy()
    if was.chunk_horizon != now.chunk_horizon:
        raise ReflexError(
            f"{start.checkpoint} holds a policy of chunk_horizon={was.chunk_horizon}, and config.yaml of its run says "
            f"{now.chunk_horizon}; restore that file"
        )
    same = was.embodiment == now.embodiment and all(
        torch.equal(value, now.state_dict()[name]) for name, value in was.state_dict().items() if "scale" in name
    )
    if not same:
        raise ReflexError(
            f"the logs {start.config.dataset} are not those that start={start.folder} was learnt from: their robot, or "
            "the mean and deviation of its state, are others; give those as logs=..., or run vla offline on these"
        )
