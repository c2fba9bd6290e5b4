"""What a training run is at the end of an iteration, and how it gets to disk and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vla.errors import ReflexError, restoring
from vla.policies.protocol import TrainablePolicy
from vla.rl.averaging import WeightAverage
from vla.rl.config import RESUME_MAY_CHANGE
from vla.run.files import read_json, write_json
from vla.run.plugins import Part
from vla.run.run_folder import RunFolder
from vla.run.settings import flat_settings

POLICY_FOLDER = "policy"
OPTIMISER_FILE = "optimiser.pt"
COUNTERS_FILE = "progress.json"
REFERENCE_FOLDER = "reference"
"""In the run folder: the policy training started from, when something compares with it."""
ENCODER_FOLDER = "encoder"
"""In the run folder: the reward's encoder, when it was made for this run."""


@dataclass
class Counters:
    """How far a run is. Everything random is a function of the seed and the iteration, so no generator is kept."""

    iteration: int = 0
    """Updates made."""
    episodes: int = 0
    """Training rollouts so far, those for the encoder included."""
    control_steps: int = 0
    """Simulated control steps of those rollouts, those that lead into them included."""
    seconds: float = 0.0
    """Wall-clock time so far, over all resumes."""
    learning_rate_scale: float = 1.0
    """What multiplies the configured learning rate: halved after each update that `target_kl` stopped."""


@dataclass
class TrainingState:
    """A policy in training."""

    policy: TrainablePolicy
    optimiser: torch.optim.Optimizer
    counters: Counters
    average: WeightAverage | None = None
    """Of the policy's weights; None to evaluate and keep the weights as they are."""
    saved_iteration: int = -1
    """Iteration of the newest checkpoint; -1 for none."""

    @property
    def fresh(self) -> bool:
        """Whether there is no checkpoint yet."""
        return self.saved_iteration < 0

    def averaged(self) -> AbstractContextManager[None]:
        """The policy with its averaged weights."""
        return nullcontext() if self.average is None else self.average.applied()


def save_state(run: RunFolder, state: TrainingState, parts: Sequence[Part], keep: int | None) -> Path:
    """Write a checkpoint of the present iteration, whole or not at all; `parts` write theirs into it."""

    def write(folder: Path) -> None:
        with state.averaged():
            state.policy.save_pretrained(folder / POLICY_FOLDER)
        if state.average is not None:
            state.average.save_weights(folder)
        for part in parts:
            part.save(folder)
        torch.save(state.optimiser.state_dict(), folder / OPTIMISER_FILE)
        write_json(folder / COUNTERS_FILE, asdict(state.counters))

    path = run.save_checkpoint(state.counters.iteration, write, keep=keep)
    state.saved_iteration = state.counters.iteration
    return path


def load_counters(folder: Path) -> Counters:
    """Counters of a checkpoint. Raises `ReflexError` when the file is damaged."""
    path = folder / COUNTERS_FILE
    try:
        return Counters(**read_json(path))
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
    before = flat_settings(run.read_config())
    if not before:
        return
    changed = [
        f"{key} (was {before.get(key)!r}, now {value!r})"
        for key, value in flat_settings(config).items()
        if key not in RESUME_MAY_CHANGE and before.get(key) != value
    ]
    if changed:
        raise ReflexError(
            f"{run.path} was started with other settings: {', '.join(changed)}; resume with the ones it had, or start "
            "a new run in another output folder"
        )
