"""One LIBERO task's simulation: stepped by `sim.core`, observed and judged as hf-libero's environment would.

`LiberoScene` keeps exactly what hf-libero's `OffScreenRenderEnv` does to the simulation (order of forward passes, warm
starts, controller and gripper memory) and leaves out everything it only looks at, so that states stay equal to the bit.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import FloatArray
from sim.core.robosuite_control import RobosuiteArm
from sim.core.stepping import SteppingMode, SubstepRunner
from sim.embodiments import PANDA_EEF
from sim.libero.definition import SceneDefinition, SceneState
from sim.libero.goals import Thing, show_flames
from sim.libero.shared_model import SharedModel
from sim.libero.snapshot import ObservationClock, PoseSnapshot
from sim.libero.tasks import SETTLE_ACTION

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
"""Everything a MuJoCo step depends on, warm starts included."""


class LiberoScene:
    """The simulation of one task."""

    def __init__(
        self,
        shared: SharedModel,
        data: mujoco.MjData,
        definition: SceneDefinition,
        stepping: SteppingMode = "exact",
    ) -> None:
        """Raises `EnvironmentRequestError` for an unknown stepping."""
        self.shared, self._part = shared, shared.part()
        self.data, self.definition = data, definition
        model = self.model
        self.snapshot = PoseSnapshot(model)
        self._arm = RobosuiteArm(model, data, definition.arm)
        self._runner, self._settling = (SubstepRunner(model, data, self._arm, mode) for mode in (stepping, "exact"))
        self._clock = ObservationClock(model.opt.timestep, 1.0 / PANDA_EEF.control_frequency)
        self._fingers = list(definition.fingers)
        self._robot_state = np.zeros(PANDA_EEF.state.size, dtype=np.float32)

    @property
    def model(self) -> mujoco.MjModel:
        """The task's model with this scene's fixtures, until another scene of the task is used."""
        self.hold_model()
        return self.shared.model

    def hold_model(self) -> None:
        """Make the model this scene's."""
        self.shared.hold(self._part)

    @property
    def state_size(self) -> int:
        """Numbers of a flattened state: time, positions and velocities."""
        return int(1 + self.model.nq + self.model.nv)

    def place_fixtures(self, poses: NDArray[np.float64]) -> None:
        """Put cabinets and stoves into the model, by their positions and quaternions [fixtures, 7]."""
        self.hold_model()
        self.shared.place_fixtures(poses)

    def fixture_poses(self) -> NDArray[np.float64]:
        """Where they are, [fixtures, 7]."""
        self.hold_model()
        return self.shared.fixture_poses()

    def load(self, state: NDArray[np.float64]) -> None:
        """Set time, positions and velocities [1 + nq + nv], as `env.set_init_state(state)` does after a reset."""
        model = self.model
        self._arm.restart()
        positions = 1 + model.nq
        self.data.time, self.data.qpos[:], self.data.qvel[:] = state[0], state[1:positions], state[positions:]
        mujoco.mj_forward(model, self.data)
        show_flames(self.definition.flames, model, self.data)
        self._clock.restart()

    def settle(self, steps: int) -> None:
        """Control steps of `SETTLE_ACTION`, stepped exactly under any stepping, so that episodes start alike."""
        for _ in range(steps):
            self._advance(np.array(SETTLE_ACTION), self._settling)
            show_flames(self.definition.flames, self.model, self.data)

    def save(self) -> SceneState:
        """The present state; only between two control steps, at least one after a reset."""
        return SceneState(
            physics=physics_state(self.model, self.data),
            fixture_poses=self.fixture_poses(),
            site_rgba=self.model.site_rgba.copy(),
            arm=self._arm.memory(),
            clock=self._clock.phase(),
        )

    def restore(self, state: SceneState) -> None:
        """Go back to a saved state of this task, of this scene or another.

        What is seen of it, `robot_state` and `snapshot`, is up to date after the next control step.
        """
        self.place_fixtures(state.fixture_poses)
        self.model.site_rgba[:] = state.site_rgba
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state.physics, _PHYSICS)
        self._arm.recall(state.arm)
        self._clock.set_phase(state.clock)

    def take_over(self, data: mujoco.MjData) -> None:
        """Be as another simulation of this model is, which was reset by robosuite and ran no step since."""
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, physics_state(self.model, data), _PHYSICS)
        self.refresh()

    def refresh(self) -> None:
        """Bring poses and contacts up to date with positions and velocities, without a trace in what follows."""
        warm_start = self.data.qacc_warmstart.copy()
        mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = warm_start

    def step(self, action: NDArray[np.float64]) -> list[bool]:
        """One control step of `action`, float64 [7]; returns which goal predicates hold after it."""
        self._advance(action, self._runner)
        show_flames(self.definition.flames, self.model, self.data)
        return self.goal_predicates()

    def goal_predicates(self) -> list[bool]:
        """Whether each predicate of the task's goal holds."""
        return [predicate.holds(self.model, self.data) for predicate in self.definition.goal]

    def goal(self) -> list[list[str]]:
        """The goal in words, e.g. [["on", "akita_black_bowl_1", "plate_1"]]."""
        return [[entry.name, *(thing.name for thing in entry.things)] for entry in self.definition.goal]

    def flattened_state(self) -> NDArray[np.float64]:
        """Time, positions and velocities, float64 [1 + nq + nv], the layout of LIBERO's initial states."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def robot_state(self) -> FloatArray:
        """End-effector position, axis-angle orientation and finger positions when last sampled, float32 [8]."""
        return self._robot_state.copy()

    def end_effector_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position [3] and rotation matrix [3, 3] of the point between the fingertips."""
        site = self.definition.arm.site
        return self.data.site_xpos[site].copy(), self.data.site_xmat[site].reshape(3, 3).copy()

    def bounds(self, thing: Thing) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest corner [3] (m) of an object's collision shapes, in its own frame."""
        model, corners = self.model, []
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
        for geom in thing.geoms:
            rotation = np.zeros(9)
            mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
            centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
            corners.append(model.geom_pos[geom] + (centre + signs * half) @ rotation.reshape(3, 3).T)
        return np.concatenate(corners).min(axis=0), np.concatenate(corners).max(axis=0)

    def joint_at(self, address: int) -> int:
        """The joint whose position is at `address` in `qpos`."""
        return int(np.flatnonzero(self.model.jnt_qposadr == address)[0])

    def body_rotation(self, name: str) -> NDArray[np.float64]:
        """Rotation matrix [3, 3] of an object or fixture, by its name in the task's definition."""
        rotation: NDArray[np.float64] = self.data.xmat[self.definition.bodies[name]].reshape(3, 3).copy()
        return rotation

    def body_position(self, name: str) -> NDArray[np.float64]:
        """World position [3] of an object or fixture, by its name in the task's definition."""
        position: NDArray[np.float64] = self.data.xpos[self.definition.bodies[name]].copy()
        return position

    def _advance(self, action: NDArray[np.float64], runner: SubstepRunner) -> None:
        self.hold_model()  # what steps knows the model by its address
        gripper, done = float(action[6]), 0
        runner.prepare()
        self._arm.set_goal(action)
        for substep in range(1, self.definition.substeps + 1):
            if self._clock.tick():
                runner.run(substep - done, gripper)
                done = substep
                self._observe()
        runner.run(self.definition.substeps - done, gripper)

    def _observe(self) -> None:
        w, x, y, z = self.data.xquat[self.definition.end_effector_body]
        self._robot_state[:3] = self.data.site_xpos[self.definition.arm.site]
        self._robot_state[3:6] = axis_angle_from_quaternion(np.array([x, y, z, w]))
        if self._fingers:  # a tool without fingers leaves zeros
            self._robot_state[6:] = self.data.qpos[self._fingers]
        self.snapshot.take(self.data)


def physics_state(model: mujoco.MjModel, data: mujoco.MjData) -> NDArray[np.float64]:
    """Everything a step of MuJoCo depends on, as one array."""
    state = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
    mujoco.mj_getState(model, data, state, _PHYSICS)
    return state


def axis_angle_from_quaternion(quaternion: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Axis times angle (rad), float64 [3], of a quaternion (x, y, z, w), robosuite's convention.

    The sign of w is kept: angles reach 2 pi, as in the data that public policies were trained on. Forcing w >= 0 would
    give the same rotation and numbers that those policies never saw.
    """
    x, y, z, w = (float(value) for value in quaternion)
    w = min(max(w, -1.0), 1.0)
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    factor = 2.0 * math.acos(w) / sine
    return np.array([x * factor, y * factor, z * factor])
