"""The SO-101 on a table: plain MuJoCo, servos told where to be at 30 Hz, two cameras, primitive shapes."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray, Observation, Split, StepOutcome
from sim.core.environment import SuiteEnvironment, check_action
from sim.core.rendering import PrimitiveRenderer
from sim.so101.embodiment import GRIPPER, GRIPPER_OPEN, JOINTS, SO101, from_radians, to_radians
from sim.so101.goals import WorldState, task_progress
from sim.so101.scene import HALF_SIZE, SUBSTEPS, compile_scene
from sim.so101.tasks import NUM_INIT_STATES, Layout, get_task, initial_layout

REST = to_radians(np.array([5.9, -42.6, 22.4, 95.0, 95.5, GRIPPER_OPEN]))
"""Joint angles (rad) [6] that hold the open gripper 0.12 m above the table, at the inner edge of where blocks lie."""
WORKSPACE = np.array([[0.05, 0.40], [-0.30, 0.30], [0.0, 0.35]])
"""Bounds (m) of the grip point; leaving them costs 1 per step."""


class SO101Environment(SuiteEnvironment):
    """One task of the suite."""

    suite_name = "so101"
    num_init_states = NUM_INIT_STATES

    def __init__(self, task_id: int = 0, image_size: int | None = None) -> None:
        """`image_size` is the side (px) of both cameras' pictures; None: 64.

        Raises `EnvironmentRequestError` for an unknown task, or without the package that has the arm's model.
        """
        self.task = get_task(task_id)
        super().__init__(task_id, self.task.instruction, self.task.horizon, SO101.with_image_size(image_size))
        self._image_size = self.embodiment.cameras[0].height
        self.model = model = compile_scene(self.task.scene, self._image_size)
        self.data = mujoco.MjData(model)
        self.cameras = tuple(model.camera(name).id for name in self.embodiment.camera_names)
        self._renderer: PrimitiveRenderer | None = None
        self._grip = self.data.site_xpos[model.site("grip").id]
        self._block = int(model.joint("block").qposadr[0])
        self._target_body = model.body("target").id if self.task.scene.target else -1
        self._gains = model.actuator_gainprm[: len(JOINTS), 0].copy()
        self._table_geom, self._block_geom = model.geom("table").id, model.geom("block").id
        self._fixed_jaw, self._moving_jaw = model.body("gripper").id, model.body("moving_jaw_so101_v1").id
        self._initial_block = np.zeros(3)
        self._steps = 0

    # ---- resetting -------------------------------------------------------------------------------------------------

    def reset_to(self, split: Split, init_state_id: int) -> None:
        """Put the scene in a stored initial state, without rendering."""
        self.reset_to_layout(initial_layout(self.task_id, split, init_state_id))
        self.init_state_id = init_state_id

    def reset_to_layout(self, layout: Layout) -> None:
        """Put the scene in any layout, without rendering."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[:GRIPPER] = REST[:GRIPPER] + layout.joint_noise
        data.qpos[GRIPPER] = REST[GRIPPER]
        x, y, yaw = layout.block
        data.qpos[self._block : self._block + 7] = (x, y, HALF_SIZE, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        if self._target_body >= 0:
            model.body_pos[self._target_body, :2] = layout.target
        mujoco.mj_forward(model, data)
        # The servos carry the arm from the start, so that it does not sag before the first action.
        data.ctrl[:] = data.qpos[: len(JOINTS)] + self.sag()
        self._initial_block = data.qpos[self._block : self._block + 3].copy()
        self._steps = 0
        self.init_state_id = -1

    # ---- stepping --------------------------------------------------------------------------------------------------

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        """Run one control step (1/30 s) without rendering."""
        # float32, which policies emit and data sets keep: an episode that was stored replays to the bit.
        command = check_action(np.asarray(action, dtype=np.float32), self.embodiment.action)
        self.data.ctrl[:] = to_radians(command)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        # What goals, states and pictures read must belong to the new joint positions.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        self._steps += 1
        if not (np.isfinite(self.data.qpos).all() and np.abs(self.data.qvel).max() < 200.0):
            # A simulation that blew up cannot be continued or rewarded; it ends the episode as a failure.
            return StepOutcome(success=False, truncated=True, cost=1.0, progress=0.0)
        world = self.world_state()
        success = self.task.goal.holds(world)
        return StepOutcome(
            success=success,
            truncated=not success and self._steps >= self.horizon,
            cost=float(self._outside() or self.hits_table()),
            progress=task_progress(self.task.goal, world),
        )

    # ---- reading ---------------------------------------------------------------------------------------------------

    def world_state(self) -> WorldState:
        """The scene's true state; for goals and experts, not for policies."""
        data = self.data
        w, x, y, z = data.qpos[self._block + 3 : self._block + 7]
        touching = self._touching(self._block_geom)
        return WorldState(
            grip=self._grip.copy(),
            block=data.qpos[self._block : self._block + 3].copy(),
            block_yaw=float(np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))),
            initial_block=self._initial_block,
            target=self.model.body_pos[self._target_body, :2].copy() if self._target_body >= 0 else None,
            touched=bool(touching - {0}),
            gripped={self._fixed_jaw, self._moving_jaw} <= touching,
        )

    def _touching(self, geom: int) -> set[int]:
        """Bodies that touch a geom; 0 is the table."""
        pairs = self.data.contact.geom[self.data.contact.dist < 0.0]
        others = pairs[(pairs == geom).any(axis=1)]
        return {int(body) for body in self.model.geom_bodyid[others[others != geom]]}

    def hits_table(self) -> bool:
        """Whether any part of the gripper touches the table."""
        block_body = int(self.model.geom_bodyid[self._block_geom])
        return bool(self._touching(self._table_geom) - {0, block_body})

    def _outside(self) -> bool:
        return bool(np.any(self._grip < WORKSPACE[:, 0]) or np.any(self._grip > WORKSPACE[:, 1]))

    def sag(self) -> NDArray[np.float64]:
        """How far (rad) [6] a servo's command must lie beyond a joint's angle to hold it there against gravity."""
        sag: NDArray[np.float64] = self.data.qfrc_bias[: len(JOINTS)] / self._gains
        return sag

    def true_progress(self) -> float:
        """Progress of the present state."""
        return task_progress(self.task.goal, self.world_state())

    def robot_state(self) -> FloatArray:
        """Where the servos are, float32 [6]: degrees, and the gripper in per cent."""
        return from_radians(self.data.qpos[: len(JOINTS)])

    def render_observation(self) -> Observation:
        """Render both cameras and return the full observation."""
        if self._renderer is None:
            self._renderer = PrimitiveRenderer(self.model, self._image_size)
        images = self._renderer.render(self.data, self.cameras)
        return Observation(
            images=dict(zip(self.embodiment.camera_names, images, strict=True)),
            state=self.robot_state(),
            instruction=self.instruction,
        )
