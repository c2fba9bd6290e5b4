"""LIBERO's suites: tasks, initial states and protocol behind `sim.contract.Suite`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sim.contract import EnvironmentRequestError, Expert
from sim.core.listed_tasks import ListedTasks
from sim.core.stepping import SteppingMode
from sim.embodiments import PANDA_EEF
from sim.libero.rendering import CAMERAS, Look
from sim.libero.source import InstalledSource, TaskSource
from sim.libero.tasks import (
    EVALUATION_SEED,
    NUM_INIT_STATES,
    OFFICIAL_IMAGE_SIZE,
    SETTLE_ACTION,
    SETTLE_STEPS,
    LiberoTask,
    Variant,
    check_image_size,
)

if TYPE_CHECKING:
    from sim.libero.environment import LiberoEnvironment


ARCHIVES_VARIABLE = "LIBERO_ARCHIVES"
"""Environment variable that names a folder of archives."""


TaskKind = TypeVar("TaskKind", bound=LiberoTask)


class NumberedTasks(ListedTasks, Generic[TaskKind]):
    """The tasks of a LIBERO suite, or of robosuite's, which are listed as LIBERO's are."""

    _tasks: tuple[TaskKind, ...]
    _states_per_split = NUM_INIT_STATES

    def _task(self, task_id: int) -> TaskKind:
        if isinstance(task_id, bool) or task_id not in self.task_ids:
            listing = "; ".join(f"{task.index}: {task.instruction}" for task in self._tasks[:12])
            raise EnvironmentRequestError(
                f"{self.name} has tasks 0 to {len(self._tasks) - 1}, not {task_id!r} ({listing})"
            )
        return self._tasks[task_id]


class LiberoSuite(NumberedTasks[LiberoTask]):
    """libero_spatial, libero_object, libero_goal, libero_10 or libero_90.

    Behind the name, in this order, "_512" makes episodes up to 512 steps long, "_fast" steps physics faster and
    "_plain" draws pictures plainly (`sim.libero.tasks.Variant`). Tasks, initial states and success are the same.

    Evaluation states are the 50 official ones of each task; training states are 50 fresh draws per task, made with
    seeds that depend on suite, task and index only.
    """

    def __init__(self, name: str, image_size: int = OFFICIAL_IMAGE_SIZE) -> None:
        """Raises `EnvironmentRequestError` for an unknown suite, a missing or wrong package, or missing assets."""
        self._variant = Variant.of(name)
        check_image_size(image_size)
        self.name = name
        self._stepping: SteppingMode = "fast" if self._variant.fast else "exact"
        self._look: Look = "plain" if self._variant.plain else "official"
        self.image_size = image_size
        self.embodiment = PANDA_EEF.with_image_size(image_size)
        self._source = find_source(self._variant.base)
        self._tasks = self._source.tasks

    def horizon(self, task_id: int) -> int:
        """Control steps of an episode after settling; the same for all tasks of a suite."""
        self._task(task_id)
        return self._variant.horizon

    def make(self, task_id: int) -> LiberoEnvironment:
        """Build one environment (a second or more)."""
        from sim.libero.environment import LiberoEnvironment

        task = self._task(task_id)
        simulation = self._source.open(task.index, self._stepping)
        return LiberoEnvironment(task, simulation, self._variant.horizon, self.image_size, self._look)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        """The scripted expert of a task. Raises `EnvironmentRequestError` for suites that have none yet."""
        from sim.libero.expert import make_expert

        return make_expert(self._variant.base, self._task(task_id), seed)

    def protocol(self) -> dict[str, Any]:
        """JSON-ready facts that determine results; two results with equal protocols can be compared."""
        return {
            "suite": self.name,
            "versions": dict(self._source.versions),
            "assets": dict(self._source.assets),
            "stepping": self._stepping,
            "look": self._look,
            "horizon": self._variant.horizon,
            "settle_steps": SETTLE_STEPS,
            "settle_action": list(SETTLE_ACTION),
            "image_size": self.image_size,
            "image_path": "render at image_size, flip both axes, no re-encoding",
            "cameras": list(CAMERAS),
            "state": "eef position, axis-angle of the xyzw quaternion with the sign of w kept, finger positions",
            "splits": {
                "train": f"{NUM_INIT_STATES} draws of LIBERO's placement samplers, seed crc32(suite/task/train/index)",
                "eval": f"{NUM_INIT_STATES} official .pruned_init states, fixture poses of seed {EVALUATION_SEED}",
            },
            "tasks": [{"name": task.name, "init_states_sha256": task.init_states_sha256} for task in self._tasks],
        }

    def self_test(self, pictures: bool) -> dict[str, Any]:
        """See `sim.libero.self_test.self_test`."""
        from sim.libero.self_test import self_test

        return self_test(self.make, self.protocol(), pictures)


def find_source(suite: str) -> TaskSource:
    """The suite's archive in the folder that LIBERO_ARCHIVES names, if it is there; else hf-libero.

    Raises `EnvironmentRequestError` when neither can be used.
    """
    from sim.libero.archive import ArchiveSource, archive_path

    folder = os.environ.get(ARCHIVES_VARIABLE)
    if folder and (path := archive_path(Path(folder), suite)).is_file():
        return ArchiveSource(path, suite)
    return InstalledSource(suite)
