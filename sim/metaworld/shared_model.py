"""One compiled model and one GL context for all environments of a task in a process.

A model is 20 MiB and takes 0.1 to 0.2 s to compile, and its GL context is larger still. What environments of one task
do not share of it is where MetaWorld's resets put its bodies and sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import Split
from sim.embodiments import Camera
from sim.metaworld.installation import task_class
from sim.metaworld.rendering import TableRenderer
from sim.metaworld.tasks import NUM_INIT_STATES, SEEDS, Task


@dataclass
class ModelPart:
    """What of a model is one environment's own."""

    body_pos: NDArray[np.float64]
    """[bodies, 3]"""
    site_pos: NDArray[np.float64]
    """[sites, 3]"""


class SharedModel:
    """A task's model, its renderers, and its initial states.

    Whoever is about to use the model says which environment's part it has to hold (`hold`).
    """

    def __init__(self, task: Task) -> None:
        """Compiles the model."""
        self.task = task
        self._class = task_class(task.name)
        # A property that looks at nothing of the object: the path can be asked for before there is one.
        path: str = self._class.model_name.fget(None)
        self.model = mujoco.MjModel.from_xml_path(str(Path(path)))
        self._compiled = self._present()
        self._held: ModelPart | None = None
        self._vectors: dict[Split, NDArray[np.float64]] = {}
        self._renderers: WeakValueDictionary[Camera, TableRenderer] = WeakValueDictionary()

    def new_part(self) -> ModelPart:
        """An environment's own part, as it was compiled."""
        return ModelPart(self._compiled.body_pos.copy(), self._compiled.site_pos.copy())

    def hold(self, part: ModelPart) -> None:
        """Let the model hold `part` until another is asked for; changes made meanwhile are kept in the part."""
        if part is self._held:
            return
        if self._held is not None:
            now = self._present()
            self._held.body_pos, self._held.site_pos = now.body_pos, now.site_pos
        self._held = part
        self._put(part)

    def as_compiled(self) -> None:
        """Put bodies and sites where they were before any reset."""
        self._put(self._compiled)

    def make_task(self, random: np.random.RandomState | None = None) -> Any:
        """MetaWorld's object of this task on this model; with `random` one that only draws initial states."""
        model = self.model

        def initialise(_: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
            return model, mujoco.MjData(model)

        members: dict[str, Any] = {"_initialize_simulation": initialise}
        if random is not None:
            members |= {"_get_state_rand_vec": _draw_from(random), "_reset_hand": _stay}
        built = type(self._class.__name__, (self._class,), members)()
        built._partially_observable = False  # the goal is among the numbers, as in MetaWorld's MT benchmarks
        vars(built).pop("sawyer_observation_space", None)  # it was made for hidden goals
        built._set_task_called, built._freeze_rand_vec = True, True
        return built

    def initial_vectors(self, split: Split, count: int = NUM_INIT_STATES) -> NDArray[np.float64]:
        """Where MetaWorld's sampler puts objects and goals, [count or more, numbers of this task]."""
        if split not in self._vectors or len(self._vectors[split]) < count:
            self.hold(self.new_part())
            drawing = self.make_task(np.random.RandomState(SEEDS[split]))  # the kind of generator MetaWorld uses
            vectors = []
            for _ in range(count):
                drawing.reset()
                vectors.append(drawing._last_rand_vec)
            self._vectors[split] = np.stack(vectors)
        return self._vectors[split]

    def renderer(self, camera: Camera) -> TableRenderer:
        """Draws any of the environments, for as long as somebody keeps it.

        Raises `EnvironmentRequestError` when no off-screen GL context can be created.
        """
        renderer = self._renderers.get(camera)
        if renderer is None:
            renderer = self._renderers[camera] = TableRenderer(self.model, camera)
        return renderer

    def _present(self) -> ModelPart:
        return ModelPart(self.model.body_pos.copy(), self.model.site_pos.copy())

    def _put(self, part: ModelPart) -> None:
        self.model.body_pos[:] = part.body_pos
        self.model.site_pos[:] = part.site_pos


def _draw_from(random: np.random.RandomState) -> Any:
    """MetaWorld's sampler on a generator of its own; there it is numpy's global one, seeded alike."""

    def draw(task: Any) -> NDArray[np.float64]:
        space = task._random_reset_space
        task._last_rand_vec = random.uniform(space.low, space.high, size=space.low.size).astype(np.float64)
        vector: NDArray[np.float64] = task._last_rand_vec
        return vector

    return draw


def _stay(task: Any, steps: int = 50) -> None:
    """In place of moving the hand to its start, which takes 10 ms and has no part in what is drawn."""
    mujoco.mj_forward(task.model, task.data)
    task.init_tcp = task.tcp_center
