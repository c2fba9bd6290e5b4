"""The trainer that a run needs: on its logs, on its logs and imagined rollouts, or on imagined rollouts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vla.errors import ReflexError
from vla.offline.algorithms.bc import BC
from vla.offline.algorithms.mbrcsl import MBRCSL
from vla.offline.controls import CONTROLS, REPLAY
from vla.offline.model_based.imagined import imagined_transitions, load_imagined, save_imagined
from vla.offline.model_based.settings import ImagineSettings
from vla.offline.training import OfflineSettings, OfflineTrainer
from vla.offline.transitions import Transitions


def is_model_based(settings: OfflineSettings, wanted: ImagineSettings) -> bool:
    """Whether anything is imagined. Raises `ReflexError` for settings that do not go together."""
    alone = isinstance(settings.algorithm, MBRCSL)
    if not alone and wanted.share == 0:
        return False
    if alone and wanted.share > 0:
        raise ReflexError("algo=mbrcsl learns from imagined rollouts alone; leave imagine.share out")
    if alone and settings.weighting != "uniform":
        raise ReflexError(f"algo=mbrcsl chooses rollouts itself; leave episode_weighting={settings.weighting} out")
    if settings.ends != "success":
        raise ReflexError(
            f"ends={settings.ends} takes the end of a recording for a state, which no model can foresee; imagine with "
            "ends=success"
        )
    return True


def known_controls(settings: OfflineSettings, wanted: ImagineSettings) -> tuple[str, ...]:
    """The controls of a run. Raises `ReflexError` as `is_model_based`."""
    if not is_model_based(settings, wanted):
        return CONTROLS
    if isinstance(settings.algorithm, MBRCSL):  # where all returns are the same, none exceeds the data's
        return tuple(name for name in CONTROLS if name not in ("zero", "constant"))
    return (*CONTROLS, REPLAY)


def new_trainer(
    data: Transitions,
    settings: OfflineSettings,
    wanted: ImagineSettings,
    seed: int,
    policy_id: str = "gaussian",
    folder: Path | None = None,
) -> OfflineTrainer:
    """The trainer of a run, whose model is fitted here if it has one.

    Args:
        data: single steps.
        settings: of the trainer.
        wanted: what is imagined.
        seed: of everything.
        policy_id: what the policy is called.
        folder: where what was imagined is kept, and found again by a run that goes on; None keeps nothing.

    Raises:
        ReflexError: data or settings that cannot be used.
    """
    if not is_model_based(settings, wanted):
        return OfflineTrainer(data, settings, seed, policy_id)
    if folder is not None and folder.exists():
        transitions = load_imagined(folder, data, settings)
    else:
        imagined = imagined_transitions(data, settings, wanted, seed)
        transitions = imagined.transitions
        if folder is not None:
            save_imagined(folder, imagined)
    if isinstance(settings.algorithm, MBRCSL):
        return OfflineTrainer(transitions, replace(settings, reward_scale="none"), seed, policy_id)
    return ReplayAndImagined(data, settings, seed, policy_id, transitions, wanted.share)


def control_trainer(
    name: str, data: Transitions, settings: OfflineSettings, wanted: ImagineSettings, seed: int
) -> OfflineTrainer:
    """The trainer of a control of the run: with a model of its own, but for "replay" and imitation."""
    if name == REPLAY or isinstance(settings.algorithm, BC):
        return OfflineTrainer(data, settings, seed)
    return new_trainer(data, settings, wanted, seed)


class ReplayAndImagined(OfflineTrainer):
    """An offline trainer of whose batches a share is imagined; scales, and advantages, are those of the logs."""

    def __init__(
        self,
        data: Transitions,
        settings: OfflineSettings,
        seed: int,
        policy_id: str,
        imagined: Transitions,
        share: float,
    ) -> None:
        """`imagined` has the trainer's scale of rewards and its chunks. Raises `ReflexError` as `OfflineTrainer`."""
        super().__init__(data, settings, seed, policy_id)
        logged = len(self._table)
        self._table = torch.cat([self._table, self._normalised(imagined)])
        before = np.arange(1, logged + 1) / logged if self._cumulative is None else self._cumulative
        added = np.arange(1, len(imagined) + 1) / len(imagined)
        self._cumulative = np.concatenate([(1 - share) * before / before[-1], (1 - share) + share * added])
