"""A suite that imports nothing heavy, whose expert fails on initial states 1 and 4, for tests of recording."""

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
from sim.embodiments import PANDA_EEF

UNSOLVABLE = (1, 4)
NUM_INIT_STATES = 6
HORIZON = 12


class PointEnvironment(ManipulationEnvironment):
    """A gauge that each action moves by its x component; success at 3 and above."""

    def __init__(self, task_id: int, image_size: int) -> None:
        self.suite_name, self.task_id, self.horizon = "point", task_id, HORIZON
        self.instruction = f"fill gauge {task_id}"
        self.embodiment = PANDA_EEF.with_image_size(image_size)
        self._image_size = image_size

    def reset_to(self, split: Split, init_state_id: int) -> None:
        self._level, self._steps, self._stuck = init_state_id / 10, 0, init_state_id in UNSOLVABLE

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        self._level += 0.0 if self._stuck else float(action[0])
        self._steps += 1
        success = self._level >= 3
        return StepOutcome(success, not success and self._steps >= HORIZON, 0.25, min(1.0, max(0.0, self._level / 3)))

    def robot_state(self) -> FloatArray:
        return np.array([self._level, self._steps, 0, 0, 0, 0, 0, 0], dtype=np.float32)

    def render_observation(self) -> Observation:
        image = np.full((self._image_size, self._image_size, 3), 40 + 10 * self._steps, dtype=np.uint8)
        image[:, : self._image_size // 2] = [200, 10 * (self.task_id + 1), 30]
        images = {"image": image, "wrist_image": image[::-1].copy()}
        return Observation(images=images, state=self.robot_state(), instruction=self.instruction)


class PointExpert(Expert):
    def __init__(self, seed: int) -> None:
        self._step = 0.5 + 0.3 * float(np.random.default_rng(seed).random())

    def reset(self, environment: ManipulationEnvironment) -> None:
        pass

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        return np.array([self._step, 0, 0, 0, 0, 0, -1], dtype=np.float32)


class PointSuite(Suite):
    name = "point"

    def __init__(self, image_size: int | None) -> None:
        self.image_size = image_size or 32
        self.embodiment = PANDA_EEF.with_image_size(self.image_size)

    @property
    def task_ids(self) -> tuple[int, ...]:
        return (0, 1)

    def task_name(self, task_id: int) -> str:
        if task_id not in self.task_ids:
            raise EnvironmentRequestError(f"unknown task {task_id} of suite point; it has 0 and 1")
        return f"gauge_{task_id}"

    def instruction(self, task_id: int) -> str:
        return f"fill gauge {task_id}"

    def horizon(self, task_id: int) -> int:
        return HORIZON

    def num_init_states(self, task_id: int, split: Split) -> int:
        return NUM_INIT_STATES

    def make(self, task_id: int) -> ManipulationEnvironment:
        return PointEnvironment(task_id, self.image_size)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        return PointExpert(seed)

    def protocol(self) -> dict[str, Any]:
        return {"suite": "point", "horizon": HORIZON}


def get_suite(name: str, image_size: int | None = None) -> Suite:
    return PointSuite(image_size)


FACTORY = "tests.vla.data.point_suite:get_suite"
