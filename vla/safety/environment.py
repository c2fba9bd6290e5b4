"""A simulated robot behind the action filter: what it would do on the arm, and what interventions cost in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray, Observation, Split, StepOutcome
from sim.core.environment import SuiteEnvironment
from vla.safety.checks import ActionRequest
from vla.safety.decision import Decision, Filtered
from vla.safety.deltas import DeltaFilter
from vla.safety.filter import ActionFilter
from vla.safety.stopping import Array


class FilteredEnvironment(SuiteEnvironment):
    """Another environment whose actions pass a filter first. A step in which the filter intervened costs 1 more."""

    def __init__(
        self,
        environment: SuiteEnvironment,
        action_filter: ActionFilter | DeltaFilter,
        positions: Callable[[FloatArray], Array],
    ) -> None:
        """`positions` reads the filter's positions [J] from the robot's state [S]."""
        super().__init__(environment.task_id, environment.instruction, environment.horizon, environment.embodiment)
        self.inner, self.action_filter, self._positions = environment, action_filter, positions
        self.suite_name, self.num_init_states = environment.suite_name, environment.num_init_states
        self.filtered: Filtered | None = None
        self._steps = 0

    def reset_to(self, split: Split, init_state_id: int) -> None:
        """Put the scene in a stored initial state and start the filter there. Raises as the environment does."""
        self.inner.reset_to(split, init_state_id)
        self.init_state_id = self.inner.init_state_id
        self.action_filter.start(self._positions(self.inner.robot_state()))
        self.filtered, self._steps = None, 0

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        """Run one control step with the filtered action; `filtered` has the answer.

        A misshapen action or one that is not finite is held here, where the environment alone would raise.
        """
        measured = self._positions(self.inner.robot_state())
        now = self._steps / self.embodiment.control_frequency
        self.filtered = self.action_filter.filter(ActionRequest(action, now, now, measured=measured))
        self._steps += 1
        outcome = self.inner.advance(self.filtered.action)
        cost = float(self.filtered.decision is not Decision.PASS)
        return dataclasses.replace(outcome, cost=outcome.cost + cost)

    def true_progress(self) -> float:
        """That of the environment."""
        return self.inner.true_progress()

    def robot_state(self) -> FloatArray:
        """That of the environment, [S]."""
        return self.inner.robot_state()

    def render_observation(self) -> Observation:
        """That of the environment."""
        return self.inner.render_observation()
