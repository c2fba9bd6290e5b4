"""MetaWorld's scripted policies as experts."""

from __future__ import annotations

import numpy as np

from sim.contract import EnvironmentRequestError, Expert, FloatArray, ManipulationEnvironment
from sim.metaworld.environment import MetaWorldEnvironment
from sim.metaworld.installation import scripted_policy
from sim.metaworld.tasks import Task


class MetaWorldExpert(Expert):
    """Asks MetaWorld's scripted policy once a control step. It is deterministic and keeps nothing between steps."""

    def __init__(self, task: Task) -> None:
        self._policy = scripted_policy(task.name)
        self._speed = np.array([task.expert_speed] * 3 + [1.0])

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode. Raises `EnvironmentRequestError` for another suite's environment."""
        if not isinstance(environment, MetaWorldEnvironment):
            raise EnvironmentRequestError(f"a MetaWorld expert cannot act in {type(environment).__name__}")

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [4]."""
        assert isinstance(environment, MetaWorldEnvironment)  # since the reset
        action = self._policy.get_action(environment.simulation.observation) * self._speed
        return environment.embodiment.action.clip(action)
