"""The types every environment, policy and trainer meets at: observation, action, suite and environment.

Shapes, names and units come from the embodiment (`sim.embodiments`) of a suite. An environment that follows this file
can be stepped by the pool, trained on, evaluated on and recorded without any code of its own elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Embodiment

Split = Literal["train", "eval"]
"""Which of the two disjoint sets of initial states an index refers to."""

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float32]


class EnvironmentRequestError(ValueError):
    """Base of the errors a suite raises for a request it cannot serve (unknown task, bad action, missing assets)."""


class Observation(TypedDict):
    """What a policy sees of one environment. A batch adds a leading axis (and `instruction` becomes a list)."""

    images: dict[str, Image]
    """By camera: [H, W, 3], upright."""
    state: FloatArray
    """[S] proprioception."""
    instruction: str


class ObservationBatch(TypedDict):
    """Observations of B environments, stacked."""

    images: dict[str, Image]
    """By camera: [B, H, W, 3]."""
    state: FloatArray
    """[B, S]"""
    instruction: list[str]


def stack_observations(observations: Sequence[Observation]) -> ObservationBatch:
    """Stack B observations of one embodiment along a new leading axis."""
    return ObservationBatch(
        images={
            camera: np.stack([observation["images"][camera] for observation in observations])
            for camera in observations[0]["images"]
        },
        state=np.stack([observation["state"] for observation in observations]),
        instruction=[observation["instruction"] for observation in observations],
    )


@dataclass(frozen=True)
class StepOutcome:
    """What one control step did, without any picture."""

    success: bool
    """The task's goal holds after this step (the episode terminates)."""
    truncated: bool
    """The horizon was reached without success."""
    cost: float
    """Safety cost of the step (0 when nothing was violated)."""
    progress: float
    """Simulator-true progress in [0, 1]; audits rewards, never trains a policy."""

    @property
    def done(self) -> bool:
        """Whether the episode is over, for either reason."""
        return self.success or self.truncated


class ManipulationEnvironment(gymnasium.Env[Any, NDArray[np.float32]], ABC):
    """A `gymnasium.Env` whose stepping and rendering can be asked for separately.

    `reset(seed=..., options={"init_state_id": int, "split": "train" | "eval"})` puts the scene in that initial state;
    with no options the initial state is drawn from the training split with the environment's own generator.
    `step(action)` returns (observation, reward, terminated, truncated, info) with `info` holding `success`, `cost`,
    `task_id`, `init_state_id` and `progress`. The three methods below are what the pool uses, so that a chunk of
    actions renders only the frames somebody reads.
    """

    suite_name: str
    embodiment: Embodiment
    task_id: int
    instruction: str
    horizon: int

    @abstractmethod
    def reset_to(self, split: Split, init_state_id: int) -> None:
        """Put the scene in a stored initial state, without rendering. Raises `EnvironmentRequestError` out of range."""

    @abstractmethod
    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        """Run one control step without rendering. Raises `EnvironmentRequestError` on a bad action."""

    @abstractmethod
    def robot_state(self) -> FloatArray:
        """Proprioception, float32 [S]."""

    @abstractmethod
    def render_observation(self) -> Observation:
        """Render every camera and return the full observation."""


class Suite(ABC):
    """A named set of tasks with disjoint training and evaluation initial states."""

    name: str
    embodiment: Embodiment
    """What its robot sees, with the sizes that pictures have here, feels and can be told."""

    @property
    @abstractmethod
    def task_ids(self) -> tuple[int, ...]:
        """Task numbers, 0 .. n-1."""

    @abstractmethod
    def task_name(self, task_id: int) -> str:
        """Short machine-readable name. Raises `EnvironmentRequestError` for an unknown task, naming the known ones."""

    @abstractmethod
    def instruction(self, task_id: int) -> str:
        """The language instruction of a task."""

    @abstractmethod
    def horizon(self, task_id: int) -> int:
        """Control steps after which an episode of this task is truncated."""

    @abstractmethod
    def num_init_states(self, task_id: int, split: Split) -> int:
        """How many stored initial states a task has in a split."""

    @abstractmethod
    def make(self, task_id: int) -> ManipulationEnvironment:
        """Build one environment. The GL context is created at the first render, in the process that renders."""

    @abstractmethod
    def make_expert(self, task_id: int, seed: int) -> Expert:
        """The scripted expert of a task. Raises `EnvironmentRequestError` when the suite has none for it."""

    def tasks_of_same_scene(self, task_id: int) -> tuple[int, ...]:
        """Other tasks whose experts act sensibly in an environment of this task, and do something else."""
        return ()

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """JSON-ready facts that determine results: simulator versions, horizons, settle steps, image path, seeds."""

    def self_test(self, pictures: bool) -> dict[str, Any]:
        """Check, before an evaluation, that the simulator behaves as it should; returns JSON-ready findings.

        "off_protocol" among them lists in words what keeps results from being compared with published ones. With
        `pictures` the renderer is tried too. Raises `EnvironmentRequestError` when results would be worthless.
        """
        return {"off_protocol": []}


class Expert(ABC):
    """A scripted policy with access to the simulator's true state; makes demonstrations."""

    @abstractmethod
    def reset(self, environment: ManipulationEnvironment) -> None:
        """Start a new episode from the environment's present state."""

    @abstractmethod
    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        """The next action, float32 [A], within the embodiment's limits."""
