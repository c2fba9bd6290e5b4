"""Where metrics go besides ``metrics.jsonl``: TensorBoard event files (always) and Weights & Biases (an extra)."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vla.errors import ReflexError, require_module, writing
from vla.run.files import read_json_object, write_json

__all__ = ["MetricSink", "TensorBoardSink", "WandbSink"]


class MetricSink(Protocol):
    """Something that shows metrics while a run goes on.  ``metrics.jsonl`` stays the record of truth."""

    def configure(self, config: Mapping[str, Any]) -> None:
        """Show the run's settings, plain JSON values."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record finite metrics at a step."""

    def restart_after(self, step: int) -> None:
        """Forget what was logged past ``step``: the run continues from there."""

    def close(self) -> None:
        """Flush and release."""


class TensorBoardSink:
    """Event files in one folder, opened at the first metric and flushed at every step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._purge_step: int | None = None
        self._writer: Any = None

    def configure(self, config: Mapping[str, Any]) -> None:
        """Nothing to do: TensorBoard shows scalars."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar per metric; non-finite values are left out, TensorBoard cannot draw them."""
        with writing(self._folder):
            if self._writer is None:
                # Imported here: it takes a second that commands which log nothing need not pay.
                from torch.utils.tensorboard.writer import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            for key, value in metrics.items():
                if math.isfinite(value):
                    self._writer.add_scalar(key, value, step)
            self._writer.flush()

    def restart_after(self, step: int) -> None:
        """Tell TensorBoard to hide events past ``step``."""
        self.close()
        self._purge_step = step + 1

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbSink:
    """One Weights & Biases run per run folder; its id is kept in ``wandb.json`` so that resuming continues it.

    The project is ``reflex`` unless the package's own variable WANDB_PROJECT names another.
    """

    def __init__(self, folder: Path) -> None:
        """Start or continue the run.

        Raises:
            ReflexError: the ``wandb`` package is not installed, or it cannot start (no login, no network).
        """
        install = 'run: pip install "wandb>=0.19", or set logger=tensorboard'
        wandb: Any = require_module("wandb", "logger=wandb", install)
        identity = folder / "wandb.json"
        run_id = read_json_object(identity).get("id") if identity.exists() else uuid.uuid4().hex[:8]
        project = os.environ.get("WANDB_PROJECT", "reflex")
        try:
            self._run = wandb.init(project=project, id=run_id, name=folder.name, dir=str(folder), resume="allow")
        except wandb.Error as error:
            raise ReflexError(
                f"Weights & Biases cannot start ({error}); log in with `wandb login`, record without a network with "
                "WANDB_MODE=offline, or set logger=tensorboard"
            ) from error
        write_json(identity, {"id": run_id})

    def configure(self, config: Mapping[str, Any]) -> None:
        """Show the settings beside the run; a resumed run may have changed some."""
        self._run.config.update(dict(config), allow_val_change=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log finite values at ``step``."""
        self._run.log({key: value for key, value in metrics.items() if math.isfinite(value)}, step=step)

    def restart_after(self, step: int) -> None:
        """Nothing to do: W&B keeps the first value of a step, and a resumed run repeats the same values."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
