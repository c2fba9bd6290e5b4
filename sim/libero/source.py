"""Where a suite's tasks come from: hf-libero with its assets, or (`sim.libero.archive`) a file packed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import Split
from sim.core.stepping import SteppingMode
from sim.libero.assets import describe_assets
from sim.libero.definition import SceneState
from sim.libero.installation import find_installation, installed_versions
from sim.libero.scene import LiberoScene
from sim.libero.tasks import SETTLE_STEPS, LiberoTask, load_tasks

if TYPE_CHECKING:
    from sim.libero.build import TaskBuilder


class TaskSimulation(Protocol):
    """One task that can be started from its initial states."""

    scene: LiberoScene

    def start(self, split: Split, index: int) -> None:
        """Put the scene into an initial state, settled but for the last control step of `SETTLE_STEPS`.

        With that step still to come, what is seen of the state does not have to be stored.
        """


class TaskSource(Protocol):
    """The tasks of one suite."""

    tasks: tuple[LiberoTask, ...]
    versions: Mapping[str, str]
    """Of the packages that determine physics and pictures."""

    @property
    def assets(self) -> Mapping[str, Any]:
        """What `sim.libero.assets.describe_assets` says of the meshes and textures."""

    def open(self, task_id: int, stepping: SteppingMode) -> TaskSimulation:
        """Make one task's simulation. Raises `EnvironmentRequestError` when its files do not fit."""


class InstalledSource:
    """hf-libero, robosuite and LIBERO's assets, as installed."""

    def __init__(self, suite: str) -> None:
        """Raises `EnvironmentRequestError` for an unknown suite, a missing or wrong package, or missing assets."""
        self._installation = find_installation()
        self._installed = load_tasks(suite, self._installation)
        self.tasks: tuple[LiberoTask, ...] = self._installed
        self.versions: Mapping[str, str] = installed_versions()
        self._started: StartedStates = {}
        self._builders: WeakValueDictionary[int, TaskBuilder] = WeakValueDictionary()

    @property
    def assets(self) -> Mapping[str, Any]:
        """See `TaskSource.assets`. Read when asked for: a worker that only steps has no use for it."""
        return describe_assets(self._installation.assets)

    def open(self, task_id: int, stepping: SteppingMode) -> InstalledSimulation:
        """Build the task (a second or more), unless it is in use already.

        Raises `EnvironmentRequestError` when it cannot be built.
        """
        from sim.libero.build import TaskBuilder

        builder = self._builders.get(task_id)
        if builder is None:
            builder = self._builders[task_id] = TaskBuilder(self._installed[task_id], self._installation)
        scene = LiberoScene(builder.shared, mujoco.MjData(builder.model), builder.definition, stepping)
        return InstalledSimulation(scene, builder, self._started)


StartedStates = dict[tuple[int, Split, int], SceneState]
"""(task, split, index) -> what `TaskSimulation.start` makes of it."""


class Builder(Protocol):
    """What draws a task's initial states."""

    data: mujoco.MjData
    """Where it draws them."""

    @property
    def task(self) -> LiberoTask:
        """Whose."""

    def place(self, split: Split, index: int) -> NDArray[np.float64]:
        """Place what is fixed in the model; returns the state [1 + nq + nv] to load then."""


class InstalledSimulation:
    """A task as it was built. Each initial state is placed and settled once for all that share `started`."""

    def __init__(self, scene: LiberoScene, builder: Builder, started: StartedStates) -> None:
        self.scene, self.builder, self._started = scene, builder, started

    def start(self, split: Split, index: int) -> None:
        """See `TaskSimulation.start`."""
        self.scene.restore(self.state(split, index))

    def state(self, split: Split, index: int) -> SceneState:
        """What `start` restores."""
        key = (self.builder.task.index, split, index)
        if key not in self._started:
            self.scene.hold_model()  # where the builder places what is fixed
            state = self.builder.place(split, index)
            self.scene.take_over(self.builder.data)
            self.scene.load(state)
            self.scene.settle(SETTLE_STEPS - 1)
            self._started[key] = self.scene.save()
        return self._started[key]
