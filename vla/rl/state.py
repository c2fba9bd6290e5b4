"""What a training run is at the end of an iteration, and how it gets to disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vla.errors import ReflexError, restoring
from vla.rewards.success_bank import SuccessBank
from vla.rl.averaging import WeightAverage
from vla.rl.batch import TrainablePolicy
from vla.rl.config import RESUME_MAY_CHANGE
from vla.rl.critic import Critic
from vla.rl.implicit_reward import ImplicitReward
from vla.rl.replay import Replay
from vla.run.files import read_json, write_json
from vla.run.run_folder import RunFolder

POLICY_FOLDER = "policy"
OPTIMISER_FILE = "optimiser.pt"
PROGRESS_FILE = "progress.json"
REFERENCE_FOLDER = "reference"
"""In the run folder: the policy training started from, when a KL penalty needs it."""
ENCODER_FOLDER = "encoder"
"""In the run folder: the reward's encoder, when it was trained for this run."""


@dataclass
class Progress:
    """Counters. Everything random is a function of the seed and the iteration, so there is no generator to keep."""

    iteration: int = 0
    """Updates made."""
    episodes: int = 0
    """Training rollouts so far, those for the encoder included."""
    control_steps: int = 0
    """Simulated control steps of those rollouts."""
    seconds: float = 0.0
    """Wall-clock time so far, over all resumes."""


@dataclass
class TrainingState:
    """A policy in training."""

    policy: TrainablePolicy
    optimiser: torch.optim.Optimizer
    progress: Progress
    average: WeightAverage | None = None
    """Of the policy's weights; None to evaluate and keep the weights as they are."""
    critic: Critic | None = None
    """What judges decisions under `algo.advantage=critic`."""
    implicit: ImplicitReward | None = None
    """What judges decisions under `algo.step_credit=implicit`."""
    bank: SuccessBank | None = None
    """Successes of earlier iterations under `algo.success_bank`."""
    replay: Replay | None = None
    """Those that are learnt from again, under `algo.replay`."""
    saved_iteration: int = -1
    """Iteration of the newest checkpoint; -1 for none."""

    def averaged(self) -> AbstractContextManager[None]:
        """The policy with its averaged weights."""
        return nullcontext() if self.average is None else self.average.applied()


def save_state(run: RunFolder, state: TrainingState, keep: int | None) -> Path:
    """Write a checkpoint of the present iteration, whole or not at all."""

    def write(folder: Path) -> None:
        with state.averaged():
            state.policy.save_pretrained(folder / POLICY_FOLDER)
        if state.average is not None:
            state.average.save_weights(folder)
        if state.critic is not None:
            state.critic.save(folder)
        if state.implicit is not None:
            state.implicit.save(folder)
        if state.bank is not None:
            state.bank.save(folder)
        if state.replay is not None:
            state.replay.save(folder)
        torch.save(state.optimiser.state_dict(), folder / OPTIMISER_FILE)
        write_json(folder / PROGRESS_FILE, asdict(state.progress))

    path = run.save_checkpoint(state.progress.iteration, write, keep=keep)
    state.saved_iteration = state.progress.iteration
    return path


def load_progress(folder: Path) -> Progress:
    """Counters of a checkpoint. Raises `ReflexError` when the file is damaged."""
    path = folder / PROGRESS_FILE
    try:
        return Progress(**read_json(path))
    except TypeError as error:
        raise ReflexError(f"{path} does not fit this version ({error}); resume from another checkpoint") from error


def load_optimiser(folder: Path, optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Restore the optimiser's state. Raises `ReflexError` when the file is damaged or belongs to another policy."""
    path = folder / OPTIMISER_FILE
    with restoring(path):
        optimiser.load_state_dict(torch.load(path, map_location=device, weights_only=True))


def check_same_run(run: RunFolder, config: Mapping[str, Any]) -> None:
    """Refuse to resume under a configuration that would make two runs of one.

    Raises:
        ReflexError: a field outside `RESUME_MAY_CHANGE` differs from the run's `config.yaml`; all that do are named.
    """
    before = _flatten(run.read_config())
    if not before:
        return
    changed = [
        f"{key} (was {before.get(key)!r}, now {value!r})"
        for key, value in _flatten(config).items()
        if key not in RESUME_MAY_CHANGE and before.get(key) != value
    ]
    if changed:
        raise ReflexError(
            f"{run.path} was started with other settings: {', '.join(changed)}; resume with the ones it had, or start "
            "a new run in another output folder"
        )


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
