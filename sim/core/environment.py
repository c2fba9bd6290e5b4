"""What every suite's environment does alike: the gymnasium methods, on top of stepping and rendering apart."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, ManipulationEnvironment, Observation, StepOutcome
from sim.core.spaces import Instruction
from sim.embodiments import Action, Embodiment


def check_action(action: NDArray[np.floating[Any]], commands: Action) -> NDArray[np.float64]:
    """The action as float64 [A] within its limits. Raises `EnvironmentRequestError` if misshapen or not finite."""
    array = np.asarray(action, dtype=np.float64)
    if array.shape != (commands.size,):
        raise EnvironmentRequestError(f"an action has shape ({commands.size},), not {array.shape}")
    if not np.isfinite(array).all():
        raise EnvironmentRequestError(f"an action must be finite, got {array.tolist()}")
    return np.clip(array, commands.low, commands.high) if commands.low else array


def check_init_state_id(init_state_id: Any) -> int:
    """The number of an initial state as an int. Raises `EnvironmentRequestError` for anything but an integer."""
    if isinstance(init_state_id, bool) or not isinstance(init_state_id, int | np.integer):
        raise EnvironmentRequestError(
            f"init_state_id must be an integer, not {init_state_id!r} ({type(init_state_id).__name__})"
        )
    return int(init_state_id)


def observation_space(embodiment: Embodiment) -> gymnasium.spaces.Dict:
    """The space of `sim.contract.Observation`s of an embodiment."""
    pictures: dict[str, gymnasium.Space[Any]] = {
        camera.name: gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        for camera in embodiment.cameras
    }
    return gymnasium.spaces.Dict(
        {
            "images": gymnasium.spaces.Dict(pictures),
            "state": gymnasium.spaces.Box(-np.inf, np.inf, (embodiment.state.size,), np.float32),
            "instruction": Instruction(),
        }
    )


def action_space(embodiment: Embodiment) -> gymnasium.Space[NDArray[np.float32]]:
    """The space of an embodiment's actions [A], within their limits where there are any."""
    commands = embodiment.action
    low, high = commands.low or (-np.inf,) * commands.size, commands.high or (np.inf,) * commands.size
    box: gymnasium.Space[Any] = gymnasium.spaces.Box(
        np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32
    )
    return box


class SuiteEnvironment(ManipulationEnvironment):
    """The gymnasium side of an environment that can be reset to stored states, advanced and rendered."""

    num_init_states: int
    """Stored initial states per split, from which a reset without options draws."""

    def __init__(self, task_id: int, instruction: str, horizon: int, embodiment: Embodiment) -> None:
        """`embodiment` gives cameras with the sizes that are drawn here, state and action."""
        self.task_id, self.instruction, self.horizon, self.embodiment = task_id, instruction, horizon, embodiment
        self.init_state_id: int | None = None
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": embodiment.control_frequency}
        self.observation_space = observation_space(embodiment)
        self.action_space = action_space(embodiment)

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
        self.reset_to(options.get("split", "train"), check_init_state_id(init_state_id))
        return self.render_observation(), self._info(StepOutcome(False, False, 0.0, self.true_progress()))

    def step(self, action: NDArray[np.floating[Any]]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step and a picture of each camera, the gymnasium way.

        Raises `EnvironmentRequestError` on a bad action, and before the first reset.
        """
        if self.init_state_id is None:
            raise EnvironmentRequestError("this environment was never reset; call reset() first")
        outcome = self.advance(action)
        observation = self.render_observation()
        return observation, float(outcome.success), outcome.success, outcome.truncated, self._info(outcome)

    def render(self) -> Any:
        """The first camera's picture, uint8 [H, W, 3]. Raises `EnvironmentRequestError` where there is no camera."""
        images = self.render_observation()["images"]
        if not images:
            raise EnvironmentRequestError(f"{self.suite_name} has no camera to draw with")
        return images[self.embodiment.camera_names[0]]

    def _info(self, outcome: StepOutcome) -> dict[str, Any]:
        return {
            "success": outcome.success,
            "cost": outcome.cost,
            "task_id": self.task_id,
            "init_state_id": self.init_state_id,
            "progress": outcome.progress,
        }
