"""One LIBERO task's simulation: built and reset by hf-libero and robosuite, stepped by `sim.core`.

`LiberoScene` keeps exactly what hf-libero's `OffScreenRenderEnv` does to the simulation (order of forward passes, warm
starts, controller and gripper memory) and leaves out everything it only looks at, so that states stay equal to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import CONTROL_FREQUENCY, STATE_SIZE, EnvironmentRequestError, FloatArray
from sim.core.robosuite_control import ArmIndices, ArmMemory, RobosuiteArm
from sim.core.stepping import SteppingMode, make_stepping
from sim.libero.installation import Installation, import_libero
from sim.libero.snapshot import ObservationClock, PoseSnapshot
from sim.libero.tasks import NUM_INIT_STATES, LiberoTask, read_init_states, sampling_seed

EVALUATION_SEED = 0
"""Seed of the fixture poses in evaluation states. The official files store movable objects only; fixtures are drawn at
`env.reset()`, and OpenVLA-OFT seeds that with 0. Here every episode uses the draw its first episode gets."""


_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
"""Everything a MuJoCo step depends on, warm starts included."""


@dataclass(frozen=True)
class SceneState:
    """A scene between two control steps, to be gone on from to the bit."""

    physics: NDArray[np.float64]
    fixture_poses: NDArray[np.float64]
    """[fixtures, 7] positions and quaternions in the model."""
    site_rgba: NDArray[np.float32]
    arm: ArmMemory
    clock: tuple[float, bool]
    robot_state: FloatArray
    poses: dict[str, NDArray[np.float64]]
    """What the snapshot shows, with the site colours at that moment."""
    shown_site_rgba: NDArray[np.float32]


class LiberoScene:
    """The simulation of one task."""

    def __init__(self, task: LiberoTask, installation: Installation, stepping: SteppingMode = "exact") -> None:
        """Build the task's model (a second or more). Raises `EnvironmentRequestError` when it cannot be built."""
        self.task = task
        with _private_random_state(EVALUATION_SEED):
            self._domain = _build_domain(task, installation)
        # The official environment rebuilds its model at its first reset, and its list of samplers for joint positions
        # (open drawers) grows with each build. The extra draws shift all that follow in the random stream.
        self._domain.object_property_initializers *= 2
        self.model = self._domain.sim.model._model
        self.data = self._domain.sim.data._data
        self._robot = self._domain.robots[0]
        self._fixture_bodies = [self._domain.obj_body_id[name] for name in self._domain.fixtures_dict]
        self._eef_site = int(self._robot.eef_site_id)
        self._eef_body = int(self._domain.sim.model.body_name2id(self._robot.robot_model.eef_name))
        self._finger_qpos = [int(address) for address in self._robot._ref_gripper_joint_pos_indexes]
        self._arm = RobosuiteArm(self.model, self.data, _arm_indices(self._robot))
        self._stepping = make_stepping(stepping, self.model)
        self._substeps = int(self._domain.control_timestep / self._domain.model_timestep)
        self._goal = list(self._domain.parsed_problem["goal_state"])
        self._official_states: NDArray[np.float64] | None = None
        self._clock = ObservationClock(self._domain.model_timestep, 1.0 / CONTROL_FREQUENCY)
        self._robot_state = np.zeros(STATE_SIZE, dtype=np.float32)
        self.snapshot = PoseSnapshot(self.model)

    def official_states(self) -> NDArray[np.float64]:
        """The 50 evaluation states, float64 [50, 1 + nq + nv], read once."""
        if self._official_states is None:
            states = read_init_states(self.task.init_states_file)
            width = 1 + self.model.nq + self.model.nv
            if states.shape[1] != width:
                raise EnvironmentRequestError(
                    f"{self.task.init_states_file} holds states of {states.shape[1]} numbers, but the scene has "
                    f"{width}; the assets or hf-libero are of another version"
                )
            self._official_states = states
        return self._official_states

    def reset_to_official(self, index: int) -> None:
        """Load evaluation state `index`, as `env.seed(0); env.reset(); env.set_init_state(state)` does."""
        state = self.official_states()[index]
        self._sample(EVALUATION_SEED)
        self._load(state)

    def reset_to_sampled(self, index: int) -> None:
        """Draw training state `index` as LIBERO draws its states; never equal to an evaluation state."""
        official_positions = self.official_states()[:, 1 : 1 + self.model.nq]
        for attempt in range(NUM_INIT_STATES):
            self._sample(sampling_seed(self.task, "train", index, attempt))
            if not (np.abs(official_positions - self.data.qpos).max(axis=1) < 1e-6).any():
                break
        self._load(self.flattened_state())

    def save(self) -> SceneState:
        """The present state; only between two control steps, at least one after a reset."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        bodies = self._fixture_bodies
        return SceneState(
            physics=physics,
            fixture_poses=np.hstack([self.model.body_pos[bodies], self.model.body_quat[bodies]]),
            site_rgba=self.model.site_rgba.copy(),
            arm=self._arm.memory(),
            clock=self._clock.phase(),
            robot_state=self.robot_state(),
            poses=self.snapshot.poses(),
            shown_site_rgba=self.snapshot.site_rgba.copy(),
        )

    def restore(self, state: SceneState) -> None:
        """Go back to a saved state of this task, of this scene or another."""
        self.model.body_pos[self._fixture_bodies] = state.fixture_poses[:, :3]
        self.model.body_quat[self._fixture_bodies] = state.fixture_poses[:, 3:]
        self.model.site_rgba[:] = state.site_rgba
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state.physics, _PHYSICS)
        self._arm.recall(state.arm)
        self._clock.set_phase(state.clock)
        self._robot_state[:] = state.robot_state
        self.snapshot.set_poses(state.poses)
        self.snapshot.site_rgba[:] = state.shown_site_rgba

    def refresh(self) -> None:
        """Bring poses and contacts up to date with positions and velocities, without a trace in what follows."""
        warm_start = self.data.qacc_warmstart.copy()
        mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = warm_start

    def step(self, action: NDArray[np.float64]) -> list[bool]:
        """One control step of `action`, float64 [7]; returns which goal predicates hold after it."""
        gripper = float(action[6])
        for substep in range(self._substeps):
            self._stepping.prepare(self.model, self.data, controller_looks=not self._arm.holds_state)
            if substep == 0:
                self._arm.set_goal(action)
            self._arm.write_controls(gripper)
            self._stepping.finish(self.model, self.data)
            if self._clock.tick():
                self._observe()
        predicates = self.goal_predicates()
        self._domain._post_process()
        return predicates

    def goal_predicates(self) -> list[bool]:
        """Whether each predicate of the task's goal holds. Evaluating may switch a stove's flame site on or off."""
        return [bool(self._domain._eval_predicate(predicate)) for predicate in self._goal]

    def goal(self) -> list[list[str]]:
        """The goal as parsed from the task's definition, e.g. [["on", "akita_black_bowl_1", "plate_1"]]."""
        return [list(predicate) for predicate in self._goal]

    def flattened_state(self) -> NDArray[np.float64]:
        """Time, positions and velocities, float64 [1 + nq + nv], the layout of LIBERO's initial states."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def robot_state(self) -> FloatArray:
        """End-effector position, axis-angle orientation and finger positions when last sampled, float32 [8]."""
        return self._robot_state.copy()

    def end_effector_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position [3] and rotation matrix [3, 3] of the point between the fingertips."""
        return self.data.site_xpos[self._eef_site].copy(), self.data.site_xmat[self._eef_site].reshape(3, 3).copy()

    def body_rotation(self, name: str) -> NDArray[np.float64]:
        """Rotation matrix [3, 3] of an object or fixture, by its name in the task's definition."""
        rotation: NDArray[np.float64] = self.data.xmat[self._domain.obj_body_id[name]].reshape(3, 3).copy()
        return rotation

    def body_position(self, name: str) -> NDArray[np.float64]:
        """World position [3] of an object or fixture, by its name in the task's definition."""
        position: NDArray[np.float64] = self.data.xpos[self._domain.obj_body_id[name]].copy()
        return position

    def _load(self, state: NDArray[np.float64]) -> None:
        """Set positions and velocities as `env.set_init_state(state)` does."""
        self._arm.restart()
        self._domain.sim.set_state_from_flattened(state)
        self._domain.sim.forward()
        self.goal_predicates()
        self._domain._post_process()
        self._clock.restart()
        self._observe()

    def _observe(self) -> None:
        w, x, y, z = self.data.xquat[self._eef_body]
        self._robot_state[:3] = self.data.site_xpos[self._eef_site]
        self._robot_state[3:6] = axis_angle_from_quaternion(np.array([x, y, z, w]))
        self._robot_state[6:] = self.data.qpos[self._finger_qpos]
        self.snapshot.take(self.data)

    def _sample(self, seed: int) -> None:
        """Place fixtures and objects at random, as `env.seed(seed); env.reset()` does, without rebuilding the model."""
        from robosuite.utils.errors import RandomizationError

        domain = self._domain
        with _private_random_state(seed):
            while True:
                # What a rebuilt model has: fixtures at the origin, the gripper's command at zero.
                self.model.body_pos[self._fixture_bodies] = 0.0
                self.model.body_quat[self._fixture_bodies] = (1.0, 0.0, 0.0, 0.0)
                self._robot.gripper.current_action = np.zeros(self._robot.gripper.dof)
                domain.sim.reset()
                domain.sim.forward()  # when the simulation is created
                domain.sim.forward()  # when the render context is created
                try:
                    domain._reset_internal()
                except RandomizationError:  # objects did not fit: LIBERO draws again from the same stream
                    continue
                break
            domain.sim.forward()
            domain.visualize(vis_settings=dict.fromkeys(domain._visualizations, False))


def _arm_indices(robot: Any) -> ArmIndices:
    return ArmIndices(
        site=int(robot.eef_site_id),
        joint_positions=[int(address) for address in robot._ref_joint_pos_indexes],
        joint_velocities=[int(address) for address in robot._ref_joint_vel_indexes],
        joint_actuators=[int(index) for index in robot._ref_joint_actuator_indexes],
        finger_actuators=[int(index) for index in robot._ref_joint_gripper_actuator_indexes],
    )


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


class _private_random_state:
    """Seed numpy's global generator, which LIBERO and robosuite draw from, and put back the caller's state after."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._saved = np.random.get_state()  # noqa: NPY002
        np.random.seed(self._seed)  # noqa: NPY002

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self._saved)  # noqa: NPY002


def _build_domain(task: LiberoTask, installation: Installation) -> Any:
    """hf-libero's problem class for a task, without cameras and with resets that keep the model."""
    import_libero(installation)
    import robosuite
    from libero.libero.envs import bddl_utils
    from libero.libero.envs.bddl_base_domain import TASK_MAPPING

    try:
        problem = bddl_utils.get_problem_info(str(task.bddl_file))["problem_name"]
        domain: Any = TASK_MAPPING[problem](
            str(task.bddl_file),
            robots=["Panda"],
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=CONTROL_FREQUENCY,
            ignore_done=True,
            hard_reset=False,
        )
        return domain
    except Exception as error:  # parser, XML and MuJoCo errors of many types; all mean that the files do not fit
        raise EnvironmentRequestError(
            f"{task.suite} task {task.index} ({task.name}) cannot be built: {type(error).__name__}: {error}. "
            f"Check that the assets in {installation.assets} are complete and that {task.bddl_file} is unchanged."
        ) from error
