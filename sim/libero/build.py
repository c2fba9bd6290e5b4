"""Building a task with hf-libero and robosuite: its model, what `sim.libero` must know of it, and its initial states.

The only module that touches their objects. Once a task is built they are needed for drawing initial states, and for
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim.contract import EnvironmentRequestError, Split
from sim.core.robosuite_control import ArmIndices
from sim.embodiments import PANDA_EEF
from sim.libero.definition import SceneDefinition
from sim.libero.goals import ARITY, Flame, Predicate, Range, Thing
from sim.libero.installation import Installation, import_libero
from sim.libero.shared_model import SharedModel
from sim.libero.tasks import EVALUATION_SEED, NUM_INIT_STATES, InstalledTask, read_init_states, sampling_seed


class TaskBuilder:
    """One task as hf-libero builds it, with the initial states it stores and draws."""

    def __init__(self, task: InstalledTask, installation: Installation) -> None:
        """Build the task's model (a second or more). Raises `EnvironmentRequestError` when it cannot be built."""
        self.task = task
        with private_random_state(EVALUATION_SEED):
            self._domain = _build_domain(task, installation)
        # The official environment rebuilds its model at its first reset, and its list of samplers for joint positions
        # (open drawers) grows with each build. The extra draws shift all that follow in the random stream.
        self._domain.object_property_initializers *= 2
        self.model: mujoco.MjModel = self._domain.sim.model._model
        self.data: mujoco.MjData = self._domain.sim.data._data
        try:
            self.definition = _define(self._domain)
        except EnvironmentRequestError as error:
            raise EnvironmentRequestError(f"{task.bddl_file}: {error}") from error
        self.shared = SharedModel(self.model, self.definition.fixture_bodies)
        self._official_states: NDArray[np.float64] | None = None

    def official_states(self) -> NDArray[np.float64]:
        """The 50 evaluation states, float64 [50, 1 + nq + nv], read once."""
        if self._official_states is None:
            path = self.task.init_states_file
            states = read_init_states(path)
            width = 1 + self.model.nq + self.model.nv
            if states.shape[1] != width:
                raise EnvironmentRequestError(
                    f"{path} holds states of {states.shape[1]} numbers, but the scene has {width}; the assets or "
                    "hf-libero are of another version"
                )
            self._official_states = states
        return self._official_states

    def place(self, split: Split, index: int) -> NDArray[np.float64]:
        """Draw fixtures, and whatever else robosuite's reset draws; returns the state [1 + nq + nv] to load then.

        For "eval" the official one, fixtures as drawn by `env.seed(0); env.reset()`; for "train" what was drawn, which
        is never an official one.
        """
        if split == "eval":
            self.draw(EVALUATION_SEED)
            state: NDArray[np.float64] = self.official_states()[index]
            return state
        official_positions = self.official_states()[:, 1 : 1 + self.model.nq]
        for attempt in range(NUM_INIT_STATES):
            self.draw(sampling_seed(self.task, "train", index, attempt))
            if not (np.abs(official_positions - self.data.qpos).max(axis=1) < 1e-6).any():
                break
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def draw(self, seed: int) -> None:
        """Place fixtures and objects at random, as `env.seed(seed); env.reset()` does, without rebuilding the model."""
        from robosuite.utils.errors import RandomizationError

        domain = self._domain
        fixtures = list(self.definition.fixture_bodies)
        with private_random_state(seed):
            while True:
                # What a rebuilt model has: fixtures at the origin, the gripper's command at zero.
                self.model.body_pos[fixtures] = 0.0
                self.model.body_quat[fixtures] = (1.0, 0.0, 0.0, 0.0)
                domain.robots[0].gripper.current_action = np.zeros(domain.robots[0].gripper.dof)
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


class private_random_state:
    """Seed numpy's global generator, which LIBERO and robosuite draw from, and put back the caller's state after."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._saved = np.random.get_state()  # noqa: NPY002
        np.random.seed(self._seed)  # noqa: NPY002

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self._saved)  # noqa: NPY002


def _build_domain(task: InstalledTask, installation: Installation) -> Any:
    """hf-libero's problem class for a task, without cameras and with resets that keep the model."""
    import_libero(installation)
    from libero.libero.envs import bddl_utils
    from libero.libero.envs.bddl_base_domain import TASK_MAPPING

    path = task.bddl_file
    try:
        problem = bddl_utils.get_problem_info(str(path))["problem_name"]
        if problem not in TASK_MAPPING:
            raise EnvironmentRequestError(
                f"{path} is of the unknown kind {problem!r}; known: {', '.join(TASK_MAPPING)}"
            )
        domain: Any = TASK_MAPPING[problem](str(path), robots=["Panda"], **robosuite_options())
        if not domain.parsed_problem["goal_state"]:
            raise EnvironmentRequestError(f"{path} has no goal")
        return domain
    except EnvironmentRequestError:
        raise
    except Exception as error:  # parser, XML and MuJoCo errors of many types; all mean that the files do not fit
        raise EnvironmentRequestError(
            f"{task.suite} task {task.index} ({task.name}) cannot be built: {type(error).__name__}: {error}. "
            f"Check that the assets in {installation.assets} are complete and that {path} is unchanged."
        ) from error


def _define(domain: Any) -> SceneDefinition:
    return SceneDefinition(
        **define_robot(domain),
        bodies={str(name): int(body) for name, body in domain.obj_body_id.items()},
        fixture_bodies=tuple(int(domain.obj_body_id[name]) for name in domain.fixtures_dict),
        goal=tuple(_predicate(domain, *words) for words in domain.parsed_problem["goal_state"]),
        flames=tuple(
            flame for state in domain.tracking_object_states_change for flame in _flames(domain, state.object_name)
        ),
    )


def robosuite_options() -> dict[str, Any]:
    """How an environment of robosuite's is made here: nothing drawn, resets that keep the model, the arm at rest."""
    import robosuite

    return {
        "controller_configs": robosuite.load_controller_config(default_controller="OSC_POSE"),
        "initialization_noise": None,
        "use_camera_obs": False,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "control_freq": PANDA_EEF.control_frequency,
        "ignore_done": True,
        "hard_reset": False,
    }


def define_robot(domain: Any) -> dict[str, Any]:
    """What a `SceneDefinition` holds of the arm, from any environment of robosuite's."""
    robot = domain.robots[0]
    return {
        "arm": ArmIndices(
            site=int(robot.eef_site_id),
            joint_positions=[int(address) for address in robot._ref_joint_pos_indexes],
            joint_velocities=[int(address) for address in robot._ref_joint_vel_indexes],
            joint_actuators=[int(index) for index in robot._ref_joint_actuator_indexes],
            finger_actuators=[int(index) for index in robot._ref_joint_gripper_actuator_indexes],
        ),
        "end_effector_body": int(domain.sim.model.body_name2id(robot.robot_model.eef_name)),
        "fingers": tuple(int(address) for address in robot._ref_gripper_joint_pos_indexes),
        "substeps": int(domain.control_timestep / domain.model_timestep),
    }


_SWITCHES = {"open": "is_open", "close": "is_close", "turnon": "turn_on", "turnoff": "turn_off"}
"""Predicate -> the method of hf-libero's objects that judges a joint position."""


def _predicate(domain: Any, name: str, *things: str) -> Predicate:
    """One condition of the goal. Raises `EnvironmentRequestError` when it speaks of what is not there."""
    written = f"({' '.join([name, *things])})"
    if name not in ARITY:
        raise EnvironmentRequestError(f"the goal has the unknown predicate {written}; known: {', '.join(ARITY)}")
    if len(things) != ARITY[name]:
        raise EnvironmentRequestError(f"the goal has {written}, but {name} speaks of {ARITY[name]} things")
    known = domain.object_states_dict
    for thing in things:
        if thing not in known:
            raise EnvironmentRequestError(
                f"the goal {written} speaks of {thing!r}, which the scene has not; it has {', '.join(sorted(known))}"
            )
    predicate = Predicate(name, tuple(_thing(domain, thing, name in _SWITCHES) for thing in things))
    if name in _SWITCHES and name not in dict(predicate.things[0].ranges):
        raise EnvironmentRequestError(f"the goal {written} asks of {things[0]} what it cannot do: {name}")
    return predicate


def _thing(domain: Any, name: str, articulated: bool) -> Thing:
    """What a predicate asks of an object or region; joints only where it asks for them."""
    state = domain.object_states_dict[name]
    is_region = state.object_state_type == "site"
    shape = domain.object_sites_dict[name] if is_region else domain.get_object(name)
    owner = domain.get_object(state.parent_name) if is_region else shape
    ranges = tuple((switch, found) for switch in _SWITCHES if (found := _range(owner, switch)) is not None)
    joints = tuple(_joint_address(domain, joint) for joint in shape.joints) if articulated and ranges else ()
    return Thing(
        name=str(name),
        body=-1 if is_region else int(domain.obj_body_id[name]),
        site=int(domain.sim.model.site_name2id(name)) if is_region else -1,
        geoms=() if owner is None else tuple(domain.sim.model.geom_name2id(geom) for geom in owner.contact_geoms),
        region_of_object=is_region and owner is not None,
        has_top=is_region and hasattr(shape, "under"),
        size=tuple(float(value) for value in shape.size) if is_region else (),
        joints=joints,
        ranges=ranges if articulated else (),
    )


def _flames(domain: Any, name: str) -> list[Flame]:
    stove = domain.get_object(name)
    lit = _range(stove, "turnon")
    if lit is None:
        return []
    joints = tuple(_joint_address(domain, joint) for joint in stove.joints)
    sites = [site for site, _ in stove.object_properties["vis_site_names"].values()]
    return [Flame(int(domain.sim.model.site_name2id(site)), joints, lit) for site in sites]


def _joint_address(domain: Any, joint: str) -> int:
    return int(domain.sim.model.get_joint_qpos_addr(joint))


def _range(owner: Any, switch: str) -> Range | None:
    """The joint positions for which an object's method says yes; None for an object without it.

    hf-libero keeps the thresholds as data and the comparison as code, so the method is asked on both sides of each.
    """
    method: Callable[[float], bool] | None = getattr(owner, _SWITCHES[switch], None)
    if method is None:
        return None
    try:
        below, above = method(-math.inf), method(math.inf)
    except (NotImplementedError, ValueError):  # the base class, or a stove that is neither opened nor closed
        return None
    limits = owner.object_properties["articulation"]
    for threshold in sorted({float(value) for values in limits.values() for value in values}):
        sides = method(math.nextafter(threshold, -math.inf)), method(math.nextafter(threshold, math.inf))
        if sides == (below, above) and below != above:
            included = method(threshold)
            return Range(("<=" if included else "<") if below else (">=" if included else ">"), threshold)
    return None
