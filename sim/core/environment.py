"""What every suite's environment does alike: the gymnasium methods, on top of stepping and rendering apart."""

from __future__ import annotations

import string
from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sim.contract import (
    ACTION_SIZE,
    CONTROL_FREQUENCY,
    STATE_SIZE,
    EnvironmentRequestError,
    ManipulationEnvironment,
    Observation,
    StepOutcome,
)


def check_action(action: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The action as float64 [7] clipped to [-1, 1]. Raises `EnvironmentRequestError` if misshapen or not finite."""
    array = np.asarray(action, dtype=np.float64)
    if array.shape != (ACTION_SIZE,):
        raise EnvironmentRequestError(f"an action has shape ({ACTION_SIZE},), not {array.shape}")
    if not np.isfinite(array).all():
        raise EnvironmentRequestError(f"an action must be finite, got {array.tolist()}")
    return np.clip(array, -1.0, 1.0)


class SuiteEnvironment(ManipulationEnvironment):
    """The gymnasium side of an environment that can be reset to stored states, advanced and rendered."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQUENCY}  # noqa: RUF012 (gymnasium types it so)
    num_init_states: int
    """Stored initial states per split, from which a reset without options draws."""

    def __init__(self, task_id: int, instruction: str, horizon: int, image_size: int) -> None:
        """`image_size` is the side (px) of both cameras' pictures."""
        self.task_id, self.instruction, self.horizon, self.image_size = task_id, instruction, horizon, image_size
        self.init_state_id = -1
        self.render_mode = "rgb_array"
        image_space = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": image_space,
                "wrist_image": image_space,
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32),
                "instruction": gymnasium.spaces.Text(200, charset=string.ascii_letters + string.digits + " "),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    @abstractmethod
    def true_progress(self) -> float:
        """Simulator-true progress in [0, 1] of the present state."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see `ManipulationEnvironment`."""
        super().reset(seed=seed)
        options = options or {}
        unknown = set(options) - {"init_state_id", "split"}
        if unknown:
            raise EnvironmentRequestError(f"unknown reset options {sorted(unknown)}; known: init_state_id, split")
        init_state_id = options.get("init_state_id")
        if init_state_id is None:
            init_state_id = int(self.np_random.integers(self.num_init_states))
        self.reset_to(options.get("split", "train"), init_state_id)
        return self.render_observation(), self._info(StepOutcome(False, False, 0.0, self.true_progress()))

    def step(self, action: NDArray[np.floating[Any]]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step and both pictures, the gymnasium way."""
        outcome = self.advance(action)
        observation = self.render_observation()
        return observation, float(outcome.success), outcome.success, outcome.truncated, self._info(outcome)

    def render(self) -> Any:
        """The third-person picture, uint8 [H, W, 3]."""
        return self.render_observation()["image"]

    def _info(self, outcome: StepOutcome) -> dict[str, Any]:
        return {
            "success": outcome.success,
            "cost": outcome.cost,
            "task_id": self.task_id,
            "init_state_id": self.init_state_id,
            "progress": outcome.progress,
        }
