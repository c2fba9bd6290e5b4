"""The embedded suite behind the suite contract."""

from __future__ import annotations

from typing import Any

import mujoco

from sim.contract import Expert, ManipulationEnvironment
from sim.core.listed_tasks import ListedTasks
from sim.embodiments import PANDA_EEF
from sim.tabletop.environment import IMAGE_SIZE, STIFFNESS, TabletopEnvironment
from sim.tabletop.tasks import NUM_INIT_STATES, TASKS, Task, get_task


class TabletopSuite(ListedTasks):
    """Ten language-conditioned tasks, 50 training and 50 evaluation initial states each."""

    name = "tabletop"
    _tasks = TASKS
    _states_per_split = NUM_INIT_STATES

    def __init__(self, image_size: int | None = None) -> None:
        self.image_size = IMAGE_SIZE if image_size is None else image_size
        self.embodiment = PANDA_EEF.with_image_size(self.image_size)

    def _task(self, task_id: int) -> Task:
        return get_task(task_id)

    def horizon(self, task_id: int) -> int:
        """Its control steps before truncation."""
        return get_task(task_id).horizon

    def make(self, task_id: int) -> ManipulationEnvironment:
        """Build one environment (about 5 ms)."""
        return TabletopEnvironment(task_id, self.image_size)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        """The scripted expert."""
        from sim.tabletop.expert import TabletopExpert  # the expert imports this package

        return TabletopExpert(seed, get_task(task_id))

    def tasks_of_same_scene(self, task_id: int) -> tuple[int, ...]:
        """See `Suite.tasks_of_same_scene`."""
        scene = get_task(task_id).scene
        return tuple(other for other in self.task_ids if other != task_id and get_task(other).scene == scene)

    def protocol(self) -> dict[str, Any]:
        """What determines results on this suite."""
        return {
            "suite": self.name,
            "suite_version": 1,
            "mujoco": mujoco.__version__,
            "image_size": self.image_size,
            "control_frequency": PANDA_EEF.control_frequency,
            "stiffness": STIFFNESS,
            "settle_steps": 0,
            "init_states_per_split": NUM_INIT_STATES,
            "horizons": {task.name: task.horizon for task in TASKS},
            "instructions": {task.name: task.instruction for task in TASKS},
        }
