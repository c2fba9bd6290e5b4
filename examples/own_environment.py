"""A suite of your own: a point that must reach the middle of the picture. Everything a suite must have is here.

vla check suite=examples.own_environment:CentreSuite
vla eval suite=examples.own_environment:CentreSuite policy=expert output=runs/centre
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import (
    EnvironmentRequestError,
    Expert,
    FloatArray,
    ManipulationEnvironment,
    Observation,
    Split,
    StepOutcome,
    Suite,
)
from sim.core.environment import SuiteEnvironment, check_action
from sim.embodiments import Action, Camera, Embodiment, State

STATES = 20
"""Initial states of each split."""

POINT = Embodiment(
    name="point",
    cameras=(Camera("top", 32, 32),),
    state=State(names=("x", "y"), units=("m", "m")),
    action=Action(names=("x", "y"), kind="velocity", low=(-1, -1), high=(1, 1), stay=(0, 0)),
    control_frequency=10,
)


class CentreEnvironment(SuiteEnvironment):
    """A point moves 5 cm a step at most; it must come within 5 cm of the middle."""

    suite_name = "centre"
    num_init_states = STATES

    def __init__(self, embodiment: Embodiment) -> None:
        super().__init__(task_id=0, instruction="move to the centre", horizon=30, embodiment=embodiment)
        self._position, self._start, self._steps = np.zeros(2), 1.0, 0

    def reset_to(self, split: Split, init_state_id: int) -> None:
        if not 0 <= init_state_id < STATES:
            raise EnvironmentRequestError(f"initial states are 0 to {STATES - 1}, not {init_state_id}")
        # Another stream of numbers for each split: what is trained on is never evaluated on.
        generator = np.random.default_rng([split == "eval", init_state_id])
        self._position = generator.uniform(0.3, 0.9, 2) * generator.choice([-1, 1], 2)
        self._start, self._steps, self.init_state_id = float(np.linalg.norm(self._position)), 0, init_state_id

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        self._position = self._position + 0.05 * check_action(action, self.embodiment.action)
        self._steps += 1
        success = float(np.linalg.norm(self._position)) < 0.05
        return StepOutcome(success, not success and self._steps >= self.horizon, 0.0, self.true_progress())

    def true_progress(self) -> float:
        return float(np.clip(1 - np.linalg.norm(self._position) / self._start, 0, 1))

    def robot_state(self) -> FloatArray:
        return self._position.astype(np.float32)

    def render_observation(self) -> Observation:
        size = self.embodiment.cameras[0].width
        picture = np.full((size, size, 3), 230, np.uint8)
        row, column = ((self._position + 1) / 2 * (size - 1)).clip(0, size - 1).astype(int)
        picture[size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1] = (40, 160, 40)
        picture[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = (200, 30, 30)
        return Observation(images={"top": picture}, state=self.robot_state(), instruction=self.instruction)


class CentreExpert(Expert):
    """Goes straight there."""

    def reset(self, environment: ManipulationEnvironment) -> None:
        """Nothing to remember."""

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        action: FloatArray = np.clip(-environment.robot_state() / 0.05, -1, 1).astype(np.float32)
        return action


class CentreSuite(Suite):
    """One task."""

    name = "centre"
    task_ids = (0,)

    def __init__(self, name: str = "centre", image_size: int | None = None) -> None:
        self.embodiment = POINT.with_image_size(image_size)

    def task_name(self, task_id: int) -> str:
        if task_id != 0:
            raise EnvironmentRequestError(f"there is task 0, not {task_id}")
        return "reach"

    def instruction(self, task_id: int) -> str:
        return "move to the centre"

    def horizon(self, task_id: int) -> int:
        return 30

    def num_init_states(self, task_id: int, split: Split) -> int:
        return STATES

    def make(self, task_id: int) -> ManipulationEnvironment:
        self.task_name(task_id)
        return CentreEnvironment(self.embodiment)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        return CentreExpert()

    def protocol(self) -> dict[str, Any]:
        return {"suite": self.name, "horizon": 30, "init_states": STATES, "embodiment": self.embodiment.to_dict()}
