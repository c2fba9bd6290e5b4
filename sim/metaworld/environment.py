"""One MetaWorld task as a `ManipulationEnvironment`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, FloatArray, Observation, Split, StepOutcome
from sim.core.environment import SuiteEnvironment, check_action, check_init_state_id
from sim.embodiments import Embodiment
from sim.metaworld.rendering import TableRenderer
from sim.metaworld.simulation import Evaluation, TaskSimulation
from sim.metaworld.tasks import HORIZON, NUM_INIT_STATES, check_init_state, get_task

_HIGHEST_REWARD = 10.0


class MetaWorldEnvironment(SuiteEnvironment):
    """A task of MetaWorld at 20 Hz.

    Success is MetaWorld's, looked at after every control step. Progress is its dense reward, from 0 to 10, as a share
    of 10, and 1 on success. MetaWorld knows no cost: it is 0, or 1 for the step in which the simulation became unstable
    (the episode then ends as a failure).
    """

    num_init_states = NUM_INIT_STATES

    def __init__(self, suite_name: str, task_id: int, simulation: TaskSimulation, embodiment: Embodiment) -> None:
        """Its state is as much of MetaWorld's own observation as `embodiment` has numbers: the first four, or all."""
        super().__init__(task_id, get_task(task_id).instruction, HORIZON, embodiment)
        self.suite_name, self.simulation = suite_name, simulation
        self._renderer: TableRenderer | None = None
        self._evaluation = Evaluation(success=False, reward=0.0)
        self._steps = 0

    def reset_to(self, split: Split, init_state_id: int) -> None:
        """Put the scene in a stored initial state (10 ms), without rendering."""
        number = check_init_state_id(init_state_id)
        check_init_state(self.suite_name, split, number)
        self._evaluation = self.simulation.start(split, number)
        self.init_state_id = number
        self._steps = 0

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        """Run one control step (50 ms) without rendering.

        Raises `EnvironmentRequestError` on a non-finite or misshapen action and before the first `reset_to`.
        """
        if self.init_state_id is None:
            raise EnvironmentRequestError("this environment was never reset; call reset() or reset_to() first")
        # float32: what policies emit, and MetaWorld's type of action.
        command = check_action(action, self.embodiment.action).astype(np.float32)
        self._evaluation = evaluation = self.simulation.step(command)
        self._steps += 1
        if not evaluation.stable:
            return StepOutcome(success=False, truncated=True, cost=1.0, progress=0.0)
        truncated = not evaluation.success and self._steps >= self.horizon
        return StepOutcome(evaluation.success, truncated, cost=0.0, progress=self.true_progress())

    def true_progress(self) -> float:
        """Progress of the present state; see the class."""
        if self._evaluation.success:
            return 1.0
        return float(np.clip(self._evaluation.reward / _HIGHEST_REWARD, 0.0, 1.0))

    def robot_state(self) -> FloatArray:
        """Proprioception, float32 [4], or MetaWorld's own observation, float32 [39]."""
        return self.simulation.observation[: self.embodiment.state.size].astype(np.float32)

    def render_observation(self) -> Observation:
        """Draw the table, where there is a camera, and return the full observation."""
        images = {camera.name: self._picture() for camera in self.embodiment.cameras}
        return Observation(images=images, state=self.robot_state(), instruction=self.instruction)

    def _picture(self) -> NDArray[np.uint8]:
        if self._renderer is None:
            self._renderer = self.simulation.shared.renderer(self.embodiment.cameras[0])
        return self.simulation.render(self._renderer)

    def close(self) -> None:
        """Free the GL context, unless other environments of this task in this process draw in it."""
        self._renderer = None
