"""MetaWorld behind the suite contract."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import mujoco

from sim.contract import EnvironmentRequestError, Expert, Split, StepOutcome
from sim.core.listed_tasks import ListedTasks
from sim.metaworld.installation import PACKAGE_VERSION, check_installation
from sim.metaworld.tasks import (
    ACTION_REPEAT,
    HORIZON,
    NUM_INIT_STATES,
    SAWYER,
    SAWYER_TRUE_STATE,
    SEEDS,
    STATE_SUFFIX,
    SUITE,
    TASKS,
    Task,
    count_init_states,
    get_task,
)

if TYPE_CHECKING:
    from sim.metaworld.environment import MetaWorldEnvironment
    from sim.metaworld.shared_model import SharedModel


_PROBE = 4
"""The task of the self test: a short one, which its expert always does."""


class MetaWorldSuite(ListedTasks):
    """The 50 tasks of MetaWorld, 50 training and 50 evaluation initial states each.

    `metaworld` shows a picture and what a robot feels. `metaworld_state` has MetaWorld's own 39 numbers, the same
    picture only where an `image_size` is asked for, and 1,000 training states. All else is the same.
    """

    _tasks = TASKS
    _states_per_split = NUM_INIT_STATES

    def __init__(self, name: str = SUITE, image_size: int | None = None) -> None:
        """Raises `EnvironmentRequestError` for an unknown variant, or a missing or wrong package."""
        if name not in (SUITE, SUITE + STATE_SUFFIX):
            raise EnvironmentRequestError(f"unknown suite {name!r}; MetaWorld is {SUITE} or {SUITE}{STATE_SUFFIX}")
        check_installation()
        self.name = name
        robot = SAWYER
        if name.endswith(STATE_SUFFIX):
            robot = SAWYER_TRUE_STATE
            if image_size is not None:
                robot = dataclasses.replace(robot, cameras=SAWYER.cameras)
        self.embodiment = robot.with_image_size(image_size)
        self._models: WeakValueDictionary[int, SharedModel] = WeakValueDictionary()

    def _task(self, task_id: int) -> Task:
        return get_task(task_id)

    def num_init_states(self, task_id: int, split: Split) -> int:
        """50; of `metaworld_state`, 1,000 to train from."""
        get_task(task_id)
        return count_init_states(self.name, split)

    def horizon(self, task_id: int) -> int:
        """125 control steps, MetaWorld's 500 steps."""
        get_task(task_id)
        return HORIZON

    def make(self, task_id: int) -> MetaWorldEnvironment:
        """Build one environment: 0.2 s for the first of a task, and 20 ms for each that shares its model."""
        from sim.metaworld.environment import MetaWorldEnvironment
        from sim.metaworld.shared_model import SharedModel
        from sim.metaworld.simulation import TaskSimulation

        task = get_task(task_id)
        shared = self._models.get(task_id)
        if shared is None:
            shared = self._models[task_id] = SharedModel(task)
        return MetaWorldEnvironment(self.name, task_id, TaskSimulation(shared), self.embodiment)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        """MetaWorld's scripted policy of a task. It draws nothing, so every seed gives the same."""
        from sim.metaworld.expert import MetaWorldExpert

        return MetaWorldExpert(get_task(task_id))

    def protocol(self) -> dict[str, Any]:
        """JSON-ready facts that determine results; two results with equal protocols can be compared."""
        from sim.metaworld.rendering import VIEW

        training = count_init_states(self.name, "train")
        return {
            "suite": self.name,
            "suite_version": 1,
            "versions": {"mujoco": mujoco.__version__, "metaworld": PACKAGE_VERSION},
            "control_frequency": self.embodiment.control_frequency,
            "action_repeat": ACTION_REPEAT,
            "horizon": HORIZON,
            "settle_steps": 0,
            "success": "MetaWorld's, at the end of a control step",
            "cameras": [{"name": camera.name, "size": camera.height, **VIEW} for camera in self.embodiment.cameras],
            "look": "no shadows, reflections, sky or multisampling",
            "state": list(self.embodiment.state.names),
            "splits": {split: f"metaworld.MT1(task, seed={seed}).train_tasks" for split, seed in SEEDS.items()},
            "init_states_per_split": NUM_INIT_STATES,
            "instructions": {task.name: task.instruction for task in TASKS},
            **({"training_states": training} if training != NUM_INIT_STATES else {}),
        }

    def self_test(self, pictures: bool) -> dict[str, Any]:
        """Let one expert do its task, and draw one picture; see `Suite.self_test`."""
        environment, expert = self.make(_PROBE), self.make_expert(_PROBE, seed=0)
        environment.reset_to("eval", 0)
        expert.reset(environment)
        outcome = StepOutcome(success=False, truncated=False, cost=0.0, progress=0.0)
        steps = 0
        while not outcome.done:
            outcome = environment.advance(expert.act(environment))
            steps += 1
        if not outcome.success:
            raise EnvironmentRequestError(
                f"MetaWorld's policy no longer does {self.task_name(_PROBE)}, which it does in 15 control steps: this "
                f"is another simulator (mujoco {mujoco.__version__}). Install what constraints.txt names"
            )
        if pictures:
            environment.render_observation()
        environment.close()
        return {"off_protocol": [], "expert_steps": steps}
