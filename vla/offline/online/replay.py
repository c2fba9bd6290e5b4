"""What was played, on disk: a file a round in the run folder, whole or absent, from which a resumed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sim.embodiments import Embodiment
from vla.errors import ReflexError
from vla.offline.transitions import Transitions
from vla.run.files import write_bytes

FOLDER = "replay"
"""In a run folder."""


def round_file(run: Path, number: int) -> Path:
    """Where the transitions of a round, from 1, are kept."""
    return run / FOLDER / f"{number:05d}.safetensors"


def write_round(run: Path, number: int, transitions: Transitions) -> None:
    """Keep the single steps of a round, atomically. Raises `ReflexError` where the disk is full."""
    columns = {name: np.ascontiguousarray(values) for name, values in transitions.columns().items()}
    write_bytes(round_file(run, number), save(columns))


def read_round(run: Path, number: int, robot: Embodiment) -> Transitions:
    """What `write_round` kept of a robot. Raises `ReflexError` naming a file that is missing or damaged."""
    path = round_file(run, number)
    try:
        columns: dict[str, Any] = load_file(path)
        return Transitions(embodiment=robot, **columns)
    except (OSError, SafetensorError, TypeError) as error:
        raise ReflexError(
            f"{path} cannot be read ({error}), and the run cannot go on without what was played in that round; restore "
            "it, or start again in another output folder"
        ) from error
