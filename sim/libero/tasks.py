"""LIBERO's suites as data: task order, instructions, horizons, and the 50 official initial states of each task."""

from __future__ import annotations

import hashlib
import importlib.util
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Split
from sim.libero.installation import Installation

HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Suite -> control steps of an episode, after settling (OpenVLA, OpenVLA-OFT and openpi use these)."""

LONG_SUFFIX, FAST_SUFFIX, PLAIN_SUFFIX = "_512", "_fast", "_plain"
"""What may stand behind a suite's name, in this order; see `Variant`."""

LONG_HORIZON = 512
"""Control steps of an episode in SimpleVLA-RL's and SRPO's evaluations, whatever the suite."""

SETTLE_STEPS = 10
"""Control steps of `SETTLE_ACTION` after every reset, so that objects placed in the air come to rest."""

SETTLE_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)

NUM_INIT_STATES = 50
"""Initial states per task and split."""

OFFICIAL_IMAGE_SIZE = 256
"""Pixels a side, in published evaluations."""

EVALUATION_SEED = 0
"""Seed of the fixture poses in evaluation states. The official files store movable objects only; fixtures are drawn at
`env.reset()`, and OpenVLA-OFT seeds that with 0. Here every episode uses the draw its first episode gets."""


@dataclass(frozen=True)
class Variant:
    """A suite and how it is run, as a name says: "libero_spatial", "libero_goal_512", "libero_10_fast_plain"."""

    base: str
    horizon: int
    """Control steps of an episode: the suite's own, or `LONG_HORIZON` with "_512"."""
    fast: bool
    """Physics is stepped in the "fast" mode of `sim.core.stepping`, with "_fast"."""
    plain: bool
    """Pictures have the "plain" look of `sim.libero.rendering`, with "_plain"."""

    @classmethod
    def of(cls, name: str) -> Variant:
        """What a name says. Raises `EnvironmentRequestError` naming the known suites when it says none."""
        found = {}
        base = name
        for suffix in (PLAIN_SUFFIX, FAST_SUFFIX, LONG_SUFFIX):
            found[suffix] = base.endswith(suffix)
            base = base.removesuffix(suffix)
        check_suite_name(base)
        horizon = LONG_HORIZON if found[LONG_SUFFIX] else HORIZONS[base]
        return cls(base, horizon, fast=found[FAST_SUFFIX], plain=found[PLAIN_SUFFIX])


@dataclass(frozen=True)
class LiberoTask:
    """One task of a suite."""

    suite: str
    index: int
    name: str
    instruction: str
    init_states_sha256: str
    """Of the file of its official initial states."""


@dataclass(frozen=True)
class InstalledTask(LiberoTask):
    """One that hf-libero can build."""

    bddl_file: Path
    """The task's definition: objects, regions, initial relations and goal."""
    init_states_file: Path
    """The official initial states, a torch file holding a float64 array [50, 1 + nq + nv]."""


def check_image_size(image_size: int) -> None:
    """Raise `EnvironmentRequestError` unless pictures of `image_size` pixels a side can be drawn."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 16 <= image_size <= 2048:
        raise EnvironmentRequestError(f"image_size must be an integer from 16 to 2048, not {image_size!r}")


def check_suite_name(name: str) -> None:
    """Raise `EnvironmentRequestError` naming the known suites when `name` is none of them."""
    if name not in HORIZONS:
        raise EnvironmentRequestError(f"unknown LIBERO suite {name!r}; known suites: {', '.join(HORIZONS)}")


def load_tasks(suite: str, installation: Installation) -> tuple[InstalledTask, ...]:
    """The tasks of a suite in LIBERO's default order. Raises `EnvironmentRequestError` for an unknown suite."""
    check_suite_name(suite)
    tasks = []
    for index, name in enumerate(_task_map(installation.package)[suite]):
        bddl_file = installation.package / "bddl_files" / suite / f"{name}.bddl"
        init_states_file = installation.package / "init_files" / suite / f"{name}.pruned_init"
        for path in (bddl_file, init_states_file):
            if not path.is_file():
                raise EnvironmentRequestError(
                    f"hf-libero lacks {path}; reinstall it: pip install --no-deps hf-libero==0.1.4"
                )
        digest = hashlib.sha256(init_states_file.read_bytes()).hexdigest()
        tasks.append(
            InstalledTask(suite, index, name, instruction_from_name(name), digest, bddl_file, init_states_file)
        )
    return tuple(tasks)


def instruction_from_name(name: str) -> str:
    """The language instruction that every published evaluation uses: the task's name without its scene prefix.

    It differs from the sentence inside the `.bddl` file, which some tasks phrase otherwise.
    """
    words = name.split("_")
    if name[:1].isupper():  # KITCHEN_SCENE10_put_the... (libero_10 and libero_90)
        scene = next(position for position, word in enumerate(words) if word.startswith("SCENE"))
        words = words[scene + 1 :]
    return " ".join(words)


def read_init_states(path: Path) -> NDArray[np.float64]:
    """The official initial states of a task, float64 [50, 1 + nq + nv]: time, positions, velocities.

    Raises `EnvironmentRequestError` when the file is damaged or holds anything but one such array.
    """
    import torch  # stepping needs no torch; only this file format does

    reconstruct: Any = np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # what a pickled array calls
    allowed: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Float64DType,
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            states = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError... for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentRequestError(
            f"the initial states in {path} cannot be read ({reason}); the file is damaged. "
            "Reinstall it: pip install --force-reinstall --no-deps hf-libero==0.1.4"
        ) from error
    valid = isinstance(states, np.ndarray) and states.dtype == np.float64 and states.ndim == 2
    if not valid or len(states) != NUM_INIT_STATES or not np.isfinite(states).all():
        raise EnvironmentRequestError(
            f"{path} does not hold {NUM_INIT_STATES} finite float64 initial states; "
            "reinstall it: pip install --force-reinstall --no-deps hf-libero==0.1.4"
        )
    return np.asarray(states)


def sampling_seed(task: LiberoTask, split: Split, index: int, attempt: int = 0) -> int:
    """Seed (32 bits) of one sampled initial state; depends only on its arguments, so it is the same everywhere."""
    return zlib.crc32(f"{task.suite}/{task.name}/{split}/{index}/{attempt}".encode())


def check_init_state(task: LiberoTask, split: Split, index: int) -> None:
    """Raise `EnvironmentRequestError` unless `split` and `index` name one of the task's initial states."""
    if split not in ("train", "eval"):
        raise EnvironmentRequestError(f"unknown split {split!r}; it is 'train' or 'eval'")
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < NUM_INIT_STATES:
        raise EnvironmentRequestError(
            f"{task.suite} task {task.index} has {split} initial states 0 to {NUM_INIT_STATES - 1}, not {index!r}"
        )


def _task_map(package: Path) -> dict[str, list[str]]:
    """LIBERO's list of tasks, read without importing `libero.libero.benchmark`, which needs torch and prints."""
    path = package / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("_libero_suite_task_map", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise EnvironmentRequestError(
            f"hf-libero lacks {path}; reinstall it: pip install --no-deps hf-libero==0.1.4"
        ) from error
    task_map: dict[str, list[str]] = module.libero_task_map
    return task_map
