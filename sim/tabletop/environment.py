"""The embedded tabletop environment: plain MuJoCo, operational-space control, two cameras, primitive shapes."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray, Image, Observation, Split, StepOutcome
from sim.core.environment import SuiteEnvironment, check_action
from sim.core.operational_space import matrix_to_rotation_vector, operational_space_torques, rotation_vector_to_matrix
from sim.core.rendering import PrimitiveRenderer
from sim.embodiments import PANDA_EEF, POSITION_SCALE, ROTATION_SCALE, Embodiment
from sim.tabletop.arm import FINGER_OPEN, REST_POSITIONS, TORQUE_LIMITS
from sim.tabletop.goals import WorldState
from sim.tabletop.scene import BUTTON_HEIGHT, BUTTON_PRESSED, HALF_SIZE, LIT_BUTTON, PLATE_HALF_HEIGHT, scene_xml
from sim.tabletop.tasks import NUM_INIT_STATES, Layout, Task, get_task, initial_layout

STIFFNESS = 600.0
"""Task-space stiffness (1/s^2): a full-scale action moves the gripper about 2.3 cm in one control step."""
NULL_SPACE_STIFFNESS = 10.0
WORKSPACE = np.array([[-0.3, 0.3], [-0.35, 0.35], [-0.005, 0.4]])
"""Bounds (m) of the grip point; leaving them costs 1 per step."""
IMAGE_SIZE = 64


class TabletopEnvironment(SuiteEnvironment):
    """One task of the embedded suite (or any `Task` of the same kind, with `layouts` of its own)."""

    suite_name = "tabletop"
    num_init_states = NUM_INIT_STATES

    def __init__(
        self,
        task_id: int = 0,
        image_size: int = IMAGE_SIZE,
        task: Task | None = None,
        render_mode: str = "rgb_array",
        robot: Embodiment = PANDA_EEF,
    ) -> None:
        """`robot` says what is observed: the tabletop's two cameras or none."""
        self.task = task if task is not None else get_task(task_id)
        super().__init__(task_id, self.task.instruction, self.task.horizon, robot.with_image_size(image_size))
        self.render_mode = render_mode
        self._build()

    def _build(self) -> None:
        scene = self.task.scene
        self.model = model = mujoco.MjModel.from_xml_string(scene_xml(scene))
        self.data = mujoco.MjData(model)
        self._substeps = round(1.0 / PANDA_EEF.control_frequency / model.opt.timestep)
        self._renderer: PrimitiveRenderer | None = None
        self.cameras = (model.camera("agent").id, model.camera("wrist").id)
        self._site = model.site("grip").id
        self._site_position = self.data.site_xpos[self._site]
        self._site_rotation = self.data.site_xmat[self._site].reshape(3, 3)
        self._object_names = tuple(item.name for item in scene.objects)
        self._object_addresses = tuple(int(model.joint(f"object{i}").qposadr[0]) for i in range(len(scene.objects)))
        self._plate_bodies = {plate.name: model.body(f"plate{i}").id for i, plate in enumerate(scene.plates)}
        self._drawer_address = int(model.joint("drawer").qposadr[0]) if scene.drawer else -1
        self._button_address = int(model.joint("button").qposadr[0]) if scene.button else -1
        if scene.button:
            self._button_geom = model.geom("button_cap").id
            self._button_colour = model.geom_rgba[self._button_geom].copy()
        self._mass = np.zeros((model.nv, model.nv))
        self._jacobian_position = np.zeros((3, model.nv))
        self._jacobian_rotation = np.zeros((3, model.nv))
        self._goal_position = np.zeros(3)
        self._goal_rotation = np.eye(3)
        self._initial_objects: dict[str, NDArray[np.float64]] = {}
        self._button_latched = False
        self._steps = 0

    # ---- resetting -------------------------------------------------------------------------------------------------

    def reset_to(self, split: Split, init_state_id: int) -> None:
        """Put the scene in a stored initial state, without rendering."""
        self.reset_to_layout(self._stored_layout(split, init_state_id))
        self.init_state_id = init_state_id

    def _stored_layout(self, split: Split, init_state_id: int) -> Layout:
        return initial_layout(self.task_id, split, init_state_id)

    def reset_to_layout(self, layout: Layout) -> None:
        """Put the scene in any layout of this scene, without rendering."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[:7] = REST_POSITIONS + layout.joint_noise
        data.qpos[7:9] = FINGER_OPEN
        for address, (x, y, yaw) in zip(self._object_addresses, layout.objects, strict=True):
            data.qpos[address : address + 7] = (x, y, HALF_SIZE, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        for body, (x, y) in zip(self._plate_bodies.values(), layout.plates, strict=True):
            model.body_pos[body] = (x, y, PLATE_HALF_HEIGHT)
        if self._drawer_address >= 0:
            model.body_pos[model.body("cabinet").id][0] = layout.drawer_x
            data.qpos[self._drawer_address] = layout.drawer_slide
        if self._button_address >= 0:
            model.body_pos[model.body("button_base").id][:2] = layout.button
            model.geom_rgba[self._button_geom] = self._button_colour
        self._button_latched = False
        self._steps = 0
        self.init_state_id = -1
        mujoco.mj_forward(model, data)
        self._goal_position[:] = self._site_position
        # The gripper starts level whatever the joint noise: rotation goals accumulate from straight down.
        self._goal_rotation[:] = np.diag([1.0, -1.0, -1.0])
        self._initial_objects = self._object_positions()

    # ---- stepping --------------------------------------------------------------------------------------------------

    def advance(self, action: NDArray[np.floating[Any]]) -> StepOutcome:
        """Run one control step (50 ms) without rendering."""
        # float32: what policies emit, and what the suite's stored results were made with.
        command = check_action(np.asarray(action, dtype=np.float32), PANDA_EEF.action).astype(np.float32)
        self._goal_position[:] = self._site_position + POSITION_SCALE * command[:3]
        if np.any(command[3:6] != 0.0):
            turn = rotation_vector_to_matrix(ROTATION_SCALE * command[3:6].astype(np.float64))
            self._goal_rotation[:] = turn @ self._site_rotation
        self.data.ctrl[7:9] = 0.0 if command[6] > 0.0 else FINGER_OPEN
        stable = self._run_substeps()
        self._steps += 1
        if not stable:
            # A simulation that blew up cannot be continued or rewarded; it ends the episode as a failure.
            return StepOutcome(success=False, truncated=True, cost=1.0, progress=0.0)
        if (
            self._button_address >= 0
            and self.data.qpos[self._button_address] > BUTTON_PRESSED
            and not self._button_latched
        ):
            self._button_latched = True
            self.model.geom_rgba[self._button_geom] = LIT_BUTTON
        world = self.world_state()
        success = all(goal.holds(world) for goal in self.task.goals)
        outside = bool(np.any(world.gripper < WORKSPACE[:, 0]) or np.any(world.gripper > WORKSPACE[:, 1]))
        return StepOutcome(
            success=success,
            truncated=not success and self._steps >= self.horizon,
            cost=float(outside),
            progress=self.task.progress(world),
        )

    def _run_substeps(self) -> bool:
        model, data = self.model, self.data
        for _ in range(self._substeps):
            mujoco.mj_step1(model, data)
            mujoco.mj_jacSite(model, data, self._jacobian_position, self._jacobian_rotation, self._site)
            mujoco.mj_fullM(model, self._mass, data.qM)
            operational_space_torques(
                data.qpos[:7],
                data.qvel[:7],
                self._mass,
                self._jacobian_position,
                self._jacobian_rotation,
                data.qfrc_bias,
                self._site_position,
                self._site_rotation,
                self._goal_position,
                self._goal_rotation,
                REST_POSITIONS,
                STIFFNESS,
                NULL_SPACE_STIFFNESS,
                TORQUE_LIMITS,
                data.ctrl,
            )
            mujoco.mj_step2(model, data)
        # Site poses used by goals, states and pictures must belong to the new joint positions.
        mujoco.mj_kinematics(model, data)
        return bool(np.isfinite(data.qpos).all() and np.abs(data.qvel).max() < 200.0)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def world_state(self) -> WorldState:
        """The scene's true state; for goals and experts, not for policies."""
        data, scene = self.data, self.task.scene
        drawer = data.body("drawer").xpos.copy() if scene.drawer else None
        button = None
        if scene.button:
            button = self.model.body("button_base").pos + np.array([0.0, 0.0, BUTTON_HEIGHT])
        return WorldState(
            gripper=self._site_position.copy(),
            gripper_opening=float(data.qpos[7] + data.qpos[8]),
            objects=self._object_positions(),
            initial_objects=self._initial_objects,
            plates={name: self.model.body_pos[body] for name, body in self._plate_bodies.items()},
            drawer_position=drawer,
            drawer_slide=float(data.qpos[self._drawer_address]) if scene.drawer else 0.0,
            button=button,
            button_latched=self._button_latched,
        )

    def _object_positions(self) -> dict[str, NDArray[np.float64]]:
        return {
            name: self.data.qpos[address : address + 3].copy()
            for name, address in zip(self._object_names, self._object_addresses, strict=True)
        }

    def true_progress(self) -> float:
        """Progress of the present state."""
        return self.task.progress(self.world_state())

    def gripper_rotation(self) -> NDArray[np.float64]:
        """Rotation matrix [3, 3] of the grip frame."""
        return np.array(self._site_rotation)

    def robot_state(self) -> FloatArray:
        """Proprioception, float32 [8]."""
        orientation = matrix_to_rotation_vector(self._site_rotation)
        # Pointing straight down is a half turn about x, where axis-angle flips sign: keep the x component positive.
        if orientation[0] < 0.0:
            orientation = orientation * (1.0 - 2.0 * np.pi / max(float(np.linalg.norm(orientation)), 1e-9))
        # The two fingers report with opposite signs, as on the real gripper and in LIBERO.
        fingers = np.array([self.data.qpos[7], -self.data.qpos[8]])
        return np.concatenate([self._site_position, orientation, fingers]).astype(np.float32)

    def render_observation(self) -> Observation:
        """Render both cameras, where there are any, and return the full observation."""
        images = dict(zip(self.embodiment.camera_names, self._pictures(), strict=True))
        return Observation(images=images, state=self.robot_state(), instruction=self.instruction)

    def _pictures(self) -> list[Image]:
        if not self.embodiment.cameras:
            return []
        if self._renderer is None:
            self._renderer = PrimitiveRenderer(self.model, self.embodiment.cameras[0].width)
        return self._renderer.render(self.data, self.cameras)
