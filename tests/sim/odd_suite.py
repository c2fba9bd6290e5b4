"""A suite in which nothing equals anything else: every number of a step says which field and which step it is.

Pictures are drawn into one buffer, which the next picture overwrites.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import Expert, FloatArray, ManipulationEnvironment, Observation, Split, StepOutcome
from sim.embodiments import PANDA_EEF
from tests.fake_suite import FakeSuite

LENGTH = 7
"""The step that succeeds, or the horizon of a task that never does (task 1)."""


class OddEnvironment(ManipulationEnvironment):
    """Step n costs 10 + n and has progress 1 / n, which falls. `executed` are the actions since the reset."""

    def __init__(self, task_id: int) -> None:
        self.embodiment = PANDA_EEF.with_image_size(16)
        self.task_id, self.instruction, self.horizon = task_id, f"odd task {task_id}", LENGTH
        self.renders = self.closed = 0
        self.executed: list[FloatArray] = []
        self._buffers = np.zeros((2, 16, 16, 3), np.uint8)
        self._state = np.zeros(8, np.float32)

    def reset_to(self, split: Split, init_state_id: int) -> None:
        self.executed = []
        self.started_from = (split, init_state_id)

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        self.executed.append(np.asarray(action, np.float32).copy())
        steps = len(self.executed)
        over = steps == LENGTH
        return StepOutcome(over and self.task_id != 1, over and self.task_id == 1, 10.0 + steps, 1.0 / steps)

    def robot_state(self) -> FloatArray:
        self._state[:] = 0.5 + len(self.executed)
        self._state[1] = self.task_id
        return self._state

    def render_observation(self) -> Observation:
        self.renders += 1
        self._buffers[0], self._buffers[1] = len(self.executed), 100 + len(self.executed)
        return Observation(
            images={"image": self._buffers[0], "wrist_image": self._buffers[1]},
            state=self.robot_state(),
            instruction=self.instruction,
        )

    def close(self) -> None:
        self.closed += 1


class OddExpert(Expert):
    """Says how often it was reset and has acted."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.resets, self.acts = seed, 0, 0

    def reset(self, environment: ManipulationEnvironment) -> None:
        self.resets += 1

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        self.acts += 1
        return np.array([0.1 * self.acts, -3.0, 0.0, 0.0, 0.0, 0.0, 0.25 * self.resets], np.float32)


class OddSuite(FakeSuite):
    """Keeps what it made."""

    def __init__(self, name: str = "odd", image_size: int | None = None) -> None:
        super().__init__(name, image_size)
        self.made: list[OddEnvironment] = []

    def make(self, task_id: int) -> OddEnvironment:
        self.made.append(OddEnvironment(task_id))
        return self.made[-1]

    def make_expert(self, task_id: int, seed: int) -> Expert:
        return OddExpert(seed)


def get_suite(name: str, image_size: int | None = None) -> OddSuite:
    """The factory to give a pool."""
    return OddSuite(name, image_size)
