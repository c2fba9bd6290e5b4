"""One LIBERO task as a `ManipulationEnvironment`: hf-libero's own states and pictures, drawn on demand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, FloatArray, Observation, Split, StepOutcome
from sim.core.environment import SuiteEnvironment, check_action
from sim.embodiments import PANDA_EEF
from sim.libero.progress import GoalProgress
from sim.libero.rendering import CAMERAS, CameraRenderer, Look
from sim.libero.source import TaskSimulation
from sim.libero.tasks import NUM_INIT_STATES, SETTLE_STEPS, LiberoTask, check_init_state


class LiberoEnvironment(SuiteEnvironment):
    """A task of a LIBERO suite.

    `scene` gives experts and audits the true state. Contact forces are not measured yet, so `cost` is always 0.
    """

    num_init_states = NUM_INIT_STATES

    def __init__(
        self,
        task: LiberoTask,
        simulation: TaskSimulation,
        horizon: int,
        image_size: int = 256,
        look: Look = "official",
    ) -> None:
        super().__init__(task.index, task.instruction, horizon, PANDA_EEF.with_image_size(image_size))
        self.task, self.suite_name = task, task.suite
        self.simulation, self.scene, self._look = simulation, simulation.scene, look
        self._started = False
        self._progress: GoalProgress | None = None
        self._renderer: CameraRenderer | None = None
        self._steps = 0

    # ---- resetting -------------------------------------------------------------------------------------------------

    def reset_to(self, split: Split, init_state_id: int) -> None:
        """Put the scene in a stored initial state and let it settle, without rendering.

        Evaluation states are LIBERO's 50 official ones, training states 50 fresh draws from the same distribution.
        """
        check_init_state(self.task, split, init_state_id)
        self.simulation.start(split, int(init_state_id))
        self._begin(settle_steps=1, init_state_id=int(init_state_id))

    def reset_to_recorded(self, state: NDArray[np.float64], fixture_poses: NDArray[np.float64]) -> None:
        """Start from a state somebody recorded: flattened [1 + nq + nv], fixtures at `fixture_poses` [fixtures, 7].

        It settles as every other. Raises `EnvironmentRequestError` when the numbers do not fit this scene.
        """
        wanted = (self.scene.state_size,), (len(self.scene.definition.fixture_bodies), 7)
        if (state.shape, fixture_poses.shape) != wanted:
            raise EnvironmentRequestError(
                f"{self.suite_name} task {self.task_id} has states and fixture poses of shapes {wanted}, not "
                f"{(state.shape, fixture_poses.shape)}; they were recorded in another scene"
            )
        self.simulation.start("train", 0)  # an arm at rest, which the controller goes by until it has run once
        self.scene.refresh()
        self.scene.place_fixtures(fixture_poses)
        self.scene.load(state)
        self._begin(settle_steps=SETTLE_STEPS, init_state_id=-1)

    def _begin(self, settle_steps: int, init_state_id: int) -> None:
        self.scene.settle(settle_steps)
        self.scene.refresh()  # experts and predicates look at the state itself, not at its last substep
        self.init_state_id = init_state_id
        self._progress = GoalProgress(self.scene)
        self._started = True
        self._steps = 0

    # ---- stepping --------------------------------------------------------------------------------------------------

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        """Run one control step (50 ms) without rendering.

        Raises `EnvironmentRequestError` on a non-finite or misshapen action and before the first `reset_to`.
        """
        if not self._started:
            raise EnvironmentRequestError("this environment was never reset; call reset() or reset_to() first")
        predicates = self.scene.step(check_action(action, PANDA_EEF.action))
        self._steps += 1
        success = all(predicates)
        truncated = not success and self._steps >= self.horizon
        return StepOutcome(success=success, truncated=truncated, cost=0.0, progress=self._progress_of(predicates))

    # ---- reading ---------------------------------------------------------------------------------------------------

    def true_progress(self) -> float:
        """How far along the goal the scene is since the reset; see `sim.libero.progress`."""
        return self._progress_of(self.scene.goal_predicates())

    def _progress_of(self, predicates: list[bool]) -> float:
        assert self._progress is not None  # since the reset
        return self._progress(predicates)

    def robot_state(self) -> FloatArray:
        """Proprioception, float32 [8], at the moment LIBERO samples (`sim.libero.snapshot`)."""
        return self.scene.robot_state()

    def render_observation(self) -> Observation:
        """Render both cameras, of the same moment as `robot_state`, and return the full observation."""
        if self._renderer is None:
            self._renderer = self.scene.shared.renderer(self.embodiment.cameras[0].width, self._look)
        pictures = [self._renderer.render(self.scene.snapshot, camera) for camera in CAMERAS]
        return Observation(
            images=dict(zip(self.embodiment.camera_names, pictures, strict=True)),
            state=self.robot_state(),
            instruction=self.instruction,
        )

    def close(self) -> None:
        """Free the GL context, unless other environments of this task in this process draw in it."""
        self._renderer = None
