"""A tiny suite that follows the contract: a point mass in a box must reach one of three coloured targets.

The pictures are drawn from its state. Kept free of torch, so that worker processes start quickly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import (
    EnvironmentRequestError,
    Expert,
    FloatArray,
    Image,
    ManipulationEnvironment,
    Observation,
    Split,
    StepOutcome,
    Suite,
)
from sim.embodiments import PANDA_EEF, POSITION_SCALE

COLOURS = ("red", "green", "blue")
TARGETS = np.array([[0.3, 0.0, 0.1], [-0.2, 0.3, 0.2], [0.0, -0.3, 0.3]])
"""Where each task's target is, in metres."""

TARGET_RADIUS = 0.06
SPEED_LIMIT_COST = 1.0
HORIZON = 40
NUM_INIT_STATES = 20


class FakeEnvironment(ManipulationEnvironment):
    """The point mass. `renders` counts rendered observations, `built` all environments ever made in this process."""

    built = 0
    renders = 0

    def __init__(self, suite_name: str, task_id: int, image_size: int) -> None:
        FakeEnvironment.built += 1
        self.suite_name = suite_name
        self.embodiment = PANDA_EEF.with_image_size(image_size)
        self.task_id = task_id
        self.instruction = f"move to the {COLOURS[task_id]} target"
        self.horizon = HORIZON
        self._image_size = image_size
        self._target = TARGETS[task_id]
        self._position = np.zeros(3)
        self._gripper = 0.0
        self._start_distance = 1.0
        self._steps = 0

    def reset_to(self, split: Split, init_state_id: int) -> None:
        if not 0 <= init_state_id < NUM_INIT_STATES:
            raise EnvironmentRequestError(f"initial state {init_state_id} is not within 0 .. {NUM_INIT_STATES - 1}")
        generator = np.random.default_rng([self.task_id, init_state_id, int(split == "eval")])
        self._position = generator.uniform([-0.1, -0.1, 0.0], [0.1, 0.1, 0.1])
        self._gripper = 0.0
        self._start_distance = self._distance()
        self._steps = 0

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        if action.shape != (7,) or not np.isfinite(action).all():
            raise EnvironmentRequestError("an action needs 7 finite components")
        clipped = np.clip(action, -1.0, 1.0)
        self._position = self._position + POSITION_SCALE * clipped[:3]
        self._gripper = float(clipped[6])
        self._steps += 1
        success = self._distance() < TARGET_RADIUS
        return StepOutcome(
            success=success,
            truncated=not success and self._steps >= self.horizon,
            cost=SPEED_LIMIT_COST if np.abs(clipped[:3]).max() > 0.95 else 0.0,
            progress=float(np.clip(1.0 - self._distance() / self._start_distance, 0.0, 1.0)),
        )

    def robot_state(self) -> FloatArray:
        return np.array([*self._position, 0.0, 0.0, 0.0, self._gripper, -self._gripper], dtype=np.float32)

    def render_observation(self) -> Observation:
        FakeEnvironment.renders += 1
        return Observation(
            images={"image": self._draw(0, 1), "wrist_image": self._draw(0, 2)},
            state=self.robot_state(),
            instruction=self.instruction,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = options or {"split": "train", "init_state_id": int(self.np_random.integers(NUM_INIT_STATES))}
        self.reset_to(chosen["split"], chosen["init_state_id"])
        return self.render_observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        outcome = self.advance(action)
        info = {"success": outcome.success, "cost": outcome.cost, "progress": outcome.progress}
        return self.render_observation(), float(outcome.success), outcome.success, outcome.truncated, info

    def _distance(self) -> float:
        return float(np.linalg.norm(self._position - self._target))

    def _draw(self, first_axis: int, second_axis: int) -> Image:
        """The point (white) and the target (its colour) seen along the third axis, 1 m across."""
        grid = (np.arange(self._image_size) + 0.5) / self._image_size - 0.5
        rows, columns = grid[:, None], grid[None, :]
        image = np.zeros((self._image_size, self._image_size, 3), dtype=np.uint8)
        for place, channels in ((self._target, [self.task_id]), (self._position, [0, 1, 2])):
            square = (rows - place[first_axis]) ** 2 + (columns - place[second_axis]) ** 2
            for channel in channels:
                image[:, :, channel] = np.maximum(image[:, :, channel], 255 * np.exp(-square / 0.005))
        return image


class FakeExpert(Expert):
    """Goes straight to the target."""

    def reset(self, environment: ManipulationEnvironment) -> None:
        self._target = TARGETS[environment.task_id]

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        action = np.zeros(7, dtype=np.float32)
        action[:3] = np.clip((self._target - environment.robot_state()[:3]) / POSITION_SCALE, -1.0, 1.0)
        return action


class FakeSuite(Suite):
    """Three tasks, 20 initial states in each split."""

    def __init__(self, name: str = "fake", image_size: int | None = None) -> None:
        self.name = name
        self.image_size = image_size or 16
        self.embodiment = PANDA_EEF.with_image_size(self.image_size)

    @property
    def task_ids(self) -> tuple[int, ...]:
        return tuple(range(len(COLOURS)))

    def task_name(self, task_id: int) -> str:
        if task_id not in self.task_ids:
            raise EnvironmentRequestError(f"unknown task {task_id}; suite {self.name} has tasks {self.task_ids}")
        return f"reach_{COLOURS[task_id]}"

    def instruction(self, task_id: int) -> str:
        self.task_name(task_id)
        return f"move to the {COLOURS[task_id]} target"

    def horizon(self, task_id: int) -> int:
        self.task_name(task_id)
        return HORIZON

    def num_init_states(self, task_id: int, split: Split) -> int:
        self.task_name(task_id)
        return NUM_INIT_STATES

    def make(self, task_id: int) -> ManipulationEnvironment:
        self.task_name(task_id)
        return FakeEnvironment(self.name, task_id, self.image_size)

    def make_expert(self, task_id: int, seed: int) -> Expert:
        self.task_name(task_id)
        return FakeExpert()

    def protocol(self) -> dict[str, Any]:
        return {"suite": self.name, "horizon": HORIZON, "init_states": NUM_INIT_STATES}


def get_suite(name: str = "fake", image_size: int | None = None) -> Suite:
    """The factory to give a pool: `EnvironmentPool("fake", ..., factory="tests.fake_suite:get_suite")`."""
    if name != "fake":
        raise EnvironmentRequestError(f"unknown suite {name!r}; the only one here is 'fake'")
    return FakeSuite(name, image_size)
