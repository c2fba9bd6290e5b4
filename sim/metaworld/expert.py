"""MetaWorld's scripted policies as experts."""

from __future__ import annotations

import numpy as np

from sim.contract import EnvironmentRequestError, Expert, FloatArray, ManipulationEnvironment
from sim.metaworld.environment import MetaWorldEnvironment
from sim.metaworld.installation import scripted_policy
from sim.metaworld.tasks import Task


class MetaWorldExpert(Expert):
    """Asks MetaWorld's scripted policy once a control step. It is deterministic.

    The policies are written for four decisions in that time. What the task says of its expert (`sim.metaworld.tasks`)
    makes up for it: commands are smaller, since each acts four times as long, and the hand waits for the gripper to
    close, which it does not do by itself in one control step.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._policy = task, scripted_policy(task.name)
        self._closing = False
        self._waits, self._effort = 0, np.float32(0.0)
        """Control steps that the hand still has to wait, and the gripper's effort meanwhile."""

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode. Raises `EnvironmentRequestError` for another suite's environment."""
        if not isinstance(environment, MetaWorldEnvironment):
            raise EnvironmentRequestError(f"a MetaWorld expert cannot act in {type(environment).__name__}")
        self._closing, self._waits = False, 0

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [4]."""
        assert isinstance(environment, MetaWorldEnvironment)  # since the reset
        action = np.asarray(self._policy.get_action(environment.simulation.observation), np.float32)
        closes = bool(action[3] > 0.0)
        if closes and not self._closing:
            self._waits, self._effort = self._task.expert_pause, action[3]
        self._closing = closes or self._waits > 0
        if self._waits:
            self._waits -= 1
            action[:] = (0.0, 0.0, 0.0, self._effort)
        action[:3] *= self._task.expert_speed
        return environment.embodiment.action.clip(action)
